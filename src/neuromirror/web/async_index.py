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
from typing import Generic, TypeVar

from neuromirror.index import Index

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


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


class SharedWork(Generic[K, V]):
    """Work that is in progress, for all requests that wait for its result; for one event loop."""

    def __init__(self) -> None:
        self._running: dict[K, asyncio.Future[V]] = {}

    def __len__(self) -> int:
        return len(self._running)

    def __contains__(self, key: K) -> bool:
        return key in self._running

    def start(self, key: K, work: Callable[[], Awaitable[V]]) -> asyncio.Future[V]:
        """Return the result of ``work``, which is started if it is not in progress.

        A caller that may be cancelled shields the result.
        """
        running = self._running.get(key)
        if running is None:
            running = self._running[key] = asyncio.ensure_future(work())
            running.add_done_callback(lambda done: self._finish(key, done))
        return running

    def _finish(self, key: K, done: asyncio.Future[V]) -> None:
        del self._running[key]
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
