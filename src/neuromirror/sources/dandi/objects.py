"""HEAD requests for objects: one per object, even if several assets share it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final

from msgspec import Struct

from neuromirror.net import ResponseHead, Session, check_object_head, content_length

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
