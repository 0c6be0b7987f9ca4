"""Counting what is asked, for whoever has it asked.

A run counts, and so does each visit in it; visits run side by side, and each has threads of its
own. Who counts is therefore a matter of the context in which a request is made, and what makes
threads hands its context on to them: :class:`ContextThreadPool`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import replace
from functools import partial
from typing import Final, ParamSpec, TypeVar

from neuromirror.model import Traffic

OTHER_HOSTS: Final = "(others)"
"""Stands for the hosts after the first so many: redirects could name new ones without end."""

_MOST_HOSTS: Final = 32

_P = ParamSpec("_P")
_T = TypeVar("_T")


class TrafficCounter:
    """Adds up what is asked of each host; shared by threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hosts: dict[str, Traffic] = {}

    def add(self, host: str, more: Traffic) -> None:
        """Counts something more."""
        with self._lock:
            if host not in self._hosts and len(self._hosts) >= _MOST_HOSTS:
                host = OTHER_HOSTS
            self._hosts[host] = self._hosts.get(host, Traffic()) + more

    def hosts(self) -> dict[str, Traffic]:
        """What was counted so far, by host; times to a tenth of a second."""
        with self._lock:
            found = sorted(self._hosts.items())
        return {host: replace(one, waited=round(one.waited, 1)) for host, one in found}


_COUNTERS: ContextVar[tuple[TrafficCounter, ...]] = ContextVar("counting", default=())


@contextmanager
def count_traffic(counter: TrafficCounter) -> Iterator[None]:
    """Lets ``counter``, too, count the requests made inside, also those of a ContextThreadPool."""
    before = _COUNTERS.set((*_COUNTERS.get(), counter))
    try:
        yield
    finally:
        _COUNTERS.reset(before)


def record_traffic(host: str, more: Traffic) -> None:
    """Tells all who count here."""
    for counter in _COUNTERS.get():
        counter.add(host, more)


class ContextThreadPool(ThreadPoolExecutor):
    """Threads whose requests count for whoever submitted the work."""

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """As of its base, in the context of the one who calls."""
        return super().submit(partial(copy_context().run, fn, *args, **kwargs))
