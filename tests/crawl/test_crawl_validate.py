"""Validation of a listing's entries: totals, duplicates and clashes of paths."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from neuromirror.crawl.validate import (
    ListedEntries,
    ResolvedComponents,
    SpooledSnapshot,
    check_summary,
    validate_listing,
)
from neuromirror.mint import LineSorter
from neuromirror.model import (
    DatasetFacts,
    DatasetRef,
    Digest,
    Document,
    ExcludedEntry,
    FileRecord,
    FileTotals,
    Location,
    VersionKind,
    VersionRef,
)
from neuromirror.sources import Listing, ListingEntry, UnexpectedReplyError, UnreliableListingError

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


MULTIPART = "0" * 32 + "-2"


def record(
    digests: tuple[Digest, ...] = (),
    locations: tuple[Location, ...] = (),
    part_size: int | None = None,
) -> FileRecord:
    return FileRecord(b"sub-01/x", 1, digests, locations, part_size)


@pytest.mark.parametrize(
    ("entry", "wrong"),
    [
        (record((Digest("sha256", "A" * 64, "s"),)), "A" * 64),
        (record((Digest("md5", "0" * 32, "s"), Digest("sha256", "abc", "s"))), "'abc'"),
        (record((Digest("md5", "0" * 32 + "\n", "s"),)), "\\n"),
        (record((Digest("md5", b"0" * 32, "s"),)), "b'000"),  # type: ignore[arg-type]
        (record((Digest("sha512", "0" * 128, "s"),)), "'sha512'"),
        (record((Digest("etag", "", "s"),)), "value=''"),
        (record((Digest("etag", "opaque", "s"),), part_size=1), "'opaque'"),
        (record((), (Location("https://a.example.invalid/x", "http"),)), "'http'"),
        (record((), (Location("sub-01/x", "api"),)), "'sub-01/x'"),
        (record((), (Location(None, "api"),)), "url=None"),  # type: ignore[arg-type]
        (record((), ("https://a.example.invalid/x",)), "'https://a.ex"),  # type: ignore[arg-type]
    ],
)
def test_a_malformed_digest_or_location_refuses_the_listing(
    tmp_path: Path, entry: FileRecord, wrong: str
) -> None:
    with pytest.raises(UnexpectedReplyError) as refused:
        snapshot_of(tmp_path, file(b"a"), entry)
    rule = "boss: boss://" if entry.locations else "64 lower-case"
    assert str(refused.value).startswith("box:a current: 'sub-01/x': ")
    for part in (wrong, rule, "nothing was changed"):
        assert part in str(refused.value)


def test_every_kind_of_digest_and_location_is_accepted(tmp_path: Path) -> None:
    digests = (
        Digest("sha256", "0" * 64, "s"),
        Digest("md5", "f" * 32, "s"),
        Digest("etag", MULTIPART, "s"),
    )
    locations = (
        *(Location("https://a.example.invalid/x", kind) for kind in ("s3", "api", "api-private")),
        Location("http://127.0.0.1/x", "api"),
        *(Location(f"{one}://a/x", one) for one in ("boss", "ndstore")),
        Location("s3://bucket/x", "s3-private"),
    )
    opaque = FileRecord(b"b", 1, (Digest("etag", "CJ+W= /1", "s"),), locations[:1])
    entries = (record(digests, locations, 1), opaque, FileRecord(b"c", None, (), locations[1:2]))
    assert snapshot_of(tmp_path, *entries).files == 3
