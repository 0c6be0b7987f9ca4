"""HEAD requests for objects: one per object, even if several assets share it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Final
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import Struct

from neuromirror.model import ExcludedEntry, FileRecord, Location, path_to_text
from neuromirror.model.records import url_version_id
from neuromirror.net import (
    AccessDeniedError,
    ContextThreadPool,
    ResponseHead,
    Session,
    UnsafeAddressError,
    check_object_head,
    content_length,
)
from neuromirror.sources.dandi.blob_versions import BlobVersionLookup
from neuromirror.sources.dandi.rows import BlobRow, Row
from neuromirror.sources.protocol import ComponentEntry, VisitContext

_MOST: Final = 50_000
"""Maximum cached replies, of about 300 bytes each."""
_OLDEST: Final = 6 * 3600.0


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
