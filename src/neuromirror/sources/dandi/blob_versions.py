"""Version ids of all blobs from one sweep of the bucket's version listing.

A request for each blob is cheap for a few and not for an archive: below ``blobs/`` one page of
the version listing tells a thousand. Blobs are named by random uuids, so that the first page
tells how many pages there will be: as many as the part of all names that it does not reach. The
sweep begins once as many single requests were wanted as it costs; so all together are never more
than twice what the cheaper way would have taken.
"""

from __future__ import annotations

import re
import struct
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from neuromirror.net import ContextThreadPool, NetError, ObjectRow, S3Bucket
from neuromirror.sources.dandi.buckets import BucketCache, ObjectAddress, parse_object_url

_BLOB: Final = re.compile(
    rb"(?P<root>(?:.*/)?blobs/)(?P<fan>[0-9a-f]{3}/[0-9a-f]{3})/"
    rb"(?P<id>[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})\Z"
)
_PLAIN: Final = re.compile(
    r"(https?://[a-z0-9.:-]+/(?:[A-Za-z0-9._-]+/)*?blobs/)[0-9a-f]{3}/[0-9a-f]{3}/"
    r"([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})"
)
"""Addresses of blobs that differ in nothing but the blob where their beginnings are equal."""
_ETAG: Final = re.compile(r"[0-9a-f]{32}(?:-[0-9]{1,9})?")
_WORTH_A_LOOK: Final = 50
"""Single requests before which not even the cost of a sweep is asked for."""
_WORTH_PARTS: Final = 64
_PAGE: Final = 1000
_OLDEST: Final = 6 * 3600.0
_VERSION_ID: Final = 32
"""Characters of S3's version ids; others are left to single requests."""


@dataclass(frozen=True, slots=True)
class BlobVersion:
    """The latest version of a blob's object; ``size`` in bytes, ``etag`` without quotes."""

    version_id: str
    size: int
    etag: str


class BlobTable:
    """Blob uuid → :class:`BlobVersion`, 80 bytes each.

    Blobs lie in shards by the first three hex digits of their uuid; one is found by its bytes in
    the few kilobytes of a shard.
    """

    # uuid, size, md5 of the ETag, its parts + 1 (0: put in one piece), version id
    _RECORD: Final = struct.Struct(f"<16sQ16sI{_VERSION_ID}s")

    def __init__(self) -> None:
        self._shards: list[bytearray] = [bytearray() for _ in range(4096)]

    def __len__(self) -> int:
        return sum(map(len, self._shards)) // self._RECORD.size

    def add(self, blob: uuid.UUID, row: ObjectRow) -> bool:
        """Keeps the row of a blob; False for one that does not fit, which is left out."""
        version_id = (row.version_id or "").encode()
        md5, dash, parts = row.etag.partition("-")
        if not _ETAG.fullmatch(row.etag) or len(version_id) != _VERSION_ID:
            return False
        digest = bytes.fromhex(md5)
        counted = int(parts) + 1 if dash else 0
        shard = self._shards[blob.int >> 116]
        shard += self._RECORD.pack(blob.bytes, row.size, digest, counted, version_id)
        return True

    def get(self, blob: uuid.UUID) -> BlobVersion | None:
        """What is known of a blob."""
        shard = self._shards[blob.int >> 116]
        step = self._RECORD.size
        at = shard.find(blob.bytes)
        while at >= 0 and at % step:
            at = shard.find(blob.bytes, at + 1)
        if at < 0:
            return None
        _, size, digest, parts, version_id = self._RECORD.unpack_from(shard, at)
        etag = digest.hex() + (f"-{parts - 1}" if parts else "")
        return BlobVersion(version_id.decode("ascii"), size, etag)


@dataclass(slots=True)
class _BlobRoot:
    """The blobs below one root of a bucket, and what is decided about them."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    requested: int = 0
    cost: int | None = None
    refused: bool = False
    table: BlobTable | None = None
    since: float = 0.0


class BlobVersionLookup:
    """Knows the latest versions of blobs once that is cheaper than to ask for each.

    Shared by all listings of a source, and by threads; while one sweeps, the others wait for it.
    ``clock`` gives seconds.
    """

    def __init__(
        self, buckets: BucketCache, *, connections: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._buckets = buckets
        self._connections = connections
        self._clock = clock
        self._lock = threading.Lock()
        self._archives: dict[tuple[str, str | None, bytes], _BlobRoot] = {}

    def look_up(self, urls: Iterable[str]) -> dict[str, BlobVersion]:
        """What is known of the objects at these plain URLs, all of them yet without a version.

        Makes no request for a URL of its own, but may sweep. What is missing in the reply must
        be asked for singly, and is counted as that.
        """
        by_root: dict[
            tuple[str, str | None, bytes], list[tuple[str, uuid.UUID, ObjectAddress]]
        ] = {}
        for url, (address, root, blob) in _parse_blob_urls(urls):
            name = (address.bucket, address.endpoint, root)
            by_root.setdefault(name, []).append((url, blob, address))
        found: dict[str, BlobVersion] = {}
        for name, requested in by_root.items():
            with self._lock:
                archive = self._archives.setdefault(name, _BlobRoot())
            with archive.lock:
                table = self._table(archive, requested[0][2], name[2], len(requested))
            for url, blob, _ in requested:
                swept = None if table is None else table.get(blob)
                if swept is not None:
                    found[url] = swept
        return found

    def _table(
        self, archive: _BlobRoot, address: ObjectAddress, root: bytes, more: int
    ) -> BlobTable | None:
        if archive.table is not None and self._clock() - archive.since < _OLDEST:
            return archive.table
        archive.table = None
        archive.requested += more
        if archive.refused or archive.requested < _WORTH_A_LOOK:
            return None
        try:
            bucket = self._buckets.bucket(address)
            if archive.cost is None:
                archive.cost = _cost(bucket, root)
            if archive.requested < archive.cost:
                return None
            archive.since = self._clock()
            archive.table = self._list_versions(bucket, root, archive.cost)
            archive.requested = 0
        except NetError:
            # Each blob can still be asked about; and whoever does so will hear what is wrong.
            archive.refused = True
        return archive.table

    def _list_versions(self, bucket: S3Bucket, root: bytes, cost: int) -> BlobTable:
        table = BlobTable()

        def take(prefix: bytes) -> None:
            for row in bucket.objects(prefix, versions=True, connections=1).rows():
                found = _BLOB.match(row.key)
                if row.latest and not row.deleted and found is not None and found["root"] == root:
                    table.add(uuid.UUID(found["id"].decode("ascii")), row)

        if cost < _WORTH_PARTS:
            take(root)
            return table
        # A listing of versions can only be gone through page by page; sixteen can at once.
        prefixes = [root + b"%x" % digit for digit in range(16)]
        with ContextThreadPool(self._connections, thread_name_prefix="dandi-sweep") as pool:
            for _ in pool.map(take, prefixes):
                pass
        return table


def _parse_blob_urls(
    urls: Iterable[str],
) -> Iterator[tuple[str, tuple[ObjectAddress, bytes, uuid.UUID]]]:
    """Yields those of some URLs that are of blobs, each with its place."""
    beginnings: dict[str, tuple[ObjectAddress, bytes]] = {}
    for url in urls:
        plain = _PLAIN.fullmatch(url)
        known = None if plain is None else beginnings.get(plain[1])
        if plain is not None and known is not None:
            yield url, (*known, uuid.UUID(plain[2]))
            continue
        parsed = _parse_blob_url(url)
        if parsed is not None:
            if plain is not None:
                beginnings[plain[1]] = parsed[:2]
            yield url, parsed


def _parse_blob_url(url: str) -> tuple[ObjectAddress, bytes, uuid.UUID] | None:
    """Bucket, root and blob of a blob's plain URL."""
    if "?" in url:
        return None
    try:
        address = parse_object_url(url)
    except ValueError:
        return None
    found = _BLOB.match(address.key)
    if found is None:
        return None
    return address, found["root"], uuid.UUID(found["id"].decode("ascii"))


def _cost(bucket: S3Bucket, root: bytes) -> int:
    """About how many pages a sweep has, from its first one; raises where none is given."""
    rows = bucket.objects(root, versions=True, connections=1).rows()
    first = list(islice(rows, _PAGE))
    if isinstance(rows, Generator):
        rows.close()  # else the pages after it might be asked for
    found = _BLOB.match(first[-1].key) if len(first) == _PAGE else None
    if found is None:
        return 1
    reached = int(found["fan"].replace(b"/", b""), 16) + 1
    return -(-(16**6) // reached)
