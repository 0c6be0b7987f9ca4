"""Download content with a pool of connections, verify it, and put it in place."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from contextvars import copy_context
from typing import Final

from msgspec import Struct, field, structs

from neuromirror import net
from neuromirror.annex import VaultAddress, allow_command, host_without_port
from neuromirror.cache import open_cache
from neuromirror.model import NeuromirrorError
from neuromirror.sources.volumes.urls import CutoutRefusedError
from neuromirror.transfer.annex_branch import AnnexSettings
from neuromirror.transfer.annex_objects import (
    AnnexObjectStore,
    InsufficientSpaceError,
    TransferBusyError,
)
from neuromirror.transfer.content_bodies import (
    ContentBodies,
    ContentCheck,
    ContentMismatchError,
    FetchConnections,
    FetchResult,
    FetchTask,
    is_block_url,
    open_local_copy,
)
from neuromirror.transfer.outcomes import displayed_url, host_at_fault, host_of
from neuromirror.transfer.partial_content import (
    CachedContents,
    DirectFileWriter,
    FileWriter,
    PartialContent,
    body_timeout,
    update_check,
)
from neuromirror.transfer.url_sessions import MalformedS3UrlError, RateLimit, no_token
from neuromirror.vault.protocol import CopyRefusedError, VaultError

MAX_IN_MEMORY: Final = 1 << 19
"""Maximum size in bytes of content that is held in memory until it is verified."""

_MAX_IDLE_ATTEMPTS: Final = 3
"""Consecutive attempts at one URL that may be cut off without a new byte."""

_MAX_RESTARTS: Final = 2
_REFUSED_STATUSES: Final = (401, 403)
_SPACE_CHECK_INTERVAL: Final = 1 << 26
"""Bytes between two checks of the free space, for content of unknown size."""


_FAILURES: Final = (net.NetError, net.CredentialsError, MalformedS3UrlError, ContentMismatchError)
"""Errors of one URL, after which the next one is tried."""


class TransferStoppedError(NeuromirrorError):
    """A download was stopped because the whole run was stopped."""


_STORE_FAILURES: Final = (
    *(InsufficientSpaceError, TransferBusyError, TransferStoppedError),
    *(VaultError, CopyRefusedError),
)
"""Errors after which no other URL is tried."""


class Fetcher(Struct, eq=False):
    """Downloads one task after the other; for one thread.

    Parameters
    ----------
    bodies
        Opens response bodies; shared by all threads.
    connections
        Connections of this thread.
    store
        Where content is stored.
    cached
        Contents that need no download.
    stop
        Set when the run is stopped.
    report_bytes
        Called with a key and the number of bytes received; negative if received bytes are
        discarded.
    before_store
        Called with a key before its content is moved to its object path.
    pause
        Seconds to wait after a download was cut off.
    """

    bodies: ContentBodies
    connections: FetchConnections
    store: AnnexObjectStore
    cached: CachedContents
    stop: threading.Event
    report_bytes: Callable[[str, int], None]
    before_store: Callable[[str], None]
    pause: float
    _writer: FileWriter = field(default_factory=FileWriter)

    def __post_init__(self) -> None:
        if self.store.bypasses_page_cache:
            self._writer = DirectFileWriter()

    def fetch(self, task: FetchTask) -> FetchResult:
        """Download the content of a task; errors are returned in the result."""
        found = FetchResult(task)
        try:
            if is_fetched_in_memory(task):
                assert task.size is not None
                self._fetch_small(task, task.size, found)
            else:
                self._fetch_large(task, found)
        except _STORE_FAILURES as error:
            found.store_error = error
            found.errors.append(str(error))
        except OSError as error:
            found.store_error = error
            where = os.fsdecode(error.filename) if error.filename else "the clone"
            found.errors.append(f"cannot write {where}: {error.strerror}")
        return found

    def _fetch_small(self, task: FetchTask, size: int, found: FetchResult) -> None:
        with self.store.reserve_space(size):
            if (cached := self.cached.read(task)) is not None:
                self.before_store(task.key)
                self.store.put(task.key, cached[0])
                found.check = cached[1]
                return
            for url in task.urls:
                try:
                    content, check = self._read_small(url, task, size)
                except _FAILURES as error:
                    self._record_error(found, url, error)
                    continue
                self._check_stopped()
                self.before_store(task.key)
                self.store.put(task.key, content)
                found.check, found.url = check, url
                return

    def _read_small(self, url: str, task: FetchTask, size: int) -> tuple[memoryview, ContentCheck]:
        """Return small content, valid until the connection is used again, and its check."""
        tries = _MAX_IDLE_ATTEMPTS
        while True:
            begun = False
            check = task.check()
            content = memoryview(b"")
            parts = bytearray()
            try:
                with self._open_body(task, url, 0, body_timeout(0)) as body:
                    begun = True
                    _check_length(size, body.start, body.length)
                    check.expect(url, body.headers)
                    for piece in body.chunks:
                        update_check(check, piece)
                        if len(piece) == size:
                            content = piece
                            break
                        parts += piece
            except (net.IncompleteResponseError, net.RequestTimeoutError):
                tries -= 1
                if not begun or not tries:
                    raise
                self._wait_before_retry()
                continue
            if fault := check.mismatch():
                raise ContentMismatchError(fault)
            return content or memoryview(parts), check

    def _fetch_large(self, task: FetchTask, found: FetchResult) -> None:
        with self.store.open_partial(task.key) as file:
            there = os.fstat(file).st_size
            with self.store.reserve_space(task.size, there):
                if not there and self._copy_cached(task, file, found):
                    return
                growth = PartialContent(task, file, self._writer, self.report_bytes)
                growth.resume(self._check_stopped)
                for url in task.urls:
                    try:
                        self._extend(url, growth)
                    except _FAILURES as error:
                        self._record_error(found, url, error)
                        continue
                    self._check_stopped()
                    growth.check.record_digests()
                    self.before_store(task.key)
                    self.store.finish_partial(task.key, file)
                    found.check, found.url = growth.check, url
                    return
                if not growth.check.bytes_seen or not growth.check.has_digest:
                    self.store.discard_partial(task.key)

    def _copy_cached(self, task: FetchTask, file: int, found: FetchResult) -> bool:
        """Return whether the content was in the cache, and is stored."""
        check = self.cached.copy(task, file, lambda more: self.report_bytes(task.key, more))
        if check is None:
            return False
        self._check_stopped()
        self.before_store(task.key)
        self.store.finish_partial(task.key, file)
        found.check = check
        return True

    def _extend(self, url: str, growth: PartialContent) -> None:
        """Download the rest of partial content; raises NetError or ContentMismatchError."""
        idle = restarts = 0
        while True:
            if growth.is_complete and growth.check.mismatch() is None:
                return
            if growth.is_complete or not growth.check.has_digest:
                growth.restart()
            had = growth.check.bytes_seen
            begun = False
            try:
                timeout = growth.remaining_timeout()
                with self._open_body(growth.task, url, had, timeout) as body:
                    begun = True
                    growth.start_at(body.start)
                    _check_length(growth.task.size, body.start, body.length)
                    growth.check.expect(url, body.headers)
                    self._append(body, growth)
                fault = growth.check.mismatch()
            except (net.IncompleteResponseError, net.RequestTimeoutError):
                kept = growth.check.has_digest and growth.check.bytes_seen > had
                idle = 0 if kept else idle + 1
                if not begun or idle == _MAX_IDLE_ATTEMPTS:
                    raise
                self._wait_before_retry()
                continue
            except net.HttpError as error:
                if error.status != 416 or not had:
                    raise
                fault = "the URL has fewer bytes than an earlier attempt received"
            if fault is None:
                return
            growth.restart()
            # the bytes of an earlier attempt may be wrong
            restarts += 1
            if not had or restarts > _MAX_RESTARTS:
                raise ContentMismatchError(fault)

    def _append(self, body: net.OpenBody, growth: PartialContent) -> None:
        try:
            for piece in body.chunks:
                self._check_stopped()
                growth.append(piece)
                seen = growth.check.bytes_seen
                if growth.task.size is None and seen % _SPACE_CHECK_INTERVAL < len(piece):
                    self.store.check_space()
        finally:
            growth.flush()

    def _open_body(
        self, task: FetchTask, url: str, start: int, total: float | None
    ) -> AbstractContextManager[net.OpenBody]:
        if url in task.local_urls:
            return open_local_copy(url, start=start)
        return self.bodies.open(
            self.connections, url, task.key, task.size, start=start, total=total
        )

    def _check_stopped(self) -> None:
        if self.stop.is_set():
            raise TransferStoppedError("the run was stopped")

    def _wait_before_retry(self) -> None:
        self.stop.wait(self.pause)
        self._check_stopped()

    def _record_error(self, found: FetchResult, url: str, error: NeuromirrorError) -> None:
        found.hosts.add(host_at_fault(error, url))
        if is_block_url(url) and isinstance(error, CutoutRefusedError):
            found.needs_credentials |= error.status in _REFUSED_STATUSES
        if isinstance(error, net.UnsafeAddressError) and not error.always_refused:
            # all such hosts have one message
            if found.refused_hosts:
                found.errors.remove(_refused_message(found.refused_hosts))
            if (host := host_of(error.url or url)) not in found.refused_hosts:
                found.refused_hosts.append(host)
            found.errors.append(_refused_message(found.refused_hosts))
        elif isinstance(error, net.CredentialsError | net.NetError):
            message = self.connections.explain(url, error)
            if message not in found.errors:
                found.errors.append(message)
        else:
            found.errors.append(f"{displayed_url(url)}: {error}")


def is_fetched_in_memory(task: FetchTask) -> bool:
    """Return whether a content is held in memory until it is verified; its bytes are not reported.

    Parameters
    ----------
    task
        The download task.

    Returns
    -------
    bool
        Whether the content is small.
    """
    return task.size is not None and task.size <= MAX_IN_MEMORY


def _refused_message(hosts: Sequence[str]) -> str:
    named = list(dict.fromkeys(map(host_without_port, hosts)))
    return (
        f"{', '.join(named)} {'is' if len(named) == 1 else 'are'} on this machine or a private "
        f"network, and not allowed; to allow that: {allow_command(hosts)}"
    )


def _check_length(size: int | None, start: int, length: int | None) -> None:
    if size is not None and length is not None and start + length != size:
        raise ContentMismatchError(f"the URL has {start + length} bytes, expected {size}")


_LIMITS: Final = net.RequestLimits(attempts=3)
_MIN_POLL: Final = 0.001
_MAX_POLL: Final = 0.02
"""Maximum seconds between polls of the result queue."""

_STOP_TIMEOUT: Final = 2.0
"""Seconds that threads have to finish when the pool is stopped."""

ReceivedBytes = tuple[str, int]
"""A key, and the number of bytes received since the last report."""


class DownloadPool:
    """Up to ``jobs`` download threads; a context manager that stops them on exit.

    Parameters
    ----------
    settings
        Configuration of the clone.
    store
        Where content is stored.
    jobs
        Maximum number of threads.
    before_store
        Called with each key before its content is moved to its object path.
    allowed_hosts, vaults, host_token
        As for :class:`~neuromirror.transfer.content_bodies.ContentBodies`.
    rate
        Limits the bytes per second of all downloads; None for no limit.
    is_anonymous
        Whether to get only public content: without tokens for restricted channels, and
        without the contents in the user's cache.
    """

    def __init__(
        self,
        settings: AnnexSettings,
        store: AnnexObjectStore,
        jobs: int,
        before_store: Callable[[str], None],
        *,
        allowed_hosts: frozenset[str] = frozenset(),
        vaults: Sequence[VaultAddress] = (),
        host_token: Callable[[str], net.TokenSource | None] = no_token,
        rate: RateLimit | None = None,
        is_anonymous: bool = False,
    ) -> None:
        self._bodies = ContentBodies(
            *(settings, structs.replace(_LIMITS, per_host=jobs)),
            headers=settings.headers,
            allowed_hosts=allowed_hosts,
            vaults=vaults,
            host_token=host_token,
            has_credentials=not is_anonymous,
        )
        self._store = store
        self._cached = CachedContents(None if is_anonymous else open_cache())
        self._before_store = before_store
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
            result = self._results.get()
            if result is None:
                raise AssertionError("a download thread exited early") from self._error
            yield result

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
        self._bodies.close()
        until = time.monotonic() + _STOP_TIMEOUT
        for working in self._threads:
            working.join(max(until - time.monotonic(), 0.0))
        left = []
        with suppress(queue.Empty):
            while True:
                nowait = self._results.get_nowait()
                if isinstance(nowait, FetchResult):
                    left.append(nowait)
        return left

    def _report_bytes(self, key: str, more: int) -> None:
        if self._rate is not None:
            self._rate.wait(more, self._stop)
        self._results.put((key, more))

    def _work(self) -> None:
        connections = self._bodies.new_connections()
        self._open_connections.append(connections)
        fetcher = Fetcher(
            *(self._bodies, connections, self._store, self._cached, self._stop),
            report_bytes=self._report_bytes,
            before_store=self._before_store,
            pause=_LIMITS.wait,
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
