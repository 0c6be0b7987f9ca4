"""Threads that fetch: tasks go in, what came of them comes out."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import copy_context
from typing import Final
from urllib.parse import urlsplit

from neuromirror.annex import may_be_private
from neuromirror.lab.get.fetching import Fetched, Fetcher, Task
from neuromirror.lab.get.objects import ObjectStore
from neuromirror.lab.get.settings import Settings
from neuromirror.net import HostCircuitBreaker, Lane, Lanes, Limits, Session

_ATTEMPTS: Final = 3
_SHORTEST: Final = 0.001
_LONGEST: Final = 0.02
"""Seconds between looks at what came."""

_GRACE: Final = 2.0
"""Seconds that threads have to come to their end once a run is broken off."""

Arrived = tuple[str, int]
"""A key, and how many bytes more of it have come."""


class Sessions:
    """The ways out for a clone: one for the whole internet, one for what git-annex may ask beside.

    A context manager.
    """

    def __init__(self, settings: Settings, jobs: int) -> None:
        limits = Limits(attempts=_ATTEMPTS, per_host=jobs)
        self.limits = limits
        self._public = Session(limits=limits)
        self._private = Session(limits=limits, allow_private=True)
        self._allowed = settings.allowed_addresses
        self._chosen: dict[str, Session] = {}

    def __enter__(self) -> Sessions:
        return self

    def __exit__(self, *_: object) -> None:
        self._public.close()
        self._private.close()

    def session_for(self, url: str) -> Session:
        """The session that may ask an address; one that refuses it where none may."""
        try:
            host = urlsplit(url).netloc.rpartition("@")[2]
        except ValueError:
            return self._public
        found = self._chosen.get(host)
        if found is None:
            private = may_be_private(host, self._allowed)
            found = self._chosen[host] = self._private if private else self._public
        return found


class Crew:
    """Up to ``jobs`` threads at work on tasks; a context manager, which breaks off at its end.

    ``intend`` is told each key whose content is about to be put in its place.
    """

    def __init__(
        self,
        sessions: Sessions,
        settings: Settings,
        store: ObjectStore,
        jobs: int,
        intend: Callable[[str], None],
    ) -> None:
        self._lanes = Lanes(sessions.session_for)
        self._pause = sessions.limits.wait
        self._headers = settings.headers
        self._store = store
        self._intend = intend
        self._breaker = HostCircuitBreaker()
        self._stop = threading.Event()
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Fetched | Arrived | None] = queue.SimpleQueue()
        self._jobs = jobs
        self._working: list[threading.Thread] = []
        self._fault: BaseException | None = None
        self._open: list[Lane] = []

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def put(self, task: Task) -> None:
        """One more task."""
        self._tasks.put(task)
        if len(self._working) < self._jobs:
            # a daemon, since no program may wait at its end for a server that says nothing; and in
            # this context, so that requests count for whoever has it asked
            working = threading.Thread(target=copy_context().run, args=(self._work,), daemon=True)
            self._working.append(working)
            working.start()

    def take(self) -> Iterator[Fetched | Arrived]:
        """What came of tasks, and has arrived of them, since the last time; waits for something."""
        # whoever waits on a queue is woken for each small file, and all threads wait for that
        wait = _SHORTEST
        while self._results.empty():
            time.sleep(wait)
            wait = min(2 * wait, _LONGEST)
        for _ in range(self._results.qsize()):
            found = self._results.get()
            if found is None:
                raise AssertionError("a thread ended before its time") from self._fault
            yield found

    def stop(self) -> list[Fetched]:
        """Breaks off what is under way; gives what was not taken yet.

        A thread that still waits for a server after some seconds is left to itself: once something
        comes it finds that all is over, and writes nothing.
        """
        self._stop.set()
        with suppress(queue.Empty):
            while True:
                self._tasks.get_nowait()
        for _ in self._working:
            self._tasks.put(None)
        for lane in self._open:
            lane.break_off()
        until = time.monotonic() + _GRACE
        for working in self._working:
            working.join(max(until - time.monotonic(), 0.0))
        left = []
        with suppress(queue.Empty):
            while True:
                found = self._results.get_nowait()
                if isinstance(found, Fetched):
                    left.append(found)
        return left

    def _work(self) -> None:
        lane = self._lanes.lane()
        self._open.append(lane)
        fetcher = Fetcher(
            lane,
            self._store,
            self._breaker,
            headers=self._headers,
            stop=self._stop,
            arrived=lambda key, more: self._results.put((key, more)),
            intend=self._intend,
            pause=self._pause,
        )
        try:
            while (task := self._tasks.get()) is not None:
                self._results.put(fetcher.fetch(task))
        except BaseException as error:
            self._fault = error
            raise
        finally:
            lane.close()
            # wakes the one who waits: before the end of all, no thread should get here
            self._results.put(None)
