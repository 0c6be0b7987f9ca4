"""Sub-datasets in a version's tree are rows of their own, by the same intervals as files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from journal_on_disk import DiskJournal, content_of, left_out, part, placed

from neuromirror.index import Index, PartRow, rebuild
from neuromirror.model import Change, PlacedFile

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


def _thing(path: str, spec: tuple[bool, int, bool]) -> PlacedFile:
    is_part, content, renamed = spec
    source = b"\xff" + path.encode() if renamed else path.encode()
    if is_part:
        return part(path, f"000001-{path}", f"{content}" * 40, path=source, files=content)
    return placed(path, content, path=source)


@given(_TREES)
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_version_gives_its_files_and_parts_back_however_it_was_told(
    versions: list[tuple[dict[str, tuple[bool, int, bool]], bool]],
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        journal = DiskJournal(folder)
        minted = []
        for specs, as_changes in versions:
            things = [_thing(path, spec) for path, spec in sorted(specs.items())]
            entry = journal.mint(things)
            if as_changes and minted:
                journal.bases[entry.commit] = minted[-1][0].commit
            minted.append((entry, things))
        with Index.open(folder / "changes") as index:
            index.catch_up(journal)
            for entry, things in minted:
                version = index.resolve(NAME, entry.commit)
                parts = list(index.parts(version))
                told = [(one.path, one.commit, one.files, one.source_path) for one in parts]
                assert told == [
                    (t.git_path.decode(), t.part.commit, t.part.files, t.record.path)
                    for t in things
                    if t.part is not None
                ]
                files = [(row.path, row.key) for row in index.files(version)]
                assert files == [(t.git_path.decode(), t.key) for t in things if t.part is None]
            dumped = list(index.dump())
        journal.bases.clear()
        rebuild(folder / "whole", journal)
        with Index.open_readonly(folder / "whole") as index:
            assert list(index.dump()) == dumped


def test_a_part_that_stays_as_it_is_keeps_its_row(journal: DiskJournal, index: Index) -> None:
    journal.mint([part("x.zarr", "x"), part("y.zarr", "y"), placed("a", 1)])
    journal.mint([part("x.zarr", "x"), part("y.zarr", "y", "d" * 40), placed("a", 2)])
    journal.mint([part("x.zarr", "x"), placed("a", 2)])
    index.catch_up(journal)
    told = [[(one.path, one.since) for one in index.parts(v)] for v in index.versions(NAME)]
    assert told == [[("x.zarr", 1), ("y.zarr", 1)], [("x.zarr", 1), ("y.zarr", 2)], [("x.zarr", 1)]]


def test_a_part_is_a_dataset_whose_version_has_a_label(journal: DiskJournal, index: Index) -> None:
    own = journal.mint([placed("0/0", 1)], "000001--x", label="v7", within="000001")
    journal.mint([part("x.zarr", "000001--x", own.commit), part("y.zarr", "000001--y")])
    index.catch_up(journal)
    known, unknown = index.parts(index.resolve(NAME))
    assert known == PartRow(
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
    assert [row.name for row in index.datasets(parts=False)] == [NAME]
    assert len(list(index.datasets())) == 2
    [status] = index.mirror_status()
    assert (status.datasets, status.parts, status.files) == (2, 1, 1)


def test_a_checksum_is_found_in_the_part_and_a_part_is_no_content(
    journal: DiskJournal, index: Index
) -> None:
    own = journal.mint([placed("0/0", 1)], "000001--x", within="000001")
    journal.mint([part("x.zarr", "000001--x", own.commit)])
    index.catch_up(journal)
    [found] = index.find(placed("0/0", 1).key)
    assert (found.dataset, found.path) == ("dandi:000001--x", "0/0")
    assert sum(line.startswith("contents ") for line in index.dump()) == 1


class _Given(DiskJournal):
    """Gives the changes it was told, whatever the versions hold."""

    given: tuple[str, list[Change]]

    def record_changes(self, dataset_id: str, commit: str) -> tuple[str, Iterator[Change]] | None:
        return None if commit == self.given[0] else (self.given[0], iter(self.given[1]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([(part("x", "x"), None)], "'x' was not there"),
        ([(None, part("y.zarr", "y"))], "'y.zarr' was there"),
        ([(placed("y.zarr", 1), part("y.zarr", "y"))], "'y.zarr' was there"),
        ([(part("a", "a"), placed("a", 1))], "'a' was there"),
        ([(None, placed("y.zarr", 1))], "'y.zarr' was there"),
    ],
)
def test_changes_of_parts_that_do_not_fit_change_nothing(
    journal: DiskJournal, index: Index, changes: list[Change], message: str
) -> None:
    given = _Given(journal.root)
    first = given.mint([placed("a", 1), part("y.zarr", "y")])
    given.given = (first.commit, changes)
    index.catch_up(given)
    before = content_of(index)
    given.mint([placed("a", 1)])
    assert index.catch_up(given) == 1
    assert f"do not fit the version before: {message}" in left_out(index)
    assert content_of(index) == before


def test_files_turning_into_a_part_are_not_believed_to_be_there(
    journal: DiskJournal, index: Index
) -> None:
    first = journal.mint([placed(f"x.zarr/{n}", n) for n in range(5)])
    second = journal.mint([part("x.zarr", "x")])
    journal.bases[second.commit] = first.commit
    index.catch_up(journal)
    assert list(index.files(index.resolve(NAME))) == []
    assert [one.path for one in index.parts(index.resolve(NAME))] == ["x.zarr"]
    assert index.resolve(NAME).files == 0
