"""An index of an older release is brought up to date where it is."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

from neuromirror.index import (
    Index,
    IndexDamagedError,
    IndexUnusableError,
    rebuild_from_journal,
    schema,
)
from neuromirror.model import Traffic
from support.disk_journal import DiskJournal, placed_file, read_path_terms

_FOLDER = Path(__file__).parent
"""Has a journal, its records, and the index that the last code of a schema made of them, by it."""


@pytest.fixture(params=[1, 2, 3, 4, 5])
def number(request: pytest.FixtureRequest) -> int:
    found: int = request.param
    return found


@pytest.fixture
def old_journal(tmp_path: Path, number: int) -> DiskJournal:
    shutil.copytree(_FOLDER / f"schema_{number}", tmp_path / "old")
    return DiskJournal(tmp_path / "old")


@pytest.fixture
def old_index(old_journal: DiskJournal, number: int) -> Path:
    path = old_journal.root / "index.sqlite"
    path.write_bytes(zstandard.decompress((old_journal.root / "index.sqlite.zst").read_bytes()))
    assert _schema(path) == number
    return path


def _schema(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])
    finally:
        connection.close()


def _tables(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    try:
        return [str(sql) for (sql,) in connection.execute("SELECT sql FROM sqlite_master")]
    finally:
        connection.close()


def _dump(path: Path) -> list[str]:
    with Index.open_readonly(path) as index:
        return [*index.dump(), *read_path_terms(path)]


def test_upgraded_index_equals_a_rebuilt_one(
    old_journal: DiskJournal, old_index: Path, path: Path
) -> None:
    rebuild_from_journal(path, old_journal)
    with Index.open(old_index) as index:
        assert index.position == old_journal.file.stat().st_size
        assert index.catch_up(old_journal) == 0
        assert [row.name for row in index.search("cc0 visual")] == ["dandi:000002"]
    assert _schema(old_index) == schema.SCHEMA
    assert _dump(old_index) == _dump(path)
    assert len(_dump(path)) > 50
    assert sorted(_tables(old_index)) == sorted(_tables(path))


def test_an_upgraded_index_goes_on_as_a_rebuilt_one_does(
    old_journal: DiskJournal, old_index: Path, path: Path
) -> None:
    Index.open(old_index).close()
    old_journal.mint([placed_file("0/0", 1)], "zarr/1", within="zarr", indexed=False, in_parts=0)
    old_journal.mint(
        [placed_file("sub-03/x.nwb", 77)],
        attributes={"subject": ["625749"]},
        inputs=["dandi-000002"],
        metadata="sha256:1",
        form="manifest",
        only_files=1,
        only_bytes=9,
        inline=[{"path": "a.zarr", "files": 2}],
    )
    with Index.open(old_index) as index:
        assert index.catch_up(old_journal) == 2
    rebuild_from_journal(path, old_journal)
    assert _dump(old_index) == _dump(path)


@pytest.mark.parametrize("number", [1], indirect=True)
def test_versions_recorded_before_there_were_attributes_have_none(
    old_journal: DiskJournal, path: Path
) -> None:
    assert b'"metadata":' not in old_journal.file.read_bytes()
    rebuild_from_journal(path, old_journal)
    with Index.open_readonly(path) as index:
        version = index.resolve("dandi:000001")
        assert (version.metadata, index.attributes(version)) == ("", {})
        assert index.dataset("dandi:000001").within == ""
        assert index.ancestry("dandi:000001") == ([], [])
        assert index.capabilities("dandi") == {}


@pytest.mark.parametrize("number", [1, 2], indirect=True)
def test_versions_recorded_without_a_form_have_none(
    old_journal: DiskJournal, old_index: Path
) -> None:
    assert b'"form":' not in old_journal.file.read_bytes()
    with Index.open(old_index) as index:
        for dataset in index.datasets():
            for version in index.versions(dataset.name):
                assert (version.form, version.manifest_only_files, version.manifest_only_bytes) == (
                    "",
                    0,
                    0,
                )
                assert index.inline_components(version) == []


@pytest.mark.parametrize("number", [1], indirect=True)
def test_an_upgrade_that_dies_leaves_the_old_index_for_the_next_one(
    old_journal: DiskJournal, old_index: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(schema, "_TEXT", "CREATE VIRTUAL TABLE dataset_text USING nothing (x);\n")
        with pytest.raises(IndexDamagedError):
            Index.open(old_index)
    assert _schema(old_index) == 1
    assert not any("CREATE TABLE parts" in sql for sql in _tables(old_index))
    Index.open(old_index).close()
    rebuild_from_journal(path, old_journal)
    assert _dump(old_index) == _dump(path)


@pytest.mark.parametrize(
    ("number", "script", "column"),
    [
        (2, "_THIRD", "only_files"),
        (3, "_FOURTH", "indexed"),
        (4, "_FIFTH", "withheld"),
        (5, "_SIXTH", "path_text"),
    ],
    indirect=["number"],
)
def test_a_later_upgrade_that_dies_leaves_what_was_there(
    old_journal: DiskJournal,
    old_index: Path,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    script: str,
    column: str,
) -> None:
    with monkeypatch.context() as patch:
        broken = f"{getattr(schema, script)}ALTER TABLE nothing ADD COLUMN x;\n"
        patch.setattr(schema, script, broken)
        with pytest.raises(IndexDamagedError):
            Index.open(old_index)
    assert _schema(old_index) == number
    assert not any(column in sql for sql in _tables(old_index))
    Index.open(old_index).close()
    rebuild_from_journal(path, old_journal)
    assert _dump(old_index) == _dump(path)


def test_one_that_only_reads_does_not_upgrade_but_says_what_does(old_index: Path) -> None:
    before = old_index.read_bytes()
    with pytest.raises(
        IndexUnusableError, match=r"older release; `neuromirror sync` .*rebuild-index"
    ):
        Index.open_readonly(old_index)
    assert old_index.read_bytes() == before


@pytest.mark.parametrize("number", [1, 2, 3], indirect=True)
def test_of_versions_recorded_before_there_was_a_choice_all_files_are_kept(
    old_journal: DiskJournal, old_index: Path
) -> None:
    assert b'"indexed":' not in old_journal.file.read_bytes()
    with Index.open(old_index) as index:
        rows = [row for one in index.datasets() for row in index.versions(one.name)]
        assert {row.indexed for row in rows} == {True}
        assert [len(list(index.files(row))) for row in rows] == [row.files for row in rows]
        assert index.unindexed_files() == []


@pytest.mark.parametrize("number", [1, 2, 3], indirect=True)
def test_visits_recorded_without_traffic_have_none(
    old_journal: DiskJournal, old_index: Path
) -> None:
    assert b'"traffic":' not in old_journal.file.read_bytes()
    traffic = {"api.example.invalid": {"requests": 3, "waited": 0.5}}
    old_journal.visit(status="held", traffic=traffic)
    with Index.open(old_index) as index:
        index.catch_up(old_journal)
        last, *before = index.visits("dandi:000001")
        assert last.traffic == {"api.example.invalid": Traffic(requests=3, waited=0.5)}
        assert before
        assert all(one.traffic == {} for one in before)


@pytest.mark.parametrize("number", [4], indirect=True)
def test_locations_recorded_before_audits_are_due_first(
    old_journal: DiskJournal, old_index: Path
) -> None:
    with Index.open(old_index) as index:
        due = index.due_locations(100, "2025")
        results = [one.result for one in due]
        assert results == [*[None] * (len(due) - 2), "gone", "ok"] or results[-2:] == ["ok", "gone"]
        assert results.count(None) == len(due) - 2 > 5
        assert index.failing_locations() == {"dandi": {"gone": 1}}
        assert index.tombstones() == []


def test_a_new_index_does_not_take_in_what_it_does_not_need(tmp_path: Path) -> None:
    program = (
        "import sys, sqlite3\n"
        "from neuromirror.index.schema import migrate\n"
        f"migrate(sqlite3.connect({str(tmp_path / 'i.sqlite')!r}))\n"
        "assert not {'numpy', 'pandas'} & set(sys.modules)\n"
        "import numpy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
