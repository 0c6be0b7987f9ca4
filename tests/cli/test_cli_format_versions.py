"""Stores, indexes and backups of other releases, damaged ones, and folders that are no store."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from neuromirror.store import Store
from neuromirror_demo import DemoArchive
from support.command_shell import Shell, folder_snapshot
from support.index_dump import dump_index

READS_STORE = [["list"], ["status"], ["sync", "--dry-run"]]
WRITES_STORE = [
    ["sync"],
    ["takedown", "demo:000001", "--reason", "x"],
    ["repair"],
    ["housekeeping"],
    ["rebuild-index"],
    ["backup", "{folder}/backup"],
    ["fsck"],
    ["release", "demo:000001"],
    ["pin", "demo:000002", "--output", "{folder}/datasets.lock"],
    ["catalogue", "--listen", "127.0.0.1:0"],
    ["serve", "--once"],
]


def refuses(shell: Shell, folder: Path, *commands: list[str]) -> Iterator[str]:
    """Run commands that must fail and not change the store; yield what they print on stderr."""
    before = folder_snapshot(shell.store)
    for command in commands:
        done = shell.run_any(*(part.format(folder=folder) for part in command))
        assert done.code in (1, 2), (done.out, done.err)
        assert "Traceback" not in done.err
        after = folder_snapshot(shell.store)
        after.pop("neuromirror/locks/service.lock", None)
        assert after == before
        assert not list(folder.glob("backup*")), done.err
        assert not list(folder.glob("datasets.lock*")), done.err
        yield done.err


# --- stores


@pytest.mark.parametrize(
    ("content", "expected"),
    [('{"format":99}\n', "format 99"), ('{"format":1}\n', "format 1"), ("{", "store.json")],
)
def test_a_store_of_another_format_is_not_changed(
    copied: Shell, tmp_path: Path, content: str, expected: str
) -> None:
    (copied.store / "neuromirror" / "store.json").write_text(content)
    for message in refuses(copied, tmp_path, *READS_STORE, *WRITES_STORE):
        assert expected in message


def test_a_folder_that_is_no_store_is_not_changed_and_a_missing_one_not_created(
    shared_demo: DemoArchive, tmp_path: Path
) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.txt").write_text("It was a dark and stormy night.\n")
    shell = Shell(shared_demo.mirrors, folder)
    file = shell.with_changes(store=folder / "chapter.txt")
    for command in (*READS_STORE, ["sync"], ["rebuild-index"]):
        assert "not a neuromirror store" in shell.run(*command, code=2).error_line
        assert "is a file, not a store" in file.run(*command, code=2).error_line
    assert [path.name for path in folder.iterdir()] == ["chapter.txt"]
    missing = shell.with_changes(store=tmp_path / "none")
    for command in (["list"], ["status"], ["rebuild-index"], ["find", "0" * 64], ["holds"]):
        line = missing.run(*command, code=2).error_line
        assert f"no store at {tmp_path}/none" in line
        assert "neuromirror sync" in line
    assert not missing.store.exists()


# --- indexes


@pytest.mark.parametrize("damage", ["deleted", "torn", "no database", "corrupt"])
def test_a_damaged_index_is_reported_with_a_remedy_that_gives_the_same_answers_back(
    copied: Shell, tmp_path: Path, damage: str
) -> None:
    index = Store.open(copied.store).index_path
    before, content = dump_index(index), index.read_bytes()
    damaged = {
        "deleted": None,
        "torn": content[:8192],
        "no database": b"\0garbage" * 4096,
        "corrupt": content[:16] + b"\xff" * 9000,
    }[damage]
    if damaged is None:
        index.unlink()  # a sync rebuilds it
    else:
        index.write_bytes(damaged)
        (message,) = refuses(copied, tmp_path, ["sync"])
        assert "neuromirror rebuild-index" in message
    message = copied.run("list", code=1).error_line
    assert "neuromirror rebuild-index" in message
    assert str(index) in message
    (record,) = copied.records("rebuild-index")
    assert record["path"] == str(index)
    assert dump_index(index) == before


def test_a_database_of_another_program_is_no_index(synced: Shell, tmp_path: Path) -> None:
    other = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(other)) as connection, connection:
        connection.execute("CREATE TABLE thesis (chapter TEXT)")
    before = other.read_bytes()
    for command in (["list"], ["sync"]):
        line = synced.run(*command, "--index", str(other), code=1).error_line
        assert "not an index of neuromirror" in line
        assert "--index" in line
    assert "no index at" in synced.run("list", "--index", f"{other}.not", code=1).error_line
    assert other.read_bytes() == before


# --- schedules and backups


def test_a_backup_of_another_release(copied: Shell, tmp_path: Path) -> None:
    folder = tmp_path / "copies"
    copied.run("backup", str(folder))
    (metadata_file,) = folder.glob("*/backup.json")
    metadata = metadata_file.read_text()
    for found in (0, 2, 99):
        metadata_file.write_text(metadata.replace('"format": 1', f'"format": {found}'))
        before = folder_snapshot(folder)
        (message,) = refuses(copied, tmp_path, ["restore-index", str(folder)])
        assert f"format {found}" in message
        assert folder_snapshot(folder) == before
