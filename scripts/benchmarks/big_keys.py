"""The keys of the synthetic archive's bucket, and listings of them."""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Sequence
from typing import Final, overload

from benchmarks.big_plan import SortedUuids, blob_facts

BUCKET: Final = "big-dandiarchive"
MODIFIED: Final = "2024-03-05T06:07:08.000Z"
LAST_MODIFIED: Final = "Tue, 05 Mar 2024 06:07:08 GMT"
_OWNER: Final = "<Owner><ID>0123456789abcdef</ID></Owner><StorageClass>STANDARD</StorageClass>"
_BLOB_PREFIX: Final = b"blobs/"


class Keys(Sequence[bytes]):
    """Keys of the bucket, in the order of their bytes."""

    @abstractmethod
    def _key(self, at: int) -> bytes:
        """Return the key at an existing index."""

    @abstractmethod
    def facts(self, at: int) -> tuple[int, str, str]:
        """Return bytes, ETag and version id of an object."""

    @abstractmethod
    def listing_rows(self, start: int, end: int, *, versions: bool) -> str:
        """Return the rows of objects from ``start`` to ``end``, as S3 writes them."""

    @overload
    def __getitem__(self, at: int) -> bytes: ...

    @overload
    def __getitem__(self, at: slice) -> list[bytes]: ...

    def __getitem__(self, at: int | slice) -> bytes | list[bytes]:
        if isinstance(at, slice):
            return [self._key(one) for one in range(*at.indices(len(self)))]
        if not 0 <= at < len(self):
            raise IndexError(at)
        return self._key(at)

    def find(self, key: bytes) -> int | None:
        """Return the index of a key; None if it does not exist."""
        at = bisect_left(self, key)
        return at if at < len(self) and self[at] == key else None


class NoKeys(Keys):
    """An empty list of keys."""

    def __len__(self) -> int:
        return 0

    def _key(self, at: int) -> bytes:
        raise IndexError(at)

    def facts(self, at: int) -> tuple[int, str, str]:
        """Do nothing; never called."""
        raise IndexError(at)

    def listing_rows(self, start: int, end: int, *, versions: bool) -> str:
        """Do nothing."""
        return ""


class BlobKeys(Keys):
    """The keys of all blobs in the order of their bytes."""

    def __init__(self, ids: SortedUuids) -> None:
        self._ids = ids

    def __len__(self) -> int:
        return self._ids.count

    def _key(self, at: int) -> bytes:
        return blob_key(self._ids.uuid(at)).encode()

    def facts(self, at: int) -> tuple[int, str, str]:
        """Return bytes, ETag and version id of a blob."""
        blob = blob_facts(self._ids, at)
        return blob.size, blob.etag, blob.version_id

    def listing_rows(self, start: int, end: int, *, versions: bool) -> str:
        """Return the rows of blobs from ``start`` to ``end``, as S3 writes them."""
        rows = []
        for at in range(start, end):
            blob = blob_facts(self._ids, at)
            key = blob_key(blob.blob_id)
            rows.append(row(key, blob.size, blob.etag, blob.version_id, versions=versions))
        return "".join(rows)


def row(name: str, size: int, etag: str, version_id: str, *, versions: bool) -> str:
    """Return the row of an object in a listing of versions, or of objects."""
    about = (
        f"<LastModified>{MODIFIED}</LastModified><ETag>&quot;{etag}&quot;</ETag><Size>{size}</Size>"
    )
    if versions:
        return (
            f"<Version><Key>{name}</Key><VersionId>{version_id}</VersionId>"
            f"<IsLatest>true</IsLatest>{about}{_OWNER}</Version>"
        )
    return f"<Contents><Key>{name}</Key>{about}<StorageClass>STANDARD</StorageClass></Contents>"


def blob_key(blob_id: str) -> str:
    """Return the key of a blob."""
    return f"blobs/{blob_id[:3]}/{blob_id[3:6]}/{blob_id}"
