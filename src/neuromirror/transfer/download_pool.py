"""A pool of download threads: tasks in, results out."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from contextvars import copy_context
from typing import Final

from msgspec import structs

from neuromirror.annex import VaultAddress, is_private_host_allowed
from neuromirror.cache import open_cache
from neuromirror.net import HostCircuitBreaker, RequestLimits, TokenSource
from neuromirror.sources.volumes.tokens import token_from_environment
from neuromirror.transfer.annex_settings import AnnexSettings
from neuromirror.transfer.block_bodies import BlockBodies
from neuromirror.transfer.cached_contents import CachedContents
from neuromirror.transfer.fetch_connections import FetchConnections
from neuromirror.transfer.fetch_tasks import FetchResult, FetchTask
from neuromirror.transfer.fetcher import Fetcher, is_fetched_in_memory
from neuromirror.transfer.object_sink import ObjectSink
from neuromirror.transfer.rate_limit import RateLimit
from neuromirror.transfer.restricted_channels import RestrictedChannels
from neuromirror.transfer.s3_access import S3Access
from neuromirror.transfer.url_sessions import UrlSessions, no_token

_LIMITS: Final = RequestLimits(attempts=3)
_MIN_POLL: Final = 0.001
_MAX_POLL: Final = 0.02
"""Maximum seconds between polls of the result queue."""

_STOP_TIMEOUT: Final = 2.0
"""Seconds that threads have to finish when the pool is stopped."""

ReceivedBytes = tuple[str, int]
"""A key, and the number of bytes received since the last report."""


def open_sessions(
    settings: AnnexSettings,
    jobs: int,
    allowed_hosts: frozenset[str] = frozenset(),
    host_token: Callable[[str], TokenSource | None] = no_token,
) -> UrlSessions:
    """Return sessions for downloads.

    The headers in ``annex.http-headers`` go with each request.

    Parameters
    ----------
    settings
        The git configuration of the clone.
    jobs
        The number of concurrent downloads.
    allowed_hosts
        Hosts that may be accessed whatever their addresses are.
    host_token
        Returns the token that is sent to a host which refuses a request without it, or None. A
        clone needs none: the special remote of git-annex sends it.
    """
    allowed = tuple(settings.allowed_addresses)
    breaker = HostCircuitBreaker()
    return UrlSessions(
        *(allowed, no_token, _limits(jobs), {}),
        host_token=host_token,
        breaker=breaker,
        allowed_hosts=allowed_hosts,
    )


def open_buckets(
    settings: AnnexSettings,
    jobs: int,
    allowed_hosts: frozenset[str] = frozenset(),
    vaults: Sequence[VaultAddress] = (),
) -> S3Access:
    """Return access to the buckets of ``s3://`` URLs in a clone, with the user's credentials.

    The parameters are those of :func:`open_sessions` and :class:`S3Access`.
    """
    allowed = tuple(settings.allowed_addresses)
    return S3Access(
        settings.subsections("neuromirror"),
        lambda host: host in allowed_hosts or is_private_host_allowed(host, allowed),
        _limits(jobs),
        vaults,
    )


def _limits(jobs: int) -> RequestLimits:
    return structs.replace(_LIMITS, per_host=jobs)


class DownloadPool:
    """Up to ``jobs`` download threads; a context manager that stops them on exit.

    Parameters
    ----------
    sessions
        Sessions and circuit breaker for the requests.
    s3
        The buckets of ``s3://`` URLs.
    settings
        Configuration of the clone.
    store
        Where content is stored.
    jobs
        Maximum number of threads.
    before_store
        Called with each key before its content is moved to its object path.
    allowed_hosts
        Hosts that may be accessed whatever their addresses are.
    rate
        Limits the bytes per second of all downloads; None for no limit.
    is_anonymous
        Whether to get only public content: without tokens for restricted channels, and
        without the contents in the user's cache.
    """

    def __init__(
        self,
        sessions: UrlSessions,
        s3: S3Access,
        settings: AnnexSettings,
        store: ObjectSink,
        jobs: int,
        before_store: Callable[[str], None],
        *,
        allowed_hosts: frozenset[str] = frozenset(),
        rate: RateLimit | None = None,
        is_anonymous: bool = False,
    ) -> None:
        self._sessions = sessions
        self._s3 = s3
        self._pause = sessions.limits.wait
        self._headers = settings.headers
        self._blocks = BlockBodies(
            settings,
            no_token if is_anonymous else token_from_environment,
            allowed_hosts=allowed_hosts,
            channels=None if is_anonymous else RestrictedChannels(),
        )
        self._store = store
        self._cached = CachedContents(None if is_anonymous else open_cache())
        self._before_store = before_store
        self._breaker = sessions.breaker
        self._rate = rate
        self._stop = threading.Event()
        self._tasks: queue.SimpleQueue[FetchTask | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[FetchResult | ReceivedBytes | None] = queue.SimpleQueue()
        self._jobs = jobs
        self._threads: list[threading.Thread] = []
        self._error: BaseException | None = None
        self._open_connections: list[FetchConnections] = []

    def __enter__(self) -> DownloadPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def put(self, task: FetchTask) -> None:
        """Queue a task."""
        self._tasks.put(task)
        if len(self._threads) < self._jobs:
            # a daemon thread, so that a server that does not respond cannot block the exit; in
            # the caller's context, so that requests are counted for the caller
            working = threading.Thread(target=copy_context().run, args=(self._work,), daemon=True)
            self._threads.append(working)
            working.start()

    def take(self) -> Iterator[FetchResult | ReceivedBytes]:
        """Yield results and progress since the last call; wait until there is at least one."""
        # polling is faster than a blocking get(), which wakes this thread for each small file
        wait = _MIN_POLL
        while self._results.empty():
            time.sleep(wait)
            wait = min(2 * wait, _MAX_POLL)
        for _ in range(self._results.qsize()):
            found = self._results.get()
            if found is None:
                raise AssertionError("a download thread exited early") from self._error
            yield found

    def stop(self) -> list[FetchResult]:
        """Stop all downloads; return the results that were not taken yet.

        A thread that still waits for a server after the timeout is abandoned: when a reply arrives,
        it notices the stop, and keeps at most its buffer (4 MiB) in the partial file.
        """
        self._stop.set()
        with suppress(queue.Empty):
            while True:
                self._tasks.get_nowait()
        for _ in self._threads:
            self._tasks.put(None)
        for connections in self._open_connections:
            connections.abort()
        self._blocks.close()
        until = time.monotonic() + _STOP_TIMEOUT
        for working in self._threads:
            working.join(max(until - time.monotonic(), 0.0))
        left = []
        with suppress(queue.Empty):
            while True:
                found = self._results.get_nowait()
                if isinstance(found, FetchResult):
                    left.append(found)
        return left

    def _report_bytes(self, key: str, more: int) -> None:
        if self._rate is not None:
            self._rate.wait(more, self._stop)
        self._results.put((key, more))

    def _work(self) -> None:
        connections = FetchConnections(self._sessions, self._s3, self._headers)
        self._open_connections.append(connections)
        fetcher = Fetcher(
            connections,
            self._blocks,
            self._store,
            self._cached,
            self._breaker,
            stop=self._stop,
            report_bytes=self._report_bytes,
            before_store=self._before_store,
            pause=self._pause,
        )
        try:
            while (task := self._tasks.get()) is not None:
                found = fetcher.fetch(task)
                if self._rate is not None and is_fetched_in_memory(task):
                    self._rate.wait(task.size or 0, self._stop)
                self._results.put(found)
        except BaseException as error:
            self._error = error
            raise
        finally:
            connections.close()
            # wake the caller of take(): no thread should exit before stop()
            self._results.put(None)
