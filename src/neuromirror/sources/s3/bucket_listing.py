"""The listing of a dataset in a bucket."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from neuromirror.model import DatasetFacts, VersionRef
from neuromirror.net import S3Listing
from neuromirror.sources.protocol import Listing, ListingEntry
from neuromirror.sources.s3.listing_reader import ListingReader
from neuromirror.sources.s3.object_claims import PartAnswer
from neuromirror.sources.volumes.urls import VOLUME_REMOTE


class BucketMemo(Struct, frozen=True, array_like=True):
    """The memo of a listing: the data by which the next visit recognizes an unchanged listing.

    Attributes
    ----------
    shape
        A digest of the options on which the records depend.
    versions
        Whether object versions were listed.
    head_each
        Whether every object was requested.
    head_parts
        Whether the part sizes of all multipart uploads were requested.
    pages
        The memo of the pages.
    part_answers
        The stated part sizes by multipart ETag.
    """

    shape: str
    versions: bool
    head_each: bool
    head_parts: bool
    pages: bytes
    part_answers: Mapping[str, PartAnswer] = {}

    def dump(self) -> bytes:
        """Return a line of JSON, followed by the pages."""
        return msgspec.json.encode(replace(self, pages=b"")) + b"\n" + self.pages


def load_memo(memo: bytes | None, shape: str) -> BucketMemo | None:
    """Decode a memo; None if it is invalid or has another ``shape``.

    The shape differs if the memo was written with other options.
    """
    head, _, pages = (memo or b"").partition(b"\n")
    try:
        known = msgspec.json.decode(head, type=BucketMemo)
    except msgspec.DecodeError:
        return None
    return replace(known, pages=pages) if known.shape == shape else None


class BucketReading(Struct, frozen=True):
    """How one version of a dataset in a bucket is read; the input of :class:`BucketListing`.

    Attributes
    ----------
    version
        The version to read.
    reader
        Turns the rows into records and documents.
    pages
        The pages of the bucket's listing.
    memo
        The memo of an earlier listing that these pages can be compared with, if any.
    shape
        A digest of the options on which the records depend.
    is_current
        Whether the objects are the current ones, and not those of an earlier time.
    versions
        Whether object versions are listed.
    head_each
        Whether every object is requested.
    """

    version: VersionRef
    reader: ListingReader
    pages: S3Listing
    memo: BucketMemo | None
    shape: str
    is_current: bool
    versions: bool
    head_each: bool


class BucketListing(Listing):
    """The listing of a dataset in a bucket: the current objects, or those at the version's time.

    Only the current state has a memo, and is checked for missing and refused objects.

    Parameters
    ----------
    reading
        How the objects are read.
    manifest_only
        Whether the dataset has too many files for git.
    is_private
        Whether the objects need credentials.
    """

    def __init__(
        self, reading: BucketReading, *, manifest_only: bool = False, is_private: bool = False
    ) -> None:
        super().__init__(
            reading.version,
            DatasetFacts(title=reading.version.dataset.local_id),
            unversioned=not reading.versions,
            manifest_only=manifest_only,
            special_remotes=(VOLUME_REMOTE,) if is_private else (),
            can_find_present=reading.is_current,
        )
        self._reading = reading
        self._reader = reading.reader

    def entries(self) -> Iterator[ListingEntry]:
        """Yield the objects as records; documents and facts are set after the last one."""
        yield from self._reader.entries()
        self.documents, self.facts = self._reader.documents, self._reader.facts

    def confirm_version(self) -> VersionRef:
        """Return the version; raise UnreliableListingError if objects were written meanwhile."""
        return self._reader.confirm_version()

    def is_unchanged(self) -> bool:
        """Return whether every page of the listing matches the memo."""
        return self._reading.memo is not None and self._reading.pages.unchanged()

    def memo(self) -> bytes | None:
        """Return the pages' memo; None if a request was refused that may be allowed later."""
        reading = self._reading
        if not reading.is_current or self._reader.degraded.is_set():
            return None
        pages = reading.pages.memo()
        # a refused sample may have been the only reason to request every object
        head_each = reading.head_each and self._reader.found_odd_object
        made = (reading.shape, reading.versions, head_each, self._reader.head_parts, pages)
        return BucketMemo(*made, self._reader.part_answers).dump()

    def find_present(self, paths: Sequence[bytes]) -> list[bytes]:
        """Return the given paths that exist in the bucket."""
        return self._reader.find_present(paths)

    def problems(self) -> Sequence[str]:
        """Return one line for each object that is listed but cannot be read."""
        return self._reader.unreadable if self._reading.is_current else ()

    def archived_count(self) -> int:
        """Return the number of objects that must be restored before they can be read."""
        return self._reader.archived_count

    def refused_count(self) -> int:
        """Return the number of objects that the bucket lists but refuses to return."""
        return self._reader.refused_count if self._reading.is_current else 0
