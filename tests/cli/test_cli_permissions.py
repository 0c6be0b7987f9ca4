"""A store that its user cannot fully read or write, with a real unprivileged user."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.command_shell import UNPRIVILEGED, Shell, folder_snapshot
from support.mirror_harness import MirrorHarness
from support.synced_mirror import copy_mirror, serve_few_dandisets, sync_mirror

DATASET = "demo:000002"
CLOSED = {
    "index": ("neuromirror/index.sqlite", 0),
    "journal": ("neuromirror/journal.jsonl", 0o444),
    "journal unreadable": ("neuromirror/journal.jsonl", 0),
    "locks": ("neuromirror/locks", 0o555),
    "scratch": ("neuromirror/tmp", 0o555),
    "repository": ("alias/demo--000002", 0o555),
    "repository unreadable": ("alias/demo--000002", 0),
}


def refs(shell: Shell) -> dict[str, str]:
    """Return the content of the files of all refs."""
    return {
        str(path.relative_to(shell.store)): path.read_text()
        for name in ("HEAD", "packed-refs")
        for path in sorted(shell.store.rglob(name))
    }


@contextmanager
def closed(shell: Shell, name: str, mode: int) -> Iterator[Path]:
    """Change the permissions of a file or folder of the store during the block."""
    path = (shell.store / name).resolve()
    before = path.stat().st_mode
    path.chmod(mode)
    try:
        yield path
    finally:
        path.chmod(before)


@pytest.fixture(scope="module")
def prepared(
    tmp_path_factory: pytest.TempPathFactory, demo_files: Path
) -> Iterator[tuple[MirrorHarness, MirrorHarness]]:
    """A store of an archive in which a dandiset has changed since, and the same one after that."""
    folder = tmp_path_factory.mktemp("permissions")
    with serve_few_dandisets(folder, demo_files, "000002", "000003") as demo:
        before = sync_mirror(demo, folder)
        demo.add_file("000002", "new.txt", "new\n")
        after = copy_mirror(before, folder / "after")
        after.sync()
        yield before, after


@pytest.fixture
def own(prepared: tuple[MirrorHarness, MirrorHarness], tmp_path: Path) -> Shell:
    """A writable copy of the store, without locks of other processes."""
    before, _ = prepared
    shell = Shell(before.mirrors, copy_mirror(before, tmp_path / "own").folder)
    for lock in (shell.store / "neuromirror" / "locks").iterdir():
        lock.unlink()
    return shell


@pytest.mark.parametrize("what", CLOSED)
def test_a_permission_error_is_named_once_and_nothing_is_lost(
    own: Shell, prepared: tuple[MirrorHarness, MirrorHarness], what: str
) -> None:
    with closed(own, *CLOSED[what]) as path:
        ran = own.program("sync", code=1, **UNPRIVILEGED)
    lines = [line for line in (ran.out + ran.err).splitlines() if str(path) in line]
    # at most the dataset and its superdataset
    assert 0 < len(lines) == len({line.split(":")[-1] for line in lines}) <= 2
    assert "Traceback" not in ran.out + ran.err
    own.run("sync")
    assert refs(own) == refs(own.with_changes(store=prepared[1].folder))
    own.run("status")
    own.run("fsck", DATASET)


def test_a_repository_that_may_not_be_read_is_named_and_the_others_are_checked(own: Shell) -> None:
    with closed(own, *CLOSED["repository unreadable"]) as path:
        ran = own.program("--json", "fsck", DATASET, "demo:000003", code=1, **UNPRIVILEGED)
    (line,) = [one for one in ran.lines if '"status": "error"' in one]
    assert DATASET in line
    assert str(path) in line
    assert any('"status": "ok"' in one and "demo:000003" in one for one in ran.lines)


@pytest.mark.parametrize("what", ["journal", "locks"])
def test_status_shows_a_store_that_may_not_be_written(own: Shell, what: str) -> None:
    with closed(own, *CLOSED[what]) as path:
        ran = own.program("--json", "status", code=1, **UNPRIVILEGED)
    (line,) = [one for one in ran.lines if '"status": "error"' in one]
    assert str(path) in line
    own.program("status", code=0, **UNPRIVILEGED)


def test_a_store_that_cannot_be_written_is_read_all_the_same(copied: Shell) -> None:
    listed = copied.run("list").out
    paths = [copied.store, *copied.store.rglob("*")]
    for path in paths:
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & ~0o222)
    try:
        before = folder_snapshot(copied.store)
        assert copied.program("list", **UNPRIVILEGED).out == listed
        assert copied.program("show", DATASET, **UNPRIVILEGED).lines
        for command in (["sync"], ["rebuild-index"], ["release", "ff"]):
            line = copied.program(*command, code=1, **UNPRIVILEGED).error_line
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
    new = synced.with_changes(store=folder / "store")
    line = new.program("sync", code=1, **UNPRIVILEGED).error_line
    assert f"{folder}/store" in line
    assert "Permission denied" in line
    assert "--store" in line


def test_mirror_files_that_may_not_be_read_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "mirrors"
    folder.mkdir()
    (folder / "secret.toml").touch(mode=0)
    shell = Shell(folder, tmp_path / "store")
    line = shell.program("sync", code=2, **UNPRIVILEGED).error_line
    assert line.endswith("secret.toml: cannot be read: Permission denied")
    with closed(shell.with_changes(store=tmp_path), "mirrors", 0):
        assert "cannot be read" in shell.program("check-config", code=2, **UNPRIVILEGED).error_line
