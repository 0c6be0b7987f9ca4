"""The program as a process: pipes, terminals, encodings."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from neuromirror_demo import DemoArchive
from support.command_shell import Shell

ODD = "Bad \x1b[31mtitle\nof “ünï 漢字” \u202e\u2028\x85 and \\ \" ' <b>"


@contextmanager
def terminal() -> Iterator[tuple[int, list[bytes]]]:
    """A terminal of 24 lines and 80 columns, and its output."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    shown: list[bytes] = []

    def read() -> None:
        try:
            while data := os.read(ours, 4096):
                shown.append(data)
        except OSError:
            # Linux raises EIO when the other end is closed
            return

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield theirs, shown
    finally:
        os.close(theirs)
        reader.join()
        os.close(ours)


@pytest.mark.parametrize("command", [["list"], ["--json", "list"], ["files", "demo:000001"]])
def test_a_closed_pipe_ends_the_program_silently(synced: Shell, command: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = synced.program(*command, code=1, stdout=writing)
    finally:
        os.close(writing)
    assert ended.err == ""


def test_progress_is_shown_on_a_terminal_only_and_never_on_stdout(copied: Shell) -> None:
    with terminal() as (theirs, shown):
        ended = copied.program("--json", "sync", stderr=theirs)
    assert len([json.loads(line) for line in ended.lines]) == 7
    assert b"syncing 7/7 datasets" in b"".join(shown)
    assert b"syncing 0/? datasets" in b"".join(shown)
    for command in ("sync", "rebuild-index"):
        ended = copied.program(command)
        assert (ended.err, "\r" in ended.out) == ("", False)


def test_odd_characters_break_neither_lines_nor_terminals(shell: Shell, demo: DemoArchive) -> None:
    path = "sub-1/ünï \u202e漢字 'q' \"$(x)\".txt"
    demo.set_metadata("000003", title=ODD)
    demo.add_file("000003", path, "odd\n")
    shell.run("sync", "demo:000003")
    for encoding in ("utf-8", "ascii", "latin-1"):
        odd = shell.with_changes(encoding=encoding)
        (listed,) = odd.records("list")
        assert listed["title"] == ODD
        assert path in [one["path"] for one in odd.records("files", "demo:000003")]
        for command in (["list"], ["files", "demo:000003"], ["show", "demo:000003"]):
            lines = odd.run(*command).out.split("\n")
            assert all(line.isprintable() for line in lines)
        assert len(odd.run("list").lines) == 2


def test_a_sync_needs_no_git_and_fsck_reports_that_git_is_missing(
    shell: Shell, tmp_path: Path
) -> None:
    without_git = {"PATH": str(tmp_path)}
    shell.program("sync", "demo:000001", env=without_git)
    assert (shell.store / "alias" / "neuromirror").exists()
    [found] = shell.records("search", "hippocampus")
    assert found["dataset"]["name"] == "demo:000001"
    ended = shell.program("fsck", code=1, env=without_git)
    assert "git is not on PATH" in ended.error_line
    shell.run("fsck")
