"""Subdatasets in a version's tree have rows of their own, with the same intervals as files."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_index_file_writer import FixedChangesJournal

from neuromirror.index import Index, SubdatasetRow, rebuild_from_journal
from neuromirror.model import Change, SnapshotEntry
from support.disk_journal import (
    DiskJournal,
    dump_content,
    placed_file,
    skipped_version_message,
    subdataset,
)
from support.index_dump import dump_index

NAME = "dandi:000001"

_TREES = st.lists(
    st.tuples(
        st.dictionaries(
            st.sampled_from(["a", "a.zarr", "b", "b.zarr", "é.zarr"]),
            st.tuples(st.booleans(), st.integers(0, 2), st.booleans()),
        ),
        st.booleans(),
    ),
    max_size=6,
)


def _file_or_subdataset(path: str, spec: tuple[bool, int, bool]) -> SnapshotEntry:
    is_part, content, renamed = spec
    source = b"\xff" + path.encode() if renamed else path.encode()
    if is_part:
        return subdataset(path, f"000001-{path}", f"{content}" * 40, path=source, files=content)
    return placed_file(path, content, path=source)


@given(_TREES)
@settings(max_examples=20, suppress_health_check=list(HealthCheck))
def test_every_version_returns_its_files_and_subdatasets_whole_or_by_changes(
    versions: list[tuple[dict[str, tuple[bool, int, bool]], bool]],
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        journal = DiskJournal(folder)
        minted = []
        for specs, as_changes in versions:
            things = [_file_or_subdataset(path, spec) for path, spec in sorted(specs.items())]
            entry = journal.mint(things)
            if as_changes and minted:
                journal.bases[entry.commit] = minted[-1][0].commit
            minted.append((entry, things))
        with Index.open(folder / "changes") as index:
            index.catch_up(journal)
            for entry, things in minted:
                version = index.resolve(NAME, entry.commit)
                parts = list(index.subdatasets(version))
                found_rows = [(one.path, one.commit, one.files, one.source_path) for one in parts]
                assert found_rows == [
                    (t.git_path.decode(), t.subdataset.commit, t.subdataset.files, t.record.path)
                    for t in things
                    if t.subdataset is not None
                ]
                files = [(row.path, row.key) for row in index.files(version)]
                assert files == [
                    (t.git_path.decode(), t.key) for t in things if t.subdataset is None
                ]
            dumped = dump_index(index)
        journal.bases.clear()
        rebuild_from_journal(folder / "whole", journal)
        with Index.open_readonly(folder / "whole") as index:
            assert dump_index(index) == dumped


def test_unchanged_subdataset_keeps_its_row(journal: DiskJournal, index: Index) -> None:
    journal.mint([subdataset("x.zarr", "x"), subdataset("y.zarr", "y"), placed_file("a", 1)])
    journal.mint(
        [subdataset("x.zarr", "x"), subdataset("y.zarr", "y", "d" * 40), placed_file("a", 2)]
    )
    journal.mint([subdataset("x.zarr", "x"), placed_file("a", 2)])
    index.catch_up(journal)
    found_rows = [
        [(one.path, one.since) for one in index.subdatasets(v)] for v in index.versions(NAME)
    ]
    assert found_rows == [
        [("x.zarr", 1), ("y.zarr", 1)],
        [("x.zarr", 1), ("y.zarr", 2)],
        [("x.zarr", 1)],
    ]


def test_subdataset_row_has_the_label_of_its_version(journal: DiskJournal, index: Index) -> None:
    own = journal.mint([placed_file("0/0", 1)], "000001--x", label="v7", within="000001")
    journal.mint([subdataset("x.zarr", "000001--x", own.commit), subdataset("y.zarr", "000001--y")])
    index.catch_up(journal)
    known, unknown = index.subdatasets(index.resolve(NAME))
    assert known == SubdatasetRow(
        path="x.zarr",
        source_path=b"x.zarr",
        dataset="dandi:000001--x",
        dataset_id="id of 000001--x",
        label="v7",
        commit=own.commit,
        state=f"sha256:{own.commit}",
        files=7,
        bytes=70,
        since=1,
    )
    assert unknown.label is None
    assert index.dataset("dandi:000001--x").within == "000001"
    assert [row.name for row in index.datasets(subdatasets=False)] == [NAME]
    assert len(list(index.datasets())) == 2
    [status] = index.mirror_status()
    assert (status.datasets, status.subdatasets, status.files) == (2, 1, 1)


def test_checksum_is_found_in_the_subdataset_which_is_no_content(
    journal: DiskJournal, index: Index
) -> None:
    own = journal.mint([placed_file("0/0", 1)], "000001--x", within="000001")
    journal.mint([subdataset("x.zarr", "000001--x", own.commit)])
    index.catch_up(journal)
    [found] = index.find(placed_file("0/0", 1).key)
    assert (found.dataset, found.path) == ("dandi:000001--x", "0/0")
    assert sum(line.startswith("contents ") for line in dump_index(index)) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([(subdataset("x", "x"), None)], "'x' was absent"),
        ([(None, subdataset("y.zarr", "y"))], "'y.zarr' was present"),
        ([(placed_file("y.zarr", 1), subdataset("y.zarr", "y"))], "'y.zarr' was present"),
        ([(subdataset("a", "a"), placed_file("a", 1))], "'a' was present"),
        ([(None, placed_file("y.zarr", 1))], "'y.zarr' was present"),
    ],
)
def test_mismatched_subdataset_changes_change_nothing(
    journal: DiskJournal, index: Index, changes: list[Change], message: str
) -> None:
    given = FixedChangesJournal(journal.root)
    first = given.mint([placed_file("a", 1), subdataset("y.zarr", "y")])
    given.fixed_changes = (first.commit, changes)
    index.catch_up(given)
    before = dump_content(index)
    given.mint([placed_file("a", 1)])
    assert index.catch_up(given) == 1
    assert f"do not match the version before: {message}" in skipped_version_message(index)
    assert dump_content(index) == before


def test_files_turning_into_a_part_are_not_believed_to_be_there(
    journal: DiskJournal, index: Index
) -> None:
    first = journal.mint([placed_file(f"x.zarr/{n}", n) for n in range(5)])
    second = journal.mint([subdataset("x.zarr", "x")])
    journal.bases[second.commit] = first.commit
    index.catch_up(journal)
    assert list(index.files(index.resolve(NAME))) == []
    assert [one.path for one in index.subdatasets(index.resolve(NAME))] == ["x.zarr"]
    assert index.resolve(NAME).files == 0
