"""Work in threads, for the event loop: queries of the index, results that are kept or shared."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final, Generic, TypeVar

from neuromirror.index import Index
from neuromirror.model import NeuromirrorError

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_MAX_FAILURES: Final = 1024
"""Number of failures that are kept."""


class RecentResults(Generic[K, V]):
    """The results that were used most recently, each until it expires. Thread-safe.

    Parameters
    ----------
    maximum
        The sum of their sizes.
    size
        Returns the size of a result; by default each has the size 1.
    """

    def __init__(self, maximum: int, size: Callable[[V], int] = lambda result: 1) -> None:
        self._maximum, self._size = maximum, size
        self._total = 0
        self._lock = threading.Lock()
        self._results: OrderedDict[K, tuple[float, V]] = OrderedDict()

    def get(self, key: K) -> V | None:
        """Return a result; None if there is none, or if it has expired."""
        with self._lock:
            until, found = self._results.get(key, (0.0, None))
            if found is None or time.monotonic() >= until:
                return None
            self._results.move_to_end(key)
            return found

    def put(self, key: K, result: V, seconds: float = float("inf")) -> None:
        """Keep a result for some seconds, and drop those that exceed the maximum."""
        with self._lock:
            if key in self._results:
                self._total -= self._size(self._results.pop(key)[1])
            self._results[key] = time.monotonic() + seconds, result
            self._total += self._size(result)
            while self._total > self._maximum:
                self._total -= self._size(self._results.popitem(last=False)[1][1])


class UnavailableError(NeuromirrorError):
    """What a visitor requests cannot be read or made now; ``status`` is the HTTP status to return.

    The message is sent to the visitor, so it must not have secrets or paths of this machine.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class SharedResults(Generic[K, V]):
    """Results of work, made once for all requests that wait for them; for one event loop.

    Parameters
    ----------
    maximum, size
        How many results are kept, as of :class:`RecentResults`.
    failure_seconds
        The time for which an :class:`UnavailableError` is raised again, without the work.
    max_pending
        The number of results in progress above which no other one is started.
    busy
        The message of the error that is raised then.
    """

    def __init__(
        self,
        maximum: int,
        size: Callable[[V], int] = lambda result: 1,
        *,
        failure_seconds: float,
        max_pending: int,
        busy: str,
    ) -> None:
        self._results: RecentResults[K, V] = RecentResults(maximum, size)
        self._failures: RecentResults[K, UnavailableError] = RecentResults(_MAX_FAILURES)
        self._failure_seconds, self._max_pending, self._busy = failure_seconds, max_pending, busy
        self._pending: dict[K, asyncio.Future[V]] = {}

    def known(self, key: K) -> V | UnavailableError | None:
        """Return a result, or its recent failure; None if there is neither."""
        return self._failures.get(key) or self._results.get(key)

    async def get(self, key: K, work: Callable[[], Awaitable[V]]) -> V:
        """Return a result; raise its :class:`UnavailableError`.

        The work goes on if the caller is cancelled.
        """
        known = self.known(key)
        if isinstance(known, UnavailableError):
            raise known
        if known is not None:
            return known
        pending = self._pending.get(key)
        if pending is None:
            if len(self._pending) >= self._max_pending:
                raise UnavailableError(self._busy, 503)
            pending = self._pending[key] = asyncio.ensure_future(self._make(key, work))
            pending.add_done_callback(lambda done: self._finish(key, done))
        return await asyncio.shield(pending)

    async def _make(self, key: K, work: Callable[[], Awaitable[V]]) -> V:
        try:
            result = await work()
        except UnavailableError as error:
            self._failures.put(key, error, self._failure_seconds)
            raise
        self._results.put(key, result)
        return result

    def _finish(self, key: K, done: asyncio.Future[V]) -> None:
        del self._pending[key]
        if not done.cancelled():
            done.exception()  # retrieved, because the requests may be gone


_T = TypeVar("_T")
_THREADS = 4
"""Threads per pool; separate pools keep slow queries from blocking file reads."""
_LONG_QUERY_THREADS = 2
_QUERY_SECONDS = 10.0
"""Time limit of a query …"""
_LONG_QUERY_SECONDS = 60.0
"""… and of a long query in its own pool."""


class AsyncIndexReader:
    """Queries the index at ``path``, and reopens it after a rebuild has replaced it.

    Queries raise IndexMissingError if there is no index.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread_local = threading.local()
        self._query_pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="ask")
        self._long_query_pool = ThreadPoolExecutor(
            _LONG_QUERY_THREADS, thread_name_prefix="compare"
        )
        self._work_pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="do")
        self._file_pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="read")

    async def query(self, question: Callable[[Index], _T]) -> _T:
        """Run a query of the current index and return its result, which must not be lazy.

        Raises
        ------
        QueryStoppedError
            If the query exceeds its time limit.
        """
        return await self._run_stoppable(self._query_pool, _QUERY_SECONDS, question)

    async def long_query(self, question: Callable[[Index], _T]) -> _T:
        """Run a query that may take many seconds, without blocking :meth:`query`."""
        return await self._run_stoppable(self._long_query_pool, _LONG_QUERY_SECONDS, question)

    async def _run_stoppable(
        self, pool: ThreadPoolExecutor, seconds: float, question: Callable[[Index], _T]
    ) -> _T:
        """Run a query in a thread; stop it after ``seconds`` or when cancelled."""
        cancelled = threading.Event()

        def run() -> _T:
            until = time.monotonic() + seconds
            return self._run_query(question, lambda: cancelled.is_set() or time.monotonic() > until)

        try:
            return await asyncio.get_running_loop().run_in_executor(pool, run)
        finally:
            cancelled.set()

    def _run_query(self, question: Callable[[Index], _T], stop: Callable[[], bool]) -> _T:
        index: Index | None = getattr(self._thread_local, "index", None)
        if index is not None and index.is_replaced:
            index.close()
            index = self._thread_local.index = None  # not reused if the next line fails
        if index is None:
            index = self._thread_local.index = Index.open_readonly(self._path)
        with index.reader.stop_when(stop):
            return question(index)

    async def run_in_thread(self, work: Callable[[], _T]) -> _T:
        """Run a function that takes long or waits for a program."""
        return await asyncio.get_running_loop().run_in_executor(self._work_pool, work)

    async def run_file_read(self, work: Callable[[], _T]) -> _T:
        """Run a function that reads from disk only."""
        return await asyncio.get_running_loop().run_in_executor(self._file_pool, work)

    @property
    def revision(self) -> tuple[int, ...]:
        """A value that changes whenever the index may have changed."""
        stamps: list[int] = []
        for path in (self._path, self._path.with_name(self._path.name + "-wal")):
            with suppress(FileNotFoundError):
                found = path.stat()
                stamps += [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns]
        return tuple(stamps)
