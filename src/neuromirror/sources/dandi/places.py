"""Where a blob's bytes are: the object with its version id, then the API's download address."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final
from urllib.parse import parse_qs, quote, urlsplit

import msgspec

from neuromirror.model import FileRecord, Location, NamedException
from neuromirror.net import ServerTrouble, Session, TimedOut, UnsafeAddress
from neuromirror.sources.dandi.rows import BlobRow
from neuromirror.sources.protocol import Known

Entry = FileRecord | NamedException
_TOLERATED: Final = 3
_AHEAD: Final = 8
"""Rows waiting for each connection; more would only use memory."""


def exact_location(plain: str, version_id: str) -> Location:
    """The location of one version of an object."""
    joint = "&" if urlsplit(plain).query else "?"
    return Location(f"{plain}{joint}versionId={quote(version_id, safe='')}", "s3", version_id)


def with_locations(
    rows: Iterable[BlobRow | NamedException],
    session: Session,
    known: Known,
    *,
    api: str,
    connections: int,
) -> Iterator[Entry]:
    """Yields the rows in order as records with their locations.

    Version ids that are not known are asked for with HEAD, ``connections`` at a time. A few
    objects that the bucket cannot answer for keep their plain address, so that one of them does
    not block the rest. Raises a :class:`~neuromirror.net.NetError` when it is more than a few, or
    the bucket is out of reach: records without version ids because of a passing trouble would
    differ from the next visit's.
    """
    troubles = _Troubles()

    def place(row: BlobRow) -> Entry:
        return _placed(row, session, troubles, api=api)

    waiting: deque[Callable[[], Entry]] = deque()
    pool = ThreadPoolExecutor(connections, thread_name_prefix="dandi-head")
    try:
        for row in rows:
            if isinstance(row, NamedException):
                waiting.append(_ready(row))
            else:
                found = None if row.object_url is None else known.locations([row.object_url])[0]
                if row.object_url is None or found is not None:
                    waiting.append(_ready(_record(row, found, api)))
                else:
                    future: Future[Entry] = pool.submit(place, row)
                    waiting.append(future.result)
            if len(waiting) > connections * _AHEAD:
                yield waiting.popleft()()
        while waiting:
            yield waiting.popleft()()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _ready(entry: Entry) -> Callable[[], Entry]:
    return lambda: entry


def _record(row: BlobRow, first: Location | None, api: str) -> FileRecord:
    download = Location(f"{api}/assets/{row.asset_id}/download/", "api")
    return msgspec.structs.replace(
        row.record, locations=(download,) if first is None else (first, download)
    )


class _Troubles:
    """Counts the objects of one listing that the bucket could not answer for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0

    def too_many(self) -> bool:
        with self._lock:
            self._count += 1
            return self._count > _TOLERATED


def _placed(row: BlobRow, session: Session, troubles: _Troubles, *, api: str) -> Entry:
    plain = row.object_url
    assert plain is not None
    named = parse_qs(urlsplit(plain).query).get("versionId")
    try:
        reply = session.head(plain)
    except UnsafeAddress:
        return _record(row, None, api)
    except (ServerTrouble, TimedOut):
        if troubles.too_many():
            raise
        return _record(row, Location(plain, "s3", named[0] if named else None), api)
    stated = reply.headers.get("Content-Length", "")
    if not 200 <= reply.status < 300:
        return _record(row, Location(plain, "s3", named[0] if named else None), api)
    if (
        stated.isdecimal()
        and "Content-Encoding" not in reply.headers
        and int(stated) != row.record.size
    ):
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
