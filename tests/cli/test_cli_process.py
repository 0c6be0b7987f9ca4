"""Processes of the command line: signals, pipes, core dumps, progress, the summary of requests."""

import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from neuromirror.cli.common import ProgressLine, format_traffic
from neuromirror.model import Traffic
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
        assert path in [record["path"] for record in odd.records("files", "demo:000003")]
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


LIMIT = "resource.getrlimit(resource.RLIMIT_CORE)[0]"
RAISED = (
    "import io, resource, sys; "
    "resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2); "
)


@pytest.mark.parametrize(
    "program",
    [
        "from neuromirror.cli import main; main(['list'], standalone_mode=False)",
        "sys.stdin = io.StringIO(''); from neuromirror.volume.remote import main; main()",
    ],
    ids=["neuromirror", "git-annex-remote-neuromirror"],
)
def test_no_core_dump_is_written(program: str, tmp_path: Path) -> None:
    code = (
        f"{RAISED}\ntry:\n    {program}\nexcept BaseException:\n    pass\nprint('limit', {LIMIT})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "limit 0"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stderr", [Terminal(), io.StringIO()])
def test_a_line_shows_steps_and_bytes_and_is_removed(
    stderr: io.StringIO, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", stderr)
    with ProgressLine() as line:
        line.show("mirroring demo:000002")
        line.show("cloning demo:000002")
        line.show_bytes(0, 1000)
        line.show_bytes(500, 1000)
        with line.paused():
            sys.stdout.write("a result\n")
        line.show("another step")
    assert capsys.readouterr().out == "a result\n"
    if not stderr.isatty():
        assert stderr.getvalue() == ""
        return
    written = stderr.getvalue()
    assert "\n" not in written
    shown = [written.index(text) for text in ("mirroring", "cloning", "500/1.00k", "another")]
    assert shown == sorted(shown)
    assert written.rsplit("\r", 1)[1].strip() == ""


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_a_sync_prints_a_request_summary_at_the_end(
    shell: Shell, demo: DemoArchive, options: list[str]
) -> None:
    demo.clear_requests()
    ended = shell.run(*options, "sync", "demo:000002", "demo:000003")
    requests = len(demo.requests) + len(demo.s3_requests)
    (line,) = ended.traffic_lines
    assert line.startswith(f"neuromirror: demo: {requests} requests, ")
    for url, log in ((demo.api_url, demo.requests), (demo.s3_url, demo.s3_requests)):
        assert f"{urlsplit(url).netloc} {len(log)}" in line
    assert ended.err == ""
    quiet = shell.run(*options, "sync", "--quiet", "--deep", "demo:000003")
    assert (quiet.traffic_lines, quiet.err) == ((), "")
    assert shell.run(*options, "sync", "unknown", code=2).traffic_lines == ()
    demo.fault("status", path="/000003/versions/", status=404)
    failed = shell.run(*options, "sync", "--deep", "demo:000003", code=1)
    assert len(failed.traffic_lines) == 1
    assert failed.error_line.startswith("error      demo:000003")


def test_throttling_by_the_archive_is_reported(shell: Shell, demo: DemoArchive) -> None:
    demo.fault("status", path="/000003/versions/$", status=429, times=1)
    (line,) = shell.run("sync", "demo:000003").traffic_lines
    assert re.search(r" 1 retried after \d+ s of waiting, throttled once \(", line)
    shown = shell.run("show", "demo:000003").out
    assert "throttled once" in shown


def test_many_hosts_are_not_all_named() -> None:
    hosts = {f"{number}.example": Traffic(requests=number, bytes=1) for number in range(1, 9)}
    text = format_traffic(hosts)
    assert text == (
        "36 requests, 8 B received (8.example 8, 7.example 7, 6.example 6, 5.example 5, "
        "4.example 4, 3 more hosts)"
    )
    assert format_traffic({"a": Traffic(1, 2500)}) == "1 request, 2.5 kB received (a 1)"
