"""Writing a version by its changes or whole, with subdatasets, leaves the same rows."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from test_index_replay import FILES, FileSpec, file_of_spec

from neuromirror.index import Index, SubdatasetRow, contents, rebuild_from_journal
from neuromirror.index import file_writer as recording_module
from neuromirror.model import Change, Digest, Location, Retention, SnapshotEntry
from support.disk_journal import (
    DiskJournal,
    dump_content,
    placed_file,
    skipped_version_message,
    subdataset,
)
from support.index_dump import dump_index

_ETAG = "3" * 32 + "-2"
_VERSIONS = st.lists(
    st.tuples(
        st.sampled_from(["000001", "000002"]),
        FILES,
        st.sets(st.sampled_from(["a", "a/b", "b", "é"])),  # kept as they were
        st.sampled_from(["last", "older", "whole"]),
    ),
    max_size=8,
)


class _ChangesOnlyJournal(DiskJournal):
    """Refuses to read a version whole that is kept as its changes."""

    def lines(self, dataset_id: str, commit: str) -> Iterator[bytes]:
        assert commit not in self.bases, "read whole, though its changes were enough"
        return super().lines(dataset_id, commit)


def _dump(folder: Path, name: str, journal: DiskJournal) -> list[str]:
    with Index.open(folder / name) as index:
        index.catch_up(journal)
        assert index.reader.connection.execute("PRAGMA foreign_key_check").fetchall() == []
        return dump_index(index)


def _etag(part_size: int | None, digest: Digest) -> FileSpec:
    return (0, (digest,), part_size, Retention.DRAFT, False, 0)


@given(_VERSIONS, st.integers(1, 4))
@example(
    # the etag's part size is learnt, then another etag that was checked displaces both
    [
        (
            "000001",
            {
                "a": _etag(None, Digest("etag", _ETAG, "s3")),
                "a-b": _etag(64, Digest("etag", _ETAG, "s3")),
                "b": _etag(64, Digest("etag", f"{'4' * 32}-9", "dandi", True)),
            },
            set(),
            "whole",
        ),
        ("000001", {"z": _etag(None, Digest("etag", _ETAG, "s3"))}, {"a", "b"}, "last"),
    ],
    4,
)
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
def test_changes_leave_the_rows_that_whole_versions_leave(
    versions: list[tuple[str, dict[str, FileSpec], set[str], str]], batch: int
) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(recording_module, "_BATCH", batch)
        folder = Path(name)
        journal = DiskJournal(folder)
        commits: dict[str, list[str]] = {}
        before: dict[str, dict[str, SnapshotEntry]] = {}
        bases: dict[str, str] = {}
        for local_id, specs, kept, how in versions:
            files = {path: file_of_spec(path, spec) for path, spec in specs.items()}
            known = before.get(local_id, {})
            files.update((path, known[path]) for path in sorted(kept & known.keys()))
            entry = journal.mint(files.values(), local_id)
            earlier = commits.setdefault(local_id, [])
            if earlier and how != "whole":
                bases[entry.commit] = earlier[-1 if how == "last" else 0]
            earlier.append(entry.commit)
            before[local_id] = files
        whole = _dump(folder, "whole", journal)
        changing = DiskJournal(folder)
        changing.bases = bases
        assert _dump(folder, "changes", changing) == whole


def test_changes_since_the_last_version_are_all_that_is_read(
    journal: DiskJournal, path: Path
) -> None:
    changing = _ChangesOnlyJournal(journal.root)
    files = [placed_file(f"{n:04d}", n) for n in range(3000)]
    first = changing.mint(files)
    with Index.open(path) as index:
        index.catch_up(changing)
        files[7] = placed_file("0007", "other")
        last = changing.mint([*files[:100], *files[101:], placed_file("new", 1)])
        changing.bases[last.commit] = first.commit
        steps = 0

        def count() -> None:
            nonlocal steps
            steps += 1

        index.reader.connection.set_progress_handler(count, 100)
        index.catch_up(changing)
        index.reader.connection.set_progress_handler(None, 0)
        assert steps < 100  # 10,000 steps of SQLite's machine; a pass over the rows takes more
        version = index.versions.resolve("dandi:000001")
        assert [row.path for row in index.files.of(version) if row.since == 2] == ["0007", "new"]
        assert sum(1 for _ in index.files.of(version)) == 3000


def test_changes_since_another_version_are_left_for_the_records(
    journal: DiskJournal, index: Index
) -> None:
    first = journal.mint([placed_file("a", 1), placed_file("b", 1)])
    journal.mint([placed_file("c", 1)])
    third = journal.mint([placed_file("a", 1), placed_file("b", 2)])
    journal.bases[third.commit] = first.commit
    index.catch_up(journal)
    rows = index.files.of(index.versions.resolve("dandi:000001"))
    assert [(row.path, row.since) for row in rows] == [("a", 3), ("b", 3)]


def test_change_of_locations_only_opens_no_row(journal: DiskJournal, index: Index) -> None:
    old = placed_file("a", 1)
    moved = placed_file("a", 1, locations=(Location("https://other.invalid/a", "api"),))
    first = journal.mint([old])
    second = journal.mint([moved])
    journal.bases[second.commit] = first.commit
    index.catch_up(journal)
    [row] = index.files.of(index.versions.resolve("dandi:000001"))
    assert row.since == 1
    assert "https://other.invalid/a" in {
        location.url for location in index.locations.of(row.content)
    }


class FixedChangesJournal(DiskJournal):
    """Yield the given changes, whatever the versions contain."""

    fixed_changes: tuple[str, list[Change]]

    def changes(self, dataset_id: str, commit: str) -> tuple[str, Iterator[Change]] | None:
        if commit == self.fixed_changes[0]:
            return None
        return self.fixed_changes[0], iter(self.fixed_changes[1])


@pytest.mark.parametrize(
    ("changes", "files", "message"),
    [
        ([(placed_file("x", 1), None)], 1, "'x' was absent"),
        ([(None, placed_file("a", 2))], 2, "'a' was present"),
        ([(placed_file("a", 1), None)], 2, "have 1 files, the journal 2"),
        ([(placed_file("b", 1), None), (placed_file("a", 1), None)], 0, "not sorted"),
        ([(placed_file("a", 1), placed_file("b", 1))], 2, "not sorted pairs"),
        ([(None, None)], 2, "not sorted pairs"),
    ],
)
def test_changes_that_do_not_fit_change_nothing(
    journal: DiskJournal, index: Index, changes: Any, files: int, message: str
) -> None:
    given = FixedChangesJournal(journal.root)
    first = given.mint([placed_file("a", 1), placed_file("b", 1)])
    given.fixed_changes = (first.commit, changes)
    index.catch_up(given)
    before = dump_content(index)
    given.mint([placed_file(f"{n}", n) for n in range(files)])
    assert index.catch_up(given) == 1
    assert message in skipped_version_message(index)
    assert dump_content(index) == before


def _files(count: int) -> list[SnapshotEntry]:
    """Files, some of equal contents, with digests of all kinds, one place twice, and a part."""
    files = []
    for number in range(count):
        content = number if number % 50 else number // 100
        url = f"https://bucket.example.invalid/{number}"
        kinds = [
            {},
            {"digests": (Digest("md5", f"{content:032x}", "s3", True),), "part_size": None},
            {"digests": (Digest("md5", "not hex", "s3"),), "part_size": None},
            {"digests": (), "part_size": None, "path": b"\xff%d" % number},
            {"locations": (Location(url, "s3"), Location(url, "s3"), Location(url + "/", "api"))},
        ]
        key = f"XTEST-s7--{content}"
        files.append(placed_file(f"{number:06d}", content, key=key, **kinds[number % len(kinds)]))
    return [*files, subdataset("zarr", "zarr/1")]


def test_rows_do_not_depend_on_how_many_are_written_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = DiskJournal(tmp_path)
    journal.mint(_files(1100), "000001")
    journal.mint(_files(1200), "000002")
    journal.mint(_files(1110)[5:], "000001")
    default = _dump(tmp_path, "default", journal)
    assert sum(line.startswith("files ") for line in default) > 2300
    for rows in (2, 499, 501):
        monkeypatch.setattr(contents, "_ROWS", rows)
        monkeypatch.setattr(recording_module, "_BATCH", 2 * rows + 1)
        assert _dump(tmp_path, f"{rows} at once", journal) == default, rows


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
                version = index.versions.resolve(NAME, entry.commit)
                parts = list(index.versions.subdatasets(version))
                found_rows = [(one.path, one.commit, one.files, one.source_path) for one in parts]
                assert found_rows == [
                    (t.git_path.decode(), t.subdataset.commit, t.subdataset.files, t.record.path)
                    for t in things
                    if t.subdataset is not None
                ]
                files = [(row.path, row.key) for row in index.files.of(version)]
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
        [(one.path, one.since) for one in index.versions.subdatasets(v)]
        for v in index.versions.of(NAME)
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
    known, unknown = index.versions.subdatasets(index.versions.resolve(NAME))
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
    assert index.datasets.get("dandi:000001--x").within == "000001"
    assert [row.name for row in index.datasets.select(subdatasets=False)] == [NAME]
    assert len(list(index.datasets.select())) == 2
    [status] = index.crawl.mirrors()
    assert (status.datasets, status.subdatasets, status.files) == (2, 1, 1)


def test_checksum_is_found_in_the_subdataset_which_is_no_content(
    journal: DiskJournal, index: Index
) -> None:
    own = journal.mint([placed_file("0/0", 1)], "000001--x", within="000001")
    journal.mint([subdataset("x.zarr", "000001--x", own.commit)])
    index.catch_up(journal)
    [found] = index.files.find(placed_file("0/0", 1).key)
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
    assert list(index.files.of(index.versions.resolve(NAME))) == []
    assert [one.path for one in index.versions.subdatasets(index.versions.resolve(NAME))] == [
        "x.zarr"
    ]
    assert index.versions.resolve(NAME).files == 0
