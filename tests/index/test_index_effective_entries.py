"""Zarrs of which the index has the state alone: nothing else in it may differ."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuromirror.index import FilesNotIndexedError, Index, UnindexedFiles, rebuild_from_journal
from neuromirror.model import Digest, MirrorSeen, SnapshotEntry, VersionMinted
from support.disk_journal import (
    DiskJournal,
    dump_content,
    placed_file,
    skipped_version_message,
    subdataset,
)
from support.index_dump import dump_index

ZARR = "dandi:zarr/1"

_VERSIONS = st.lists(
    st.tuples(
        st.sampled_from(["000001", "zarr/1"]),
        st.dictionaries(st.sampled_from(["0", "1", "2", "sub"]), st.integers(0, 2), min_size=1),
        st.booleans(),  # indexed
        st.booleans(),  # recorded by its changes
        st.booleans(),  # counts the files in its parts
    ),
    max_size=7,
)


def _file_or_subdataset(path: str, content: int) -> SnapshotEntry:
    return (
        subdataset(path, "zarr/2", f"{content}" * 40)
        if path == "sub"
        else placed_file(path, content)
    )


def _setting(journal: DiskJournal, entries: int, mirror: str = "dandi") -> None:
    journal.append(MirrorSeen(mirror, "dandi", "https://x.invalid/", "2025", entries))


def _dump(path: Path, journal: DiskJournal) -> list[str]:
    with Index.open(path) as index:
        index.catch_up(journal)
        assert index.reader.connection.execute("PRAGMA foreign_key_check").fetchall() == []
        return dump_index(index)


def _rebuilt(path: Path, journal: DiskJournal) -> list[str]:
    rebuild_from_journal(path, journal)
    return dump_index(path)


@given(_VERSIONS)
@settings(max_examples=15, suppress_health_check=list(HealthCheck))
def test_versions_come_and_go_with_and_without_their_files(
    versions: list[tuple[str, dict[str, int], bool, bool, bool]],
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        journal = DiskJournal(folder)
        minted: list[tuple[VersionMinted, list[SnapshotEntry]]] = []
        last: dict[str, str] = {}
        for local_id, specs, indexed, as_changes, counted in versions:
            things = [_file_or_subdataset(path, content) for path, content in sorted(specs.items())]
            inner = sum(7 for thing in things if thing.subdataset is not None)
            entry = journal.mint(
                things,
                local_id,
                indexed=indexed,
                in_subdatasets=inner if counted else None,
                within="zarr" if local_id == "zarr/1" else "",
            )
            if as_changes and local_id in last:
                journal.bases[entry.commit] = last[local_id]
            last[local_id] = entry.commit
            minted.append((entry, things))
        with Index.open(folder / "live") as index:
            index.catch_up(journal)
            for entry, things in minted:
                row = index.versions.resolve(f"dandi:{entry.local_id}", entry.commit)
                assert (row.indexed, row.files) == (entry.indexed, entry.files)
                parts = [one.git_path.decode() for one in things if one.subdataset is not None]
                assert [one.path for one in index.versions.subdatasets(row)] == parts
                if entry.indexed:
                    own = [thing.git_path.decode() for thing in things if thing.subdataset is None]
                    assert [one.path for one in index.files.of(row)] == own
                else:
                    with pytest.raises(
                        FilesNotIndexedError, match=f"'neuromirror files {row.name}'"
                    ):
                        index.files.of(row)
            dumped = dump_index(index)
        journal.bases.clear()
        assert _rebuilt(folder / "rebuilt", journal) == dumped


def test_files_that_only_an_unindexed_version_has_are_not_found(
    journal: DiskJournal, index: Index
) -> None:
    journal.mint([placed_file("a", 1), placed_file("b", 2)], "zarr/1", within="zarr")
    journal.mint([placed_file("a", 1), placed_file("b", 3)], "zarr/1", within="zarr", indexed=False)
    journal.mint([placed_file("a", 1)], "000001")
    index.catch_up(journal)
    found = [(one.dataset, one.path, one.last, one.current) for one in index.files.find(_key(1))]
    assert found == [(ZARR, "a", "2024-1", False), ("dandi:000001", "a", "2024-3", True)]
    assert list(index.files.find(_key(3))) == []
    [row] = (one for one in index.datasets.select() if one.name == ZARR)
    assert (row.versions, row.files) == (2, 2)


def _key(content: int) -> str:
    return placed_file("x", content).key


def test_what_is_not_looked_at_is_counted_by_mirror(journal: DiskJournal, index: Index) -> None:
    index.catch_up(journal)
    assert index.files.unindexed() == []
    for files, indexed in ((3, False), (5, False), (1, True)):
        things = [placed_file(f"{number}", number) for number in range(files)]
        journal.mint(things, "zarr/1", within="zarr", indexed=indexed)
        journal.mint(things[:1], "zarr/2", within="zarr", indexed=indexed)
        journal.mint(things, "zarr/3", within="zarr", indexed=indexed, mirror="ember")
    index.catch_up(journal)
    assert index.files.unindexed() == [
        UnindexedFiles("dandi", 2, 6, 5),
        UnindexedFiles("ember", 1, 5, 5),
    ]


class _UnreadJournal(DiskJournal):
    """Has no records."""

    def lines(self, dataset_id: str, commit: str) -> Iterator[bytes]:
        raise AssertionError("the records were read")


def test_no_record_is_read_of_what_is_not_kept(journal: DiskJournal, index: Index) -> None:
    unread = _UnreadJournal(journal.root)
    for content in (1, 2):
        unread.mint(
            [placed_file("a", content)], "zarr/1", within="zarr", indexed=False, in_subdatasets=0
        )
    index.catch_up(unread)
    assert index.datasets.get(ZARR).versions == 2
    assert not any(
        line.startswith(("files ", "contents ", "locations ")) for line in dump_index(index)
    )


def test_a_damaged_record_file_closes_no_parts(journal: DiskJournal, index: Index) -> None:
    files = [subdataset("sub", "zarr/2"), placed_file("a", 1)]
    journal.mint(files, "zarr/1", within="zarr", indexed=False)
    index.catch_up(journal)
    before = dump_content(index)
    entry = journal.mint(files, "zarr/1", within="zarr", indexed=False)
    (journal.root / entry.commit).write_bytes(b"")
    assert index.catch_up(journal) == 1
    assert "have 0 files, the journal 1" in skipped_version_message(index)
    assert dump_content(index) == before


# --- a setting that is changed later


def test_changed_setting_applies_to_earlier_versions(
    journal: DiskJournal, path: Path, tmp_path: Path
) -> None:
    for number, indexed in enumerate([True, False, False]):
        things = [placed_file(f"{one}", one) for one in range(number + 1)]
        for mirror in ("dandi", "ember"):
            zarr = f"zarr/{number}"
            journal.mint(things, zarr, within="zarr", mirror=mirror, indexed=indexed)
    journal.mint([placed_file(f"{one}", one) for one in range(9)])
    asis = _dump(tmp_path / "asis", journal)
    _setting(journal, 7)
    _setting(journal, 2)
    later = journal.mint(
        [placed_file("late", 1)], "zarr/9", within="zarr", indexed=False, in_subdatasets=0
    )
    rebuilt = _rebuilt(path, journal)
    assert rebuilt != asis
    with Index.open_readonly(path) as index:
        is_indexed = {
            name: next(index.versions.of(name)).indexed
            for name in (row.name for row in index.datasets.select())
        }
    assert is_indexed == {
        "dandi:zarr/0": True,
        "dandi:zarr/1": True,
        "dandi:zarr/2": False,  # of three files
        "ember:zarr/0": True,
        "ember:zarr/1": False,
        "ember:zarr/2": False,
        "dandi:000001": True,
        f"dandi:{later.local_id}": False,
    }
    # any other way to read the whole journal comes to the same
    assert _dump(tmp_path / "deleted", journal) == rebuilt


def test_setting_removes_files_and_restores_them(
    journal: DiskJournal, path: Path, tmp_path: Path
) -> None:
    files = [placed_file(f"{one}", one) for one in range(3)]
    minted: list[str] = []
    for n in range(3):
        entry = journal.mint([*files[:n], placed_file("new", f"new {n}")], "zarr/1", within="zarr")
        if minted:
            journal.bases[entry.commit] = minted[-1]
        minted.append(entry.commit)
    whole = _rebuilt(path, journal)
    _setting(journal, 0)
    without = _rebuilt(path, journal)
    assert not any(line.startswith(("files ", "contents ", "locations ")) for line in without)
    _setting(journal, 3)
    restored = _rebuilt(path, journal)
    kept = [line for line in restored if not line.startswith(("progress ", "mirrors "))]
    assert kept == [line for line in whole if not line.startswith(("progress ", "mirrors "))]


def test_mirror_keeps_its_setting_when_its_uri_is_recorded_twice(
    journal: DiskJournal, path: Path
) -> None:
    journal.mint([placed_file("a", 1)], "zarr/1", within="zarr", indexed=False)
    _setting(journal, 5)
    journal.append(MirrorSeen("dandi", "dandi", "https://y.invalid/", "2026"))
    rebuild_from_journal(path, journal)
    with Index.open_readonly(path) as index:
        assert index.files.unindexed() == []
        [status] = index.crawl.mirrors()
    assert status.uri == "https://y.invalid/"


# --- an index of contents alone


def test_content_index_returns_what_the_full_index_does(
    journal: DiskJournal, index: Index, tmp_path: Path
) -> None:
    etag = "3" * 32
    files = [
        placed_file("a", 1),
        placed_file("b", 2, digests=(Digest("etag", f"{etag}-2", "s3"),), part_size=64, key="K--b"),
        placed_file("c", 3, digests=(Digest("etag", f"{etag}-2", "s3"),), part_size=64, key="K--c"),
    ]
    files = [replace_size(file, 100) for file in files]
    journal.mint(files, "zarr/1", within="zarr")
    index.catch_up(journal)
    requested = [f"{etag}-2", f"{etag}-3", files[0].record.digests[1].value]
    with Index.of_contents(tmp_path / "contents.sqlite", iter(files)) as some:
        answers = some.files.known_contents(requested)
        assert answers == index.files.known_contents(requested)
        assert [answer is not None for answer in answers] == [True, False, True]
        assert answers[0].part_size == 64


def replace_size(file: SnapshotEntry, size: int) -> SnapshotEntry:
    return msgspec.structs.replace(file, record=msgspec.structs.replace(file.record, size=size))
