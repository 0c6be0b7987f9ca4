"""Version ids of all blobs, from the bucket's listing of versions.

One HEAD request per blob is cheap for a few blobs but not for a whole archive, and one page of the
listing of versions below ``blobs/`` has a thousand. Blobs are named by random UUIDs, so the first
page shows how many pages there are. All versions are listed once the single requests would have
cost as much, so the total is at most twice that of the cheaper method.
"""

from __future__ import annotations

import re
import struct
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import islice
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

from msgspec import Struct, field
from msgspec.structs import replace

from neuromirror.net import (
    ContextThreadPool,
    NetError,
    ObjectRow,
    S3Bucket,
    S3Capabilities,
    Session,
    origin,
    parse_aws_host,
    probe_bucket,
)

_USUAL_REGION: Final = "us-east-1"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}\Z")


class ObjectAddress(Struct, frozen=True):
    """The address of an object or prefix in a bucket.

    Attributes
    ----------
    bucket
        The name of the bucket.
    region
        The AWS region; None if unknown.
    endpoint
        The URL of another S3 service; None for AWS.
    key
        The key or prefix.
    """

    bucket: str
    region: str | None
    endpoint: str | None
    key: bytes


def parse_object_url(url: str) -> ObjectAddress:
    """Return the address in an object's URL; raise ValueError if it names no bucket.

    Supported are AWS's virtual-hosted and path-style URLs, with and without a region, and the
    path-style URLs of other stores (``<endpoint>/<bucket>/<key>``). The query is ignored.
    """
    scheme, host, port = origin(url)
    path = urlsplit(url).path.removeprefix("/")
    aws = parse_aws_host(host)
    bucket = aws.bucket if aws else None
    if bucket is None:
        bucket, _, path = path.partition("/")
    if not _NAME.match(bucket):
        raise ValueError(f"{url[:200]!r} names no bucket")
    key = unquote_to_bytes(path)
    if aws:
        return ObjectAddress(bucket, aws.region, None, key)
    usual = port == (443 if scheme == "https" else 80)
    shown = f"[{host}]" if ":" in host else host
    return ObjectAddress(bucket, None, f"{scheme}://{shown}{'' if usual else f':{port}'}", key)


class _OpenBucket(Struct):
    bucket: S3Bucket
    lock: threading.Lock = field(default_factory=threading.Lock)
    capabilities: S3Capabilities | None = None


class BucketCache:
    """The buckets that a source has used. Thread-safe."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._opened: dict[tuple[str, str | None], _OpenBucket] = {}

    def bucket(self, address: ObjectAddress) -> S3Bucket:
        """Return the bucket of an address; send one request if the region is unknown."""
        return self._of(address).bucket

    def capabilities(self, address: ObjectAddress) -> S3Capabilities:
        """Return the bucket's capabilities for anonymous clients, probed below the address's key.

        A bucket whose versions can be read is probed once. ``sample_version`` is only in the result
        of that call, because the object may be unreadable later.
        """
        opened = self._of(address)
        with opened.lock:
            if opened.capabilities is not None:
                return opened.capabilities
            found = probe_bucket(opened.bucket, address.key, checksums=False)
            if found.version_readable:
                # a refusal may apply to the probed objects only, so it is not kept
                opened.capabilities = replace(found, sample_version=None)
            return found

    def _of(self, address: ObjectAddress) -> _OpenBucket:
        name = (address.bucket, address.endpoint)
        with self._lock:
            opened = self._opened.get(name)
            if opened is None:
                opened = self._opened[name] = _OpenBucket(self._open(address))
            return opened

    def _open(self, address: ObjectAddress) -> S3Bucket:
        if address.endpoint is not None:
            return S3Bucket(self._session, address.bucket, endpoint=address.endpoint)
        region = address.region
        if region is None:
            # every reply of AWS names the bucket's region, from whichever endpoint
            reply = S3Bucket(self._session, address.bucket, region=_USUAL_REGION).head(b"")
            region = reply.headers.get("x-amz-bucket-region") or _USUAL_REGION
        return S3Bucket(self._session, address.bucket, region=region)


_BLOB: Final = re.compile(
    rb"(?P<root>(?:.*/)?blobs/)(?P<fan>[0-9a-f]{3}/[0-9a-f]{3})/"
    rb"(?P<id>[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})\Z"
)
_PLAIN: Final = re.compile(
    r"(https?://[a-z0-9.:-]+/(?:[A-Za-z0-9._-]+/)*?blobs/)[0-9a-f]{3}/[0-9a-f]{3}/"
    r"([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})"
)
"""URLs of blobs; two with equal first groups have the same bucket and root."""
_ETAG: Final = re.compile(r"[0-9a-f]{32}(?:-[1-9][0-9]{0,8})?")
_MIN_REQUESTS: Final = 50
"""Single requests before the cost of listing all versions is determined."""
_MIN_PARALLEL_COST: Final = 64
"""Pages from which on the versions are listed in parallel."""
_PAGE: Final = 1000
_OLDEST: Final = 6 * 3600.0
_VERSION_ID: Final = 32
"""Characters of S3's version ids; blobs with other ids are requested singly."""


class BlobVersion(Struct, frozen=True):
    """The latest version of a blob's object; ``size`` in bytes, ``etag`` without quotes."""

    version_id: str
    size: int
    etag: str


class BlobTable:
    """A compact map of blob UUIDs to :class:`BlobVersion`, with 80 bytes per blob.

    Blobs are divided into shards of a few kilobytes by the first three hex digits of their UUID; a
    shard is searched for the UUID's bytes.
    """

    # uuid, size, MD5 in the ETag, its parts + 1 (0: a single-part upload), version id
    _RECORD: Final = struct.Struct(f"<16sQ16sI{_VERSION_ID}s")

    def __init__(self) -> None:
        self._shards: list[bytearray] = [bytearray() for _ in range(4096)]

    def __len__(self) -> int:
        return sum(map(len, self._shards)) // self._RECORD.size

    def add(self, blob: uuid.UUID, row: ObjectRow) -> bool:
        """Add a blob's row; return False if its ETag or version id has another format."""
        version_id = row.version_id or ""
        md5, dash, parts = row.etag.partition("-")
        if not (
            _ETAG.fullmatch(row.etag) and len(version_id) == _VERSION_ID and version_id.isascii()
        ):
            return False
        digest = bytes.fromhex(md5)
        counted = int(parts) + 1 if dash else 0
        shard = self._shards[blob.int >> 116]
        shard += self._RECORD.pack(blob.bytes, row.size, digest, counted, version_id.encode())
        return True

    def get(self, blob: uuid.UUID) -> BlobVersion | None:
        """Return a blob's version, if known."""
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


class _BlobRoot(Struct):
    """The blobs below one root of a bucket, and the cost of listing them."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    requested: int = 0
    cost: int | None = None
    refused: bool = False
    table: BlobTable | None = None
    since: float = 0.0


class BlobVersionLookup:
    """Looks up the latest object versions of blobs in a listing of the bucket's versions.

    The listing is read once it is cheaper than one request per blob. All listings of a source share
    the lookup. It is thread-safe: while one thread lists a bucket, the others wait. ``clock``
    returns seconds.
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
        """Return the known versions of objects, by URL.

        Makes no requests for single URLs, but may list all versions. URLs that are missing in the
        result count as single requests, which the caller has to make.
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
                version = None if table is None else table.get(blob)
                if version is not None:
                    found[url] = version
        return found

    def _table(
        self, archive: _BlobRoot, address: ObjectAddress, root: bytes, more: int
    ) -> BlobTable | None:
        if archive.table is not None and self._clock() - archive.since < _OLDEST:
            return archive.table
        archive.table = None
        archive.requested += more
        if archive.refused or archive.requested < _MIN_REQUESTS:
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
            # single requests for blobs still work, or report the problem
            archive.refused = True
        return archive.table

    def _list_versions(self, bucket: S3Bucket, root: bytes, cost: int) -> BlobTable:
        table = BlobTable()

        def add_blobs(prefix: bytes) -> None:
            for row in bucket.objects(prefix, versions=True, connections=1).rows():
                found = _BLOB.match(row.key)
                if row.latest and not row.deleted and found is not None and found["root"] == root:
                    table.add(uuid.UUID(found["id"].decode("ascii")), row)

        if cost < _MIN_PARALLEL_COST:
            add_blobs(root)
            return table
        # pages of one listing are sequential, so list sixteen prefixes in parallel
        prefixes = [root + b"%x" % digit for digit in range(16)]
        with ContextThreadPool(self._connections, thread_name_prefix="dandi-blob-versions") as pool:
            for _ in pool.map(add_blobs, prefixes):
                pass
        return table


def _parse_blob_urls(
    urls: Iterable[str],
) -> Iterator[tuple[str, tuple[ObjectAddress, bytes, uuid.UUID]]]:
    """Yield the URLs that are those of blobs, each with its address, root and UUID."""
    roots: dict[str, tuple[ObjectAddress, bytes]] = {}
    for url in urls:
        plain = _PLAIN.fullmatch(url)
        known = None if plain is None else roots.get(plain[1])
        if plain is not None and known is not None:
            yield url, (*known, uuid.UUID(plain[2]))
            continue
        parsed = _parse_blob_url(url)
        if parsed is not None:
            if plain is not None:
                roots[plain[1]] = parsed[:2]
            yield url, parsed


def _parse_blob_url(url: str) -> tuple[ObjectAddress, bytes, uuid.UUID] | None:
    """Return address, root and UUID of a blob's URL; None for another URL."""
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
    """Estimate the number of pages of a listing of versions from its first page; raise NetError."""
    rows = bucket.objects(root, versions=True, connections=1).rows()
    first = list(islice(rows, _PAGE))
    if isinstance(rows, Generator):
        rows.close()  # or further pages could be requested
    found = _BLOB.match(first[-1].key) if len(first) == _PAGE else None
    if found is None:
        return 1
    reached = int(found["fan"].replace(b"/", b""), 16) + 1
    return -(-(16**6) // reached)
