"""Where a blob's bytes are: the object with its version id, then the API's download address."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final
from urllib.parse import parse_qs, quote, urlsplit

import msgspec

from neuromirror.model import ExcludedEntry, FileRecord, Location, path_to_text
from neuromirror.net import AccessDeniedError, ContextThreadPool, UnsafeAddressError
from neuromirror.sources.dandi.blob_versions import BlobVersionLookup
from neuromirror.sources.dandi.objects import ObjectHeads, ObjectReply
from neuromirror.sources.dandi.rows import BlobRow, Row
from neuromirror.sources.protocol import ComponentEntry, VisitContext

AssetEntry = FileRecord | ComponentEntry | ExcludedEntry
_AHEAD: Final = 8
"""Rows waiting for each connection; more would only use memory."""


def exact_location(plain: str, version_id: str) -> Location:
    """The location of one version of an object."""
    joint = "&" if urlsplit(plain).query else "?"
    return Location(f"{plain}{joint}versionId={quote(version_id, safe='')}", "s3", version_id)


class ObjectLocator:
    """Finds where the blobs of one listing are.

    ``settled`` says that all were read and that the bucket has every object that it was asked
    about: the same rows would give the same records again.
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
        """Whether no object is still to be asked about, now or next time."""
        return self._is_finished and not self._object_problems.count

    def problems(self) -> list[str]:
        """Return a line for each object that is missing, or of another size than its row says."""
        return self._object_problems.lines()

    def locate(self, pages: Iterable[Sequence[Row]]) -> Iterator[AssetEntry]:
        """Yields the rows as records with their locations: parts at once, the others in order.

        A version id comes from the row's own address, from the index (looked up page by page), from
        the sweep, or else from one HEAD request per object, ``connections`` at a time. An object
        that the bucket says it does not have keeps its plain address, so that it does not block
        the rest, and so does one that the bucket has refused for a day. Raises a
        :class:`~neuromirror.net.NetError` where the bucket gives no answer, or refuses one for a
        shorter time: records without version ids because of a fault that passes would differ from
        the next visit's, for ever.
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
                if len(waiting) > self._connections * _AHEAD:
                    yield waiting.popleft()()
            while waiting:
                yield waiting.popleft()()
            if self._refused:
                # only now, so that all of them are known to be refused
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
            swept = self._blob_versions.look_up(
                [url for url in urls if locations[url] is None and self._heads.cached(url) is None]
            )
            for row in rows:
                url = row.object_url if isinstance(row, BlobRow) else None
                location = None if url is None else locations[url]
                if location is None and isinstance(row, BlobRow) and url in swept:
                    found = swept[url]
                    # Of another size it is asked about, which tells what is wrong.
                    if found.size == row.record.size:
                        location = exact_location(url, found.version_id)
                yield row, location

    def _request_entry(self, row: BlobRow, url: str) -> AssetEntry:
        """Return the entry of a row whose object the bucket has to be asked about."""
        unfit = self._object_problems.reply(url)
        if unfit is not None:
            return self._entry_from_reply(row, url, unfit)
        try:
            return self._entry_from_reply(row, url, self._heads.head(url))
        except UnsafeAddressError:
            self._object_problems.note(url, None)
            return _record(row, None, self._api)

    def _entry_from_reply(self, row: BlobRow, url: str, reply: ObjectReply) -> AssetEntry:
        """Return the entry of a row as its object's HEAD reply has it."""
        if reply.status in (401, 403):
            self._object_problems.note(url, reply)
            if not self._context.record_refusal(url):
                refused = AccessDeniedError(
                    f"{url}: HTTP {reply.status}. The archive lists the object"
                    f" ({path_to_text(row.record.path)}) and states no embargo, and its bucket "
                    f"refuses it",
                    url=url,
                    status=reply.status,
                )
                self._refused.append(refused)
            return _record(row, Location(url, "s3"), self._api)
        if not reply.found:
            # It may be back next time, with nothing in the list to tell so.
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
    """Return the location of an address that itself names the object's version."""
    named = parse_qs(urlsplit(url).query).get("versionId") if "versionId=" in url else None
    return Location(url, "s3", named[0]) if named else None


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
    """The objects of one listing that are missing, or not what the archive's row says."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._replies: dict[str, ObjectReply | None] = {}

    @property
    def count(self) -> int:
        """The number of objects."""
        return len(self._replies)

    def lines(self) -> list[str]:
        """Return what is wrong with each object that was asked for."""
        with self._lock:
            replies = sorted(self._replies.items())
        return [
            f"{url}: the archive lists the object, and its bucket " + _describe_reply(one)
            for url, one in replies
            if one is not None
        ]

    def reply(self, url: str) -> ObjectReply | None:
        """Return the reply that was noted for an object."""
        with self._lock:
            return self._replies.get(url)

    def note(self, url: str, reply: ObjectReply | None) -> None:
        """Note an object; ``reply`` None for one whose address must not be asked."""
        with self._lock:
            self._replies[url] = reply
