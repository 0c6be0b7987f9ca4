"""Validation of a listing's entries: totals, duplicates and clashes of paths."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from neuromirror.crawl.visit.listed_entries import ListedEntries
from neuromirror.crawl.visit.snapshot import ResolvedComponents, SpooledSnapshot
from neuromirror.crawl.visit.validate import check_summary, validate_listing
from neuromirror.mint import LineSorter
from neuromirror.model import (
    DatasetFacts,
    DatasetRef,
    Digest,
    Document,
    ExcludedEntry,
    FileRecord,
    FileTotals,
    VersionKind,
    VersionRef,
)
from neuromirror.sources import Listing, ListingEntry, UnreliableListingError

DATASET = DatasetRef("box", "a", "https://bucket.example.invalid/a/")
TIME = datetime(2024, 3, 1, tzinfo=UTC)


class UnreadListing(Listing):
    """A listing whose entries must not be read, nor anything else requested."""

    def entries(self) -> Iterator[ListingEntry]:
        raise AssertionError("validation reads no listing")

    def confirm_version(self) -> VersionRef:
        raise AssertionError("validation requests nothing")


def file(path: bytes, size: int = 1, modified: datetime | None = None) -> FileRecord:
    digest = Digest("md5", "0" * 32, "bucket")
    return FileRecord(path, size, (digest,), modified=modified)


def version(totals: FileTotals | None = None, time: datetime | None = None) -> VersionRef:
    return VersionRef(DATASET, "current", VersionKind.OBSERVED, time, totals)


def snapshot_of(
    tmp_path: Path, *entries: ListingEntry, documents: tuple[Document, ...] = ()
) -> SpooledSnapshot:
    """Validate the entries of a listing."""
    listing = UnreadListing(version(), DatasetFacts(), documents)
    with LineSorter(tmp_path) as sorter:
        listed = ListedEntries(listing.version, sorter)
        for entry in entries:
            listed.add(entry)
        return validate_listing(listing, listed, ResolvedComponents(), tmp_path)


def git_paths(snapshot: SpooledSnapshot) -> list[bytes]:
    return [one.git_path for one in snapshot.spool.files()]


def test_entries_are_sorted_and_counted(tmp_path: Path) -> None:
    excluded = ExcludedEntry(b"folder/", "folder-marker", "a marker of a folder", 0)
    snapshot = snapshot_of(tmp_path, file(b"z", 2, TIME), excluded, file(b"a"))
    assert git_paths(snapshot) == [b"a", b"z"]
    assert (snapshot.files, snapshot.header.newest) == (2, TIME)
    assert snapshot.header.version.time == TIME
    assert snapshot.header.exceptions == (excluded,)


@pytest.mark.parametrize(
    "entries",
    [
        (file(b"a"), file(b"a")),
        (ExcludedEntry(b"a", "r", "d", 0), ExcludedEntry(b"a", "r", "d", 0)),
    ],
)
def test_a_path_that_is_listed_twice_is_refused(
    tmp_path: Path, entries: tuple[ListingEntry, ...]
) -> None:
    with pytest.raises(UnreliableListingError, match="box:a current"):
        snapshot_of(tmp_path, *entries)


def test_a_file_that_clashes_with_a_folder_gets_another_git_path(tmp_path: Path) -> None:
    snapshot = snapshot_of(tmp_path, file(b"a"), file(b"a/b"))
    assert [one.record.path for one in snapshot.spool.files()] == [b"a", b"a/b"]
    assert len({b"a", b"a/b"} & set(git_paths(snapshot))) == 1


def test_a_file_that_clashes_with_a_document_gets_another_git_path(tmp_path: Path) -> None:
    document = Document(b"README.md", b"of upstream", None)
    snapshot = snapshot_of(tmp_path, file(b"README.md"), documents=(document,))
    assert git_paths(snapshot) == [b"%52EADME.md"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (version(FileTotals(1, 5)), version(FileTotals(1, 5))),  # another size
        (version(FileTotals(2, 6)), version(FileTotals(2, 6))),  # another count
        (version(FileTotals(1, 6)), version(FileTotals(2, 9))),  # changed meanwhile
        (version(time=None), version(time=TIME)),
    ],
)
def test_totals_that_differ_from_the_summary_are_refused(
    tmp_path: Path, before: VersionRef, after: VersionRef
) -> None:
    with LineSorter(tmp_path) as sorter:
        listed = ListedEntries(before, sorter)
        listed.add(file(b"a", 6))
        with pytest.raises(UnreliableListingError, match="box:a current"):
            check_summary(listed, before, after)
        check_summary(listed, version(FileTotals(1, 6)), version(FileTotals(1, 6)))
