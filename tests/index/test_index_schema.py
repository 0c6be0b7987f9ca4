"""The tables are created in one step, and an index of another schema version is refused."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from neuromirror.index import (
    Index,
    IndexDamagedError,
    IndexUnusableError,
    Schedule,
    rebuild_from_journal,
    schedule,
    schema,
)
from support.disk_journal import DiskJournal, placed_file
from support.index_dump import dump_index

OTHER_VERSIONS = (schema.SCHEMA - 1, schema.SCHEMA + 1)


def _set_version(path: Path, version: int) -> None:
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()


def test_new_index_has_strict_tables_and_the_current_version(path: Path) -> None:
    Index.open(path).close()
    database = sqlite3.connect(path)
    strict = {
        name: bool(is_strict)
        for _, name, kind, _, _, is_strict in database.execute("PRAGMA main.table_list")
        if kind == "table" and not name.startswith("sqlite_")
    }
    assert strict.keys() >= {"datasets", "versions", "files", "subdatasets"}
    assert all(strict.values())
    assert database.execute("PRAGMA user_version").fetchone() == (schema.SCHEMA,)
    assert database.execute("PRAGMA foreign_key_check").fetchall() == []
    database.close()


@pytest.mark.parametrize("version", OTHER_VERSIONS)
def test_index_of_another_version_is_refused_and_unchanged(path: Path, version: int) -> None:
    Index.open(path).close()
    _set_version(path, version)
    before = path.read_bytes()
    for opened in (Index.open, Index.open_readonly):
        with pytest.raises(
            IndexUnusableError, match=rf"\b{version}\b.*`neuromirror rebuild-index`"
        ):
            opened(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("version", OTHER_VERSIONS)
def test_rebuild_replaces_an_index_of_another_version(
    journal: DiskJournal, path: Path, version: int
) -> None:
    journal.mint([placed_file("a", 1)])
    with Index.open(path) as index:
        index.catch_up(journal)
        expected = dump_index(index)
    _set_version(path, version)
    assert rebuild_from_journal(path, journal) == 1
    with Index.open(path) as index:
        assert dump_index(index) == expected


def test_failed_creation_leaves_an_empty_file_for_the_next_attempt(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(schema, "_FILES", f"{schema._FILES} CREATE TABLE files (x);")
        with pytest.raises(IndexDamagedError):
            Index.open(path)
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    connection.close()
    with pytest.raises(IndexUnusableError):
        Index.open_readonly(path)
    with Index.open(path) as index:
        assert index.position == 0


def test_schedule_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "schedule.sqlite"
    Schedule.open(path).close()
    for version in (schedule.SCHEMA - 1, schedule.SCHEMA + 1):
        _set_version(path, version)
        with pytest.raises(IndexUnusableError, match=rf"\b{version}\b"):
            Schedule.open(path)
