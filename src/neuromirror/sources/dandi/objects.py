"""HEAD requests for objects: one per object, even if several assets share it."""

from __future__ import annotations

import re
import struct
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import Final
from urllib.parse import quote, unquote_to_bytes, urlsplit

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from neuromirror.model import ExcludedEntry, FileRecord, Location, path_to_text
from neuromirror.model.records import url_version_id
from neuromirror.net import (
    AccessDeniedError,
    ContextThreadPool,
    NetError,
    ObjectRow,
    ResponseHead,
    S3Bucket,
    S3Capabilities,
    Session,
    UnsafeAddressError,
    check_object_head,
    content_length,
    origin,
    parse_aws_host,
    probe_bucket,
)
from neuromirror.sources.dandi.rows import BlobRow, Row
from neuromirror.sources.protocol import ComponentEntry, VisitContext

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


_MOST: Final = 50_000
"""Maximum cached replies, of about 300 bytes each."""


class ObjectReply(Struct, frozen=True):
    """The reply to a HEAD request for an object.

    Attributes
    ----------
    status
        The HTTP status.
    size
        The size in bytes; None if the reply does not state the size of the stored bytes.
    version_id
        The version id; None without one.
    """

    status: int
    size: int | None
    version_id: str | None

    @classmethod
    def of(cls, reply: ResponseHead) -> ObjectReply:
        """Parse a reply; an unusable version id becomes None."""
        plain = "Content-Encoding" not in reply.headers
        version_id = reply.headers.get("x-amz-version-id", "null")
        usable = version_id not in ("", "null") and len(version_id) <= 1024
        return cls(
            reply.status,
            content_length(reply.headers) if plain else None,
            version_id if usable and version_id.isprintable() else None,
        )

    @property
    def found(self) -> bool:
        """Whether the reply describes an object."""
        return 200 <= self.status < 300


class ObjectHeads:
    """Sends HEAD requests and caches successful replies. Thread-safe.

    Concurrent calls for one URL share a request, and its error if it fails. Failures are not
    cached: the next call sends a new request. ``clock`` returns seconds.
    """

    def __init__(self, session: Session, clock: Callable[[], float] = time.monotonic) -> None:
        self._session = session
        self._clock = clock
        self._lock = threading.Lock()
        self._replies: dict[str, tuple[ObjectReply, float]] = {}
        self._running: dict[str, Future[ObjectReply]] = {}

    def cached(self, url: str) -> ObjectReply | None:
        """Return the cached reply for a URL, if any; send no request."""
        with self._lock:
            return self._recent(url)

    def forget(self, url: str) -> None:
        """Drop the cached reply for a URL, so that the next listing requests it."""
        with self._lock:
            self._replies.pop(url, None)

    def head(self, url: str) -> ObjectReply:
        """Return the reply for a URL; raise NetError."""
        with self._lock:
            reply = self._recent(url)
            if reply is not None:
                return reply
            running = self._running.get(url)
            if running is None:
                own: Future[ObjectReply] = Future()
                self._running[url] = own
        if running is not None:
            return running.result()
        try:
            head = self._session.head(url)
            check_object_head(head, url)
            reply = ObjectReply.of(head)
        except BaseException as error:
            with self._lock:
                del self._running[url]
            own.set_exception(error)
            raise
        with self._lock:
            del self._running[url]
            if reply.found:
                self._store(url, reply)
        own.set_result(reply)
        return reply

    def _recent(self, url: str) -> ObjectReply | None:
        kept = self._replies.get(url)
        if kept is None or self._clock() - kept[1] >= _OLDEST:
            return None
        return kept[0]

    def _store(self, url: str, reply: ObjectReply) -> None:
        self._replies.pop(url, None)
        if len(self._replies) >= _MOST:
            del self._replies[next(iter(self._replies))]
        self._replies[url] = reply, self._clock()


AssetEntry = FileRecord | ComponentEntry | ExcludedEntry
_QUEUED_PER_CONNECTION: Final = 8
"""Rows that wait per connection; more would only use memory."""


def exact_location(plain: str, version_id: str) -> Location:
    """Return the location of one version of an object, given the object's URL without a version."""
    separator = "&" if urlsplit(plain).query else "?"
    return Location(f"{plain}{separator}versionId={quote(version_id, safe='')}", "s3", version_id)


class ObjectLocator:
    """Finds the locations of the blobs in one listing.

    Parameters
    ----------
    heads
        Sends HEAD requests for single objects.
    context
        Locations of earlier visits.
    blob_versions
        Version ids from the bucket's listing of versions.
    api
        The archive's API, for download URLs.
    connections
        Number of parallel requests.
    """

    def __init__(
        self,
        heads: ObjectHeads,
        context: VisitContext,
        blob_versions: BlobVersionLookup,
        *,
        api: str,
        connections: int,
    ) -> None:
        self._heads = heads
        self._context = context
        self._blob_versions = blob_versions
        self._api = api
        self._connections = connections
        self._object_problems = _ObjectProblems()
        self._refused: list[AccessDeniedError] = []
        self._is_finished = False

    @property
    def is_settled(self) -> bool:
        """Whether all rows were located without problems, so that equal rows give equal records."""
        return self._is_finished and not self._object_problems.count

    def problems(self) -> list[str]:
        """Return one line for each object that is missing or has another size than its row."""
        return self._object_problems.lines()

    def locate(self, pages: Iterable[Sequence[Row]]) -> Iterator[AssetEntry]:
        """Yield the rows as records with locations: components at once, the others in order.

        A version id comes from the row's URL, from the index, from the bucket's listing of
        versions, or else from a HEAD request for the object. An object that is missing keeps its
        URL without a version id, so that it does not block the others; so does one that the bucket
        has refused for a day.

        Raises
        ------
        NetError
            If the bucket does not reply, or has refused an object for less than a day. Otherwise a
            transient fault would cause records without version ids, and with them a new state.
        """
        waiting: deque[Callable[[], AssetEntry]] = deque()
        pool = ContextThreadPool(self._connections, thread_name_prefix="dandi-head")
        try:
            for row, found in self._with_known_locations(pages):
                if isinstance(row, ComponentEntry):
                    yield row  # so that it can be read while objects are requested
                elif not isinstance(row, BlobRow):
                    waiting.append(_ready(row))
                elif row.object_url is None or found is not None:
                    waiting.append(_ready(_record(row, found, self._api)))
                elif (reply := self._heads.cached(row.object_url)) is not None:
                    waiting.append(_ready(self._entry_from_reply(row, row.object_url, reply)))
                else:
                    waiting.append(pool.submit(self._request_entry, row, row.object_url).result)
                if len(waiting) > self._connections * _QUEUED_PER_CONNECTION:
                    yield waiting.popleft()()
            while waiting:
                yield waiting.popleft()()
            if self._refused:
                # at the end, after the refusal of every object was recorded
                raise self._refused[0]
            self._is_finished = True
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _with_known_locations(
        self, pages: Iterable[Sequence[Row]]
    ) -> Iterator[tuple[Row, Location | None]]:
        """Yield each row with the exact location that is known for it."""
        for rows in pages:
            locations = {
                row.object_url: _stated_version(row.object_url)
                for row in rows
                if isinstance(row, BlobRow) and row.object_url is not None
            }
            urls = [url for url, location in locations.items() if location is None]
            if urls:
                locations.update(zip(urls, self._context.locations(urls), strict=True))
            versions = self._blob_versions.look_up(
                [url for url in urls if locations[url] is None and self._heads.cached(url) is None]
            )
            for row in rows:
                url = row.object_url if isinstance(row, BlobRow) else None
                location = None if url is None else locations[url]
                if location is None and isinstance(row, BlobRow) and url in versions:
                    found = versions[url]
                    # an object of another size is requested, to report the problem
                    if found.size == row.record.size:
                        location = exact_location(url, found.version_id)
                yield row, location

    def _request_entry(self, row: BlobRow, url: str) -> AssetEntry:
        """Request a row's object and return the row's entry."""
        unfit = self._object_problems.reply(url)
        if unfit is not None:
            return self._entry_from_reply(row, url, unfit)
        try:
            return self._entry_from_reply(row, url, self._heads.head(url))
        except UnsafeAddressError:
            self._object_problems.note(url, None)
            return _record(row, None, self._api)

    def _entry_from_reply(self, row: BlobRow, url: str, reply: ObjectReply) -> AssetEntry:
        """Return a row's entry, given the reply for its object."""
        if reply.status in (401, 403):
            self._object_problems.note(url, reply)
            if not self._context.record_refusal(url):
                refused = AccessDeniedError(
                    f"{url}: HTTP {reply.status}. The bucket refuses the object, although the"
                    f" archive lists it ({path_to_text(row.record.path)}) and states no embargo",
                    url=url,
                    status=reply.status,
                )
                self._refused.append(refused)
            return _record(row, Location(url, "s3"), self._api)
        if not reply.found:
            # it may reappear without a change in the list, so this is not settled
            self._object_problems.note(url, reply)
            return _record(row, Location(url, "s3"), self._api)
        if reply.size is not None and reply.size != row.record.size:
            self._object_problems.note(url, reply)
            self._heads.forget(url)
            return ExcludedEntry(
                row.record.path,
                "size-mismatch",
                f"The archive says {row.record.size} bytes, the object at {url} has {reply.size}",
                row.record.size or 0,
            )
        if reply.version_id is None:
            return _record(row, Location(url, "s3"), self._api)
        return _record(row, exact_location(url, reply.version_id), self._api)


def _stated_version(url: str) -> Location | None:
    """Return the location of a URL that contains a version id; None for another URL."""
    version_id = url_version_id(url)
    return None if version_id is None else Location(url, "s3", version_id)


def _ready(entry: AssetEntry) -> Callable[[], AssetEntry]:
    return lambda: entry


def _record(row: BlobRow, first: Location | None, api: str) -> FileRecord:
    download = Location(f"{api}/assets/{row.asset_id}/download/", "api")
    return msgspec.structs.replace(
        row.record, locations=(download,) if first is None else (first, download)
    )


def _describe_reply(reply: ObjectReply) -> str:
    if reply.found:
        return f"has {reply.size} bytes"
    refused = reply.status in (401, 403)
    return f"{'refuses' if refused else 'does not have'} it (HTTP {reply.status})"


class _ObjectProblems:
    """Objects of one listing that are missing or differ from their rows. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._replies: dict[str, ObjectReply | None] = {}

    @property
    def count(self) -> int:
        """The number of objects."""
        return len(self._replies)

    def lines(self) -> list[str]:
        """Return one line for each object that was requested."""
        with self._lock:
            replies = sorted(self._replies.items())
        return [
            f"{url}: the archive lists the object, but its bucket " + _describe_reply(one)
            for url, one in replies
            if one is not None
        ]

    def reply(self, url: str) -> ObjectReply | None:
        """Return the recorded reply for an object, if any."""
        with self._lock:
            return self._replies.get(url)

    def note(self, url: str, reply: ObjectReply | None) -> None:
        """Record an object; ``reply`` is None if its address must not be requested."""
        with self._lock:
            self._replies[url] = reply
