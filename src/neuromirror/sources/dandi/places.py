"""Where a blob's bytes are: the object with its version id, then the API's download address."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final
from urllib.parse import parse_qs, quote, urlsplit

import msgspec

from neuromirror.model import FileRecord, Location, NamedException
from neuromirror.net import CountedPool, ServerTrouble, Session, TimedOut, UnsafeAddress
from neuromirror.sources.dandi.rows import BlobRow, Row
from neuromirror.sources.dandi.sweep import Sweep
from neuromirror.sources.protocol import Known, Part

Entry = FileRecord | Part | NamedException
_TOLERATED: Final = 3
_AHEAD: Final = 8
"""Rows waiting for each connection; more would only use memory."""


def exact_location(plain: str, version_id: str) -> Location:
    """The location of one version of an object."""
    joint = "&" if urlsplit(plain).query else "?"
    return Location(f"{plain}{joint}versionId={quote(version_id, safe='')}", "s3", version_id)


class Places:
    """Finds where the blobs of one listing are.

    ``settled`` says that all were read and that the bucket answered for every object that it was
    asked about: the same rows would give the same records again.
    """

    def __init__(
        self, session: Session, known: Known, sweep: Sweep, *, api: str, connections: int
    ) -> None:
        self._session = session
        self._known = known
        self._sweep = sweep
        self._api = api
        self._connections = connections
        self._troubles = _Troubles()
        self._ended = False

    @property
    def settled(self) -> bool:
        """Whether no object is still to be asked about, now or next time."""
        return self._ended and self._troubles.unanswered == 0

    def located(self, pages: Iterable[Sequence[Row]]) -> Iterator[Entry]:
        """Yields the rows in order as records with their locations.

        What earlier visits learnt is asked for a page at a time, and what they did not know of the
        sweep. Version ids that are not known then are asked for with HEAD, ``connections`` at a
        time. A few objects that the bucket cannot
        answer for keep their plain address, so that one of them does not block the rest. Raises
        a :class:`~neuromirror.net.NetError` when it is more than a few, or the bucket is out of
        reach: records without version ids because of a passing trouble would differ from the
        next visit's.
        """
        waiting: deque[Callable[[], Entry]] = deque()
        pool = CountedPool(self._connections, thread_name_prefix="dandi-head")
        try:
            for row, found in self._with_known(pages):
                if not isinstance(row, BlobRow):
                    waiting.append(_ready(row))
                elif row.object_url is None or found is not None:
                    waiting.append(_ready(_record(row, found, self._api)))
                else:
                    waiting.append(pool.submit(self._asked, row).result)
                if len(waiting) > self._connections * _AHEAD:
                    yield waiting.popleft()()
            while waiting:
                yield waiting.popleft()()
            self._ended = True
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _with_known(self, pages: Iterable[Sequence[Row]]) -> Iterator[tuple[Row, Location | None]]:
        """Yields each row with the exact location that is known for it."""
        for rows in pages:
            urls = [
                row.object_url
                for row in rows
                if isinstance(row, BlobRow) and row.object_url is not None
            ]
            known = dict(zip(urls, self._known.locations(urls), strict=True)) if urls else {}
            swept = self._sweep.blobs([url for url in known if known[url] is None])
            for row in rows:
                url = row.object_url if isinstance(row, BlobRow) else None
                place = None if url is None else known[url]
                if place is None and isinstance(row, BlobRow) and url in swept:
                    found = swept[url]
                    # Of another size it is asked about, which tells what is wrong.
                    if found.size == row.record.size:
                        place = exact_location(url, found.version_id)
                yield row, place

    def _asked(self, row: BlobRow) -> Entry:
        return _placed(row, self._session, self._troubles, api=self._api)


def _ready(entry: Entry) -> Callable[[], Entry]:
    return lambda: entry


def _record(row: BlobRow, first: Location | None, api: str) -> FileRecord:
    download = Location(f"{api}/assets/{row.asset_id}/download/", "api")
    return msgspec.structs.replace(
        row.record, locations=(download,) if first is None else (first, download)
    )


class _Troubles:
    """Counts the objects of one listing that the bucket could not or would not answer for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._passing = 0
        self.unanswered = 0

    def unanswered_for(self, *, passing: bool = False) -> bool:
        """Counts one more; gives whether passing troubles are too many to go on."""
        with self._lock:
            self.unanswered += 1
            self._passing += passing
            return self._passing > _TOLERATED


def _placed(row: BlobRow, session: Session, troubles: _Troubles, *, api: str) -> Entry:
    plain = row.object_url
    assert plain is not None
    named = parse_qs(urlsplit(plain).query).get("versionId")
    try:
        reply = session.head(plain)
    except UnsafeAddress:
        troubles.unanswered_for()
        return _record(row, None, api)
    except (ServerTrouble, TimedOut):
        if troubles.unanswered_for(passing=True):
            raise
        return _record(row, Location(plain, "s3", named[0] if named else None), api)
    stated = reply.headers.get("Content-Length", "")
    if not 200 <= reply.status < 300:
        # It may be back next time, with nothing in the list to tell so.
        troubles.unanswered_for()
        return _record(row, Location(plain, "s3", named[0] if named else None), api)
    if (
        stated.isdecimal()
        and "Content-Encoding" not in reply.headers
        and int(stated) != row.record.size
    ):
        troubles.unanswered_for()
        return NamedException(
            row.record.path,
            "size-mismatch",
            f"The archive says {row.record.size} bytes, the object at {plain} has {stated}",
            row.record.size or 0,
        )
    version_id = reply.headers.get("x-amz-version-id", "null")
    if named:
        return _record(row, Location(plain, "s3", named[0]), api)
    if version_id in ("", "null") or len(version_id) > 1024 or not version_id.isprintable():
        return _record(row, Location(plain, "s3"), api)
    return _record(row, exact_location(plain, version_id), api)
