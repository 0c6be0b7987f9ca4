"""Results that are kept for further requests, and work for which several requests wait."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

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
            self._results.pop(key, None)
            self._results[key] = time.monotonic() + seconds, result
            while sum(self._size(one) for _, one in self._results.values()) > self._maximum:
                self._results.popitem(last=False)


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
