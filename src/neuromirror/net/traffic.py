"""Count requests and bytes per caller.

A run has a counter, and so has each of its visits. Visits run concurrently, each with its own
threads, so the active counters are stored in the context of the calling thread.
:class:`ContextThreadPool` passes the context on to its threads.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from functools import partial
from typing import Final, ParamSpec, TypeVar

from msgspec.structs import replace

from neuromirror.model import Traffic

OTHER_HOSTS: Final = "(others)"
"""Replaces all hosts after the first 32, because redirects can name any number of hosts."""

_MOST_HOSTS: Final = 32

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Item = TypeVar("_Item")


class TrafficCounter:
    """Adds up the requests and bytes of each host. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hosts: dict[str, Traffic] = {}

    def add(self, host: str, more: Traffic) -> None:
        """Add traffic to the total of a host.

        Parameters
        ----------
        host
            The name of the host; beyond a maximum number, further hosts are counted together.
        more
            The traffic to add.
        """
        with self._lock:
            if host not in self._hosts and len(self._hosts) >= _MOST_HOSTS:
                host = OTHER_HOSTS
            self._hosts[host] = self._hosts.get(host, Traffic()) + more

    def hosts(self) -> dict[str, Traffic]:
        """Return the traffic by host.

        Returns
        -------
        dict of str to Traffic
            The totals; times are rounded to a tenth of a second.
        """
        with self._lock:
            found = sorted(self._hosts.items())
        return {host: replace(one, waited=round(one.waited, 1)) for host, one in found}


_COUNTERS: ContextVar[tuple[TrafficCounter, ...]] = ContextVar("counting", default=())


@contextmanager
def count_traffic(counter: TrafficCounter) -> Iterator[None]:
    """Count the requests of this context and of its ContextThreadPools.

    Parameters
    ----------
    counter
        The counter to which requests and bytes are added.

    Yields
    ------
    None
        Nothing; requests are counted during the block.
    """
    before = _COUNTERS.set((*_COUNTERS.get(), counter))
    try:
        yield
    finally:
        _COUNTERS.reset(before)


def record_traffic(host: str, more: Traffic) -> None:
    """Add requests and bytes of a host to every counter of this context (:func:`count_traffic`)."""
    for counter in _COUNTERS.get():
        counter.add(host, more)


class ContextThreadPool(ThreadPoolExecutor):
    """A thread pool whose tasks run in the context variables of the thread that submits them.

    So the traffic of its tasks is counted for the submitter (:func:`count_traffic`).
    """

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Submit a task, to run in the context of the caller.

        Parameters
        ----------
        fn, *args, **kwargs
            The function and its arguments.

        Returns
        -------
        Future
            The future result, as of :meth:`concurrent.futures.Executor.submit`.
        """
        return super().submit(partial(copy_context().run, fn, *args, **kwargs))


def results_in_order(
    pool: ThreadPoolExecutor, most: int, work: Callable[[_Item], _T], items: Iterable[_Item]
) -> Iterator[_T]:
    """Yield ``work(item)`` for each item, in order, computed by the threads of a pool.

    Parameters
    ----------
    pool
        The pool, which the caller shuts down.
    most
        Maximum number of items that are queued, computed or not yielded yet.
    work, items
        The function and its arguments.

    Yields
    ------
    Any
        The result for the next item.
    """
    waiting: deque[Future[_T]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) >= most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
