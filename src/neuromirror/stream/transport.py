"""Range requests for contents, with the limits, address rules and credentials of ``get``."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final

from neuromirror.annex import is_private_host_allowed
from neuromirror.net import (
    HostCircuitBreaker,
    IncompleteResponseError,
    RequestLimits,
    RequestTimeoutError,
)
from neuromirror.sources.volumes.tokens import token_from_environment
from neuromirror.stream.trees import AccessRules
from neuromirror.transfer.content_bodies import (
    BlockBodies,
    ContentBodies,
    ContentMismatchError,
    FetchConnections,
)
from neuromirror.transfer.url_sessions import (
    SCHEME,
    RestrictedChannels,
    S3Access,
    UrlSessions,
    host_tokens,
    no_token,
)

STREAM_LIMITS: Final = RequestLimits(attempts=3, wait=0.5, read=30.0, per_host=16)
"""Limits of requests: a reader waits less long than a download does."""

PARALLEL: Final = 8
"""Maximum number of concurrent requests of one transport."""

_MIN_BYTES_PER_SECOND: Final = 1 << 14
"""Rate below which a server counts as stalled."""


class Transport:
    """Reads ranges of contents over persistent connections. Thread-safe.

    Parameters
    ----------
    access
        The rules for requests.
    limits
        Timeouts, retries and concurrency limits.
    has_credentials
        Whether tokens, configured headers and signatures are sent. If not, ``s3://`` URLs are
        refused.
    seconds
        Seconds from now after which all requests fail; None for no limit.
    parallel
        Maximum number of concurrent requests.
    """

    def __init__(
        self,
        access: AccessRules,
        *,
        limits: RequestLimits = STREAM_LIMITS,
        has_credentials: bool = True,
        seconds: float | None = None,
        parallel: int = PARALLEL,
    ) -> None:
        settings, hosts = access.settings, access.allowed_hosts
        allowed = tuple(settings.allowed_addresses)
        self._limits = limits
        self._has_credentials = has_credentials
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._headers = settings.headers if has_credentials else {}
        breaker = HostCircuitBreaker()
        self._sessions = UrlSessions(
            allowed,
            limits=limits,
            keys={},
            host_token=host_tokens(settings) if has_credentials else no_token,
            breaker=breaker,
            allowed_hosts=hosts,
        )
        self._buckets = S3Access(
            settings.subsections("neuromirror"),
            lambda host: host in hosts or is_private_host_allowed(host, allowed),
            limits,
            access.vaults,
        )
        token: Callable[[str], str | None] = token_from_environment if has_credentials else no_token
        channels = RestrictedChannels() if has_credentials else None
        self._blocks = BlockBodies(settings, token, hosts, channels)
        self._bodies = ContentBodies(self._blocks, breaker)
        self._lock = threading.Lock()
        self._idle: list[FetchConnections] = []
        self._busy: set[FetchConnections] = set()
        self._closed = False
        self.pool = ThreadPoolExecutor(parallel, thread_name_prefix="neuromirror-stream")

    @contextmanager
    def open(
        self, url: str, key: str, size: int | None, start: int = 0, stop: int | None = None
    ) -> Generator[Generator[memoryview, None, None], None, None]:
        """Open a range of a content.

        Parameters
        ----------
        url, key, size
            The location, and the key and size in bytes of its content.
        start, stop
            Offsets of the first byte, and after the last byte; None for the end.

        Yields
        ------
        Generator[memoryview, None, None]
            The bytes of exactly this range, in parts. Copy a part before you take the next one,
            which reuses its memory.

        Raises
        ------
        NetError
            A request failed, or the response ended early.
        ContentMismatchError
            The location has too few bytes, sent another range than requested, or needs credentials
            that are not used.
        """
        if url.startswith(f"{SCHEME}:") and not self._has_credentials:
            raise ContentMismatchError("it needs credentials, which are not used here")
        connections = self._check_out(url)
        try:
            total = self._seconds_for((stop if stop is not None else size or 0) - start)
            with self._bodies.open(
                connections, url, key, size, start=start, stop=stop, total=total
            ) as body:
                expected = None if stop is None else stop - start
                yield _exactly(body.chunks, start - body.start, expected)
        finally:
            self._check_in(connections)

    def close(self) -> None:
        """Cancel the requests in progress; all later ones fail."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            busy = list(self._busy)
        for connections in busy:
            connections.abort()
        self.pool.shutdown(wait=False, cancel_futures=True)
        for connections in idle:
            connections.close()
        self._blocks.close()
        self._buckets.close()
        self._sessions.close()

    def _seconds_for(self, count: int) -> float:
        seconds = self._limits.read + max(count, 0) / _MIN_BYTES_PER_SECOND
        if self._deadline is None:
            return seconds
        return max(0.001, min(seconds, self._deadline - time.monotonic()))

    def _check_out(self, url: str) -> FetchConnections:
        """Return connections for the calling thread; the most recently used ones are open."""
        with self._lock:
            if self._closed:
                raise IncompleteResponseError("the file was closed", url=url)
            if self._deadline is not None and time.monotonic() > self._deadline:
                raise RequestTimeoutError("the time for this request is over", url=url)
            if self._idle:
                found = self._idle.pop()
            else:
                found = FetchConnections(self._sessions, self._buckets, self._headers)
            self._busy.add(found)
        return found

    def _check_in(self, connections: FetchConnections) -> None:
        with self._lock:
            self._busy.discard(connections)
            if not self._closed:
                self._idle.append(connections)
                return
        connections.close()


def _exactly(
    chunks: Iterator[memoryview], skip: int, count: int | None
) -> Generator[memoryview, None, None]:
    """Yield ``count`` bytes after the first ``skip``; None for all."""
    if skip < 0:
        raise ContentMismatchError("the server sent another range than requested")
    for chunk in chunks:
        part = chunk[skip:]
        skip = max(0, skip - len(chunk))
        if count is not None:
            part = part[:count]
            count -= len(part)
        if len(part):
            yield part
        if count == 0:
            return
    if count or skip:
        raise ContentMismatchError("the location has fewer bytes than the version")
