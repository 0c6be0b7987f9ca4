"""The program as a process: pipes, terminals, signals, concurrency, full disks."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import pty
import resource
import signal
import sqlite3
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from neuromirror_demo import DemoArchive
from neuromirror_demo.faults import Fault
from support.command_shell import (
    CommandResult,
    Shell,
    api_mirror_settings,
    folder_snapshot,
    write_mirror_file,
)

ODD = "Bad \x1b[31mtitle\nof “ünï 漢字” \u202e\u2028\x85 and \\ \" ' <b>"


def refs(shell: Shell) -> dict[str, str]:
    """Return the refs of all datasets of the store, after git fsck.

    Without superdatasets, which have a commit for every observed state of the mirror.
    """
    found = {}
    for link in sorted((shell.store / "alias").glob("*--*")):
        listed = subprocess.run(
            ["git", "-C", str(link), "for-each-ref", "--format=%(refname) %(objectname)"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        found.update({f"{link.name} {line}": "" for line in listed.splitlines()})
        checked = subprocess.run(
            ["git", "-C", str(link), "fsck", "--strict"], capture_output=True, text=True, check=True
        )
        assert checked.stdout + checked.stderr == ""
    return found


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


def without_root_privileges() -> None:
    """Drop the privileges of root, so that file permissions apply; a preexec function."""
    if os.geteuid() == 0:
        drop_from_bounding_set, dac_override, dac_read_search = 24, 1, 2
        for capability in (dac_override, dac_read_search):
            ctypes.CDLL(None).prctl(drop_from_bounding_set, capability, 0, 0, 0)


def limit_file_size(size: int) -> None:
    """Limit the size of files in bytes; a preexec function."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


# --- output


@pytest.mark.parametrize("command", [["list"], ["--json", "list"], ["files", "demo:000001"]])
def test_a_closed_pipe_ends_the_program_silently(synced: Shell, command: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = synced.program(*command, code=1, stdout=writing)
    finally:
        os.close(writing)
    assert ended.err == ""


def test_the_first_line_can_be_taken_by_head(synced: Shell) -> None:
    with synced.start("list") as process:
        taken = subprocess.run(
            ["head", "-1"], stdin=process.stdout, capture_output=True, text=True, check=True
        )
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert taken.stdout.startswith("DATASET ")


def test_without_a_terminal_there_is_no_progress(shell: Shell) -> None:
    ended = shell.program("sync")
    assert ended.err == ""
    assert "\r" not in ended.out
    assert len(ended.lines) == 7
    assert shell.program("rebuild-index").err == ""


def test_progress_is_shown_on_a_terminal_and_never_on_stdout(shell: Shell) -> None:
    with terminal() as (theirs, shown):
        ended = shell.program("--json", "sync", stderr=theirs)
    assert len([json.loads(line) for line in ended.lines]) == 7
    assert b"syncing 7/7 datasets" in b"".join(shown)
    assert b"syncing 0/? datasets" in b"".join(shown)


def test_a_long_title_is_cut_on_a_terminal_and_nowhere_else(synced: Shell) -> None:
    with terminal() as (theirs, shown):
        synced.program("list", stdout=theirs)
    lines = b"".join(shown).decode().splitlines()
    assert max(len(line) for line in lines) == 80
    assert any(line.endswith("…") for line in lines)
    assert not any(line.endswith("…") for line in synced.program("list").lines)


def test_odd_characters_break_neither_lines_nor_terminals(shell: Shell, demo: DemoArchive) -> None:
    path = "sub-1/ünï \u202e漢字 'q' \"$(x)\".txt"
    demo.set_metadata("000003", title=ODD)
    demo.add_file("000003", path, "odd\n")
    shell.run("sync", "demo:000003")
    for encoding in ("utf-8", "ascii", "latin-1"):
        odd = shell.with_changes(variables={"PYTHONIOENCODING": encoding})
        (listed,) = (json.loads(line) for line in odd.program("--json", "list").lines)
        assert listed["title"] == ODD
        files = [json.loads(line) for line in odd.program("--json", "files", "demo:000003").lines]
        assert path in [one["path"] for one in files]
        for command in (["list"], ["files", "demo:000003"], ["show", "demo:000003"]):
            lines = odd.program(*command).out.split("\n")
            assert all(line.isprintable() for line in lines)
        assert len(odd.program("list").lines) == 2


# --- signals and concurrency


@contextmanager
def hanging(
    shell: Shell, demo: DemoArchive, path: str, *arguments: str
) -> Iterator[tuple[subprocess.Popen[str], Fault]]:
    """A command that waits for a reply until the fault is cleared."""
    fault = demo.fault("hang", path=path, seconds=3600, times=1)
    with shell.start(*arguments) as process:
        try:
            while not fault.struck and process.poll() is None:
                time.sleep(0.01)
            yield process, fault
        finally:
            fault.clear()


def test_ctrl_c_ends_a_sync_at_once_and_nothing_is_lost(
    shell: Shell, demo: DemoArchive, tmp_path: Path
) -> None:
    with hanging(shell, demo, "/000002/versions/", "sync") as (process, fault):
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=600)
        assert not fault.finished.is_set()
    assert process.returncode == 130
    (line,) = err.splitlines()
    assert "demo:000002" in line
    assert "Traceback" not in out
    refs(shell)
    shell.run("sync")
    undisturbed = shell.with_changes(store=tmp_path / "undisturbed")
    undisturbed.run("sync")
    assert refs(shell) == refs(undisturbed)
    assert "demo:000002" in shell.run("list").out


@pytest.mark.parametrize("arguments", [["sync"], ["sync", "--dry-run"]], ids=" ".join)
def test_ctrl_c_during_the_listing(shell: Shell, demo: DemoArchive, arguments: list[str]) -> None:
    with hanging(shell, demo, "/dandisets/$", *arguments) as (process, _):
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=600)
    assert (process.returncode, out) == (130, "")
    assert err.startswith("neuromirror: interrupted")
    assert len(err.splitlines()) == 1


def test_a_second_sync_of_one_dataset_says_that_it_is_in_use(
    shell: Shell, demo: DemoArchive
) -> None:
    with hanging(shell, demo, r"/000002/versions/0\.", "sync", "demo:000002") as (first, fault):
        line = shell.run("sync", "demo:000002", code=1).error_line
        assert line.startswith("error      demo:000002  ")
        assert "in use by another neuromirror process; try again" in line
        assert "ok         demo:000001" in shell.run("sync", "demo:000001").out
        fault.clear()
        ended = CommandResult.from_output(0, *first.communicate(timeout=600))
    assert (first.returncode, ended.err) == (0, "")
    assert "ok         demo:000002" in ended.out
    shell.run("sync")
    assert {one["status"] for one in shell.records("sync")} == {"notneeded"}
    refs(shell)


# --- disks


@pytest.mark.parametrize("size", [2000, 30_000, 200_000])
def test_files_that_cannot_grow_stop_a_sync_without_harm(
    synced: Shell, tmp_path: Path, size: int
) -> None:
    shell = synced.with_changes(store=tmp_path / "store")
    with shell.start("sync", preexec_fn=partial(limit_file_size, size)) as process:
        out, err = process.communicate(timeout=600)
    assert process.returncode == 1, (out, err)
    assert "Traceback" not in err
    assert all(
        line.startswith(("neuromirror: ", "error      demo:00000")) for line in err.splitlines()
    )
    shell.run("sync")
    assert refs(shell) == refs(synced)


def test_a_store_that_cannot_be_written_is_read_all_the_same(copied: Shell, tmp_path: Path) -> None:
    listed = copied.run("list").out
    paths = [copied.store, *copied.store.rglob("*")]
    for path in paths:
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & ~0o222)
    try:
        before = folder_snapshot(copied.store)
        person = {"preexec_fn": without_root_privileges}
        assert copied.program("list", **person).out == listed
        assert copied.program("show", "demo:000002", **person).lines
        for command in (["sync"], ["rebuild-index"], ["release", "ff"]):
            line = copied.program(*command, code=1, **person).error_line
            assert "ermission" in line
            assert str(copied.store) in line
        assert folder_snapshot(copied.store) == before
    finally:
        for path in paths:
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | 0o200)


def test_a_folder_in_which_nothing_can_be_made_is_named(synced: Shell, tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    person = {"preexec_fn": without_root_privileges}
    line = synced.with_changes(store=folder / "store").program("sync", code=1, **person).error_line
    assert f"{folder}/store" in line
    assert "Permission denied" in line
    assert "--store" in line


def test_mirror_files_that_may_not_be_read_are_named(tmp_path: Path) -> None:
    folder = write_mirror_file(
        tmp_path / "mirrors", "secret", api_mirror_settings("https://example.org/api")
    )
    (folder / "secret.toml").chmod(0)
    shell = Shell(folder, tmp_path / "store")
    person = {"preexec_fn": without_root_privileges}
    line = shell.program("sync", code=2, **person).error_line
    assert line.endswith("secret.toml: cannot be read: Permission denied")
    folder.chmod(0)
    try:
        assert "cannot be read" in shell.program("check-config", code=2, **person).error_line
    finally:
        folder.chmod(0o755)


# --- invalid stores and indexes


COMMANDS = [["sync"], ["sync", "--dry-run"], ["list"], ["status"], ["rebuild-index"]]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_folder_that_is_no_store_is_not_changed(
    shared_demo: DemoArchive, tmp_path: Path, command: list[str]
) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.txt").write_text("It was a dark and stormy night.\n")
    shell = Shell(shared_demo.mirrors, folder)
    assert "not a neuromirror store" in shell.run(*command, code=2).error_line
    assert [path.name for path in folder.iterdir()] == ["chapter.txt"]
    file = shell.with_changes(store=folder / "chapter.txt")
    assert "is a file, not a store" in file.run(*command, code=2).error_line


@pytest.mark.parametrize("command", [*COMMANDS[2:], ["find", "0" * 64], ["holds"]], ids=" ".join)
def test_a_missing_store_is_reported_and_not_created(
    shared_demo: DemoArchive, tmp_path: Path, command: list[str]
) -> None:
    shell = Shell(shared_demo.mirrors, tmp_path / "none")
    line = shell.run(*command, code=2).error_line
    assert f"no store at {tmp_path}/none" in line
    assert "neuromirror sync" in line
    assert not shell.store.exists()


@pytest.mark.parametrize(
    ("content", "expected"), [('{"format":99}', "format 99"), ("{", "cannot be read")]
)
def test_a_store_of_another_format_is_not_changed(
    copied: Shell, content: str, expected: str
) -> None:
    (copied.store / "neuromirror" / "store.json").write_text(content)
    before = folder_snapshot(copied.store)
    for command in COMMANDS:
        line = copied.run(*command, code=2).error_line
        assert expected in line
        assert str(copied.store) in line
        assert folder_snapshot(copied.store) == before


@pytest.mark.parametrize("command", [["sync"], ["sync", "--dry-run"], ["list"]], ids=" ".join)
def test_an_index_of_a_newer_release_is_reported_with_a_remedy(
    copied: Shell, command: list[str]
) -> None:
    index = copied.store / "neuromirror" / "index.sqlite"
    with sqlite3.connect(index) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    line = copied.run(*command, code=1).error_line
    assert "schema 99" in line
    assert "neuromirror rebuild-index" in line
    copied.run("rebuild-index")
    copied.run(*command)


@pytest.mark.parametrize("command", [["sync"], ["sync", "--dry-run"], ["list"]], ids=" ".join)
def test_a_corrupt_index_is_reported_with_a_remedy(copied: Shell, command: list[str]) -> None:
    index = copied.store / "neuromirror" / "index.sqlite"
    index.write_bytes(b"SQLite format 3\0" + b"\xff" * 9000)
    line = copied.run(*command, code=1).error_line
    assert "corrupt" in line
    assert "neuromirror rebuild-index" in line
    assert copied.run("rebuild-index").lines


def test_a_database_of_another_program_is_no_index(synced: Shell, tmp_path: Path) -> None:
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE thesis (chapter TEXT)")
    connection.close()
    before = other.read_bytes()
    for command in (["list"], ["sync"]):
        line = synced.run(*command, "--index", str(other), code=1).error_line
        assert "not an index of neuromirror" in line
        assert "--index" in line
    assert "no index at" in synced.run("list", "--index", f"{other}.not", code=1).error_line
    assert other.read_bytes() == before


def test_without_git_a_sync_says_so(shell: Shell, tmp_path: Path) -> None:
    ended = shell.program("sync", "demo:000001", code=1, env={"PATH": str(tmp_path)})
    assert "git is not on PATH" in ended.error_line
    # the remaining work is done at the next run
    shell.program("sync", "demo:000001")
    assert (shell.store / "alias" / "neuromirror").exists()
    [found] = shell.records("search", "hippocampus")
    assert found["dataset"]["name"] == "demo:000001"
