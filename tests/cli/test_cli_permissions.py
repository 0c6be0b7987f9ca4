"""A store that its user cannot fully read or write, with a real unprivileged user."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from test_cli_process import without_root_privileges

from neuromirror_demo import DemoArchive
from support.command_shell import Shell

UNPRIVILEGED = {"preexec_fn": without_root_privileges}
DATASET = "demo:000002"


def repository(shell: Shell) -> Path:
    return (shell.store / "alias" / DATASET.replace(":", "--")).resolve()


def refs(shell: Shell) -> dict[str, str]:
    """Return the content of the files of all refs."""
    return {
        str(path.relative_to(shell.store)): path.read_text()
        for name in ("HEAD", "packed-refs")
        for path in sorted(shell.store.rglob(name))
    }


CLOSED = {
    "index": (lambda shell: shell.store / "neuromirror" / "index.sqlite", 0),
    "journal": (lambda shell: shell.store / "neuromirror" / "journal.jsonl", 0o444),
    "journal unreadable": (lambda shell: shell.store / "neuromirror" / "journal.jsonl", 0),
    "locks": (lambda shell: shell.store / "neuromirror" / "locks", 0o555),
    "scratch": (lambda shell: shell.store / "neuromirror" / "tmp", 0o555),
    "repository": (repository, 0o555),
    "repository unreadable": (repository, 0),
}


@pytest.fixture
def own(shell: Shell, demo: DemoArchive) -> Shell:
    """A writable store of an archive in which a dandiset has changed since."""
    shell.run("sync")
    demo.add_file("000002", "new.txt", "new\n")
    for lock in (shell.store / "neuromirror" / "locks").iterdir():
        lock.unlink()
    return shell


@pytest.mark.parametrize("what", CLOSED)
def test_a_permission_error_is_named_once_and_nothing_is_lost(
    own: Shell, tmp_path: Path, what: str
) -> None:
    undisturbed = own.with_changes(store=tmp_path / "undisturbed")
    shutil.copytree(own.store, undisturbed.store, symlinks=True)
    undisturbed.run("sync")
    of, mode = CLOSED[what]
    path = of(own)
    before = path.stat().st_mode
    path.chmod(mode)
    try:
        ran = own.program("sync", code=1, **UNPRIVILEGED)
    finally:
        path.chmod(before)
    lines = [line for line in (ran.out + ran.err).splitlines() if str(path) in line]
    # at most the dataset and its superdataset
    assert 0 < len(lines) == len({line.split(":")[-1] for line in lines}) <= 2
    assert "Traceback" not in ran.out + ran.err
    own.program("sync", **UNPRIVILEGED)
    assert refs(own) == refs(undisturbed)
    own.run("status")
    own.run("fsck")


def test_a_repository_that_may_not_be_read_is_named_and_the_others_are_checked(
    own: Shell,
) -> None:
    closed = repository(own)
    closed.chmod(0)
    try:
        ran = own.program("--json", "fsck", code=1, **UNPRIVILEGED)
    finally:
        closed.chmod(0o755)
    (line,) = [one for one in ran.lines if '"status": "error"' in one]
    assert DATASET in line
    assert str(closed) in line
    assert any('"status": "ok"' in one and "demo:000003" in one for one in ran.lines)


@pytest.mark.parametrize("what", ["journal", "locks"])
def test_status_shows_a_store_that_may_not_be_written(own: Shell, what: str) -> None:
    own.run("sync")
    folder = own.store / "neuromirror"
    path = {"journal": folder / "journal.jsonl", "locks": folder / "locks"}[what]
    before = path.stat().st_mode
    path.chmod(0o444 if path.is_file() else 0o555)
    try:
        ran = own.program("--json", "status", code=1, **UNPRIVILEGED)
    finally:
        path.chmod(before)
    (line,) = [one for one in ran.lines if '"status": "error"' in one]
    assert str(path) in line
    own.program("status", code=0, **UNPRIVILEGED)


def test_a_journal_that_may_not_be_written_is_named_by_doctor(own: Shell) -> None:
    journal = own.store / "neuromirror" / "journal.jsonl"
    journal.chmod(0o444)
    try:
        ran = own.program("--json", "doctor", code=1, **UNPRIVILEGED)
    finally:
        journal.chmod(0o644)
    (line,) = [one for one in ran.lines if '"status": "error"' in one]
    assert str(journal) in line
