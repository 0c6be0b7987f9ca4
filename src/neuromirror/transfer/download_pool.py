"""Threads that fetch: tasks go in, what came of them comes out."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import copy_context
from typing import Final

from neuromirror.net import ConnectionFactory, PersistentConnection
from neuromirror.transfer.annex_objects import AnnexObjectStore
from neuromirror.transfer.annex_settings import AnnexSettings
from neuromirror.transfer.fetcher import Fetcher, FetchResult, FetchTask
from neuromirror.transfer.url_sessions import UrlSessions

_MIN_POLL: Final = 0.001
_MAX_POLL: Final = 0.02
"""Seconds between looks at what came."""

_STOP_TIMEOUT: Final = 2.0
"""Seconds that threads have to come to their end once a run is broken off."""

ReceivedBytes = tuple[str, int]
"""A key, and how many bytes more of it have come."""


class DownloadPool:
    """Up to ``jobs`` threads at work on tasks; a context manager, which breaks off at its end.

    ``intend`` is told each key whose content is about to be put in its place.
    """

    def __init__(
        self,
        sessions: UrlSessions,
        settings: AnnexSettings,
        store: AnnexObjectStore,
        jobs: int,
        before_store: Callable[[str], None],
    ) -> None:
        self._connection_pool = ConnectionFactory(sessions.session_for)
        self._pause = sessions.limits.wait
        self._headers = settings.headers
        self._store = store
        self._before_store = before_store
        self._breaker = sessions.breaker
        self._stop = threading.Event()
        self._tasks: queue.SimpleQueue[FetchTask | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[FetchResult | ReceivedBytes | None] = queue.SimpleQueue()
        self._jobs = jobs
        self._threads: list[threading.Thread] = []
        self._error: BaseException | None = None
        self._open_connections: list[PersistentConnection] = []

    def __enter__(self) -> DownloadPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def put(self, task: FetchTask) -> None:
        """One more task."""
        self._tasks.put(task)
        if len(self._threads) < self._jobs:
            # a daemon, since no program may wait at its end for a server that says nothing; and in
            # this context, so that requests count for whoever has it asked
            working = threading.Thread(target=copy_context().run, args=(self._work,), daemon=True)
            self._threads.append(working)
            working.start()

    def take(self) -> Iterator[FetchResult | ReceivedBytes]:
        """What came of tasks, and has arrived of them, since the last time; waits for something."""
        # whoever waits on a queue is woken for each small file, and all threads wait for that
        wait = _MIN_POLL
        while self._results.empty():
            time.sleep(wait)
            wait = min(2 * wait, _MAX_POLL)
        for _ in range(self._results.qsize()):
            found = self._results.get()
            if found is None:
                raise AssertionError("a thread ended before its time") from self._error
            yield found

    def stop(self) -> list[FetchResult]:
        """Breaks off what is under way; gives what was not taken yet.

        A thread that still waits for a server after some seconds is left to itself: once something
        comes it finds that all is over, and writes nothing.
        """
        self._stop.set()
        with suppress(queue.Empty):
            while True:
                self._tasks.get_nowait()
        for _ in self._threads:
            self._tasks.put(None)
        for connection in self._open_connections:
            connection.abort()
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

    def _work(self) -> None:
        connection = self._connection_pool.new_connection()
        self._open_connections.append(connection)
        fetcher = Fetcher(
            connection,
            self._store,
            self._breaker,
            headers=self._headers,
            stop=self._stop,
            report_bytes=lambda key, more: self._results.put((key, more)),
            before_store=self._before_store,
            pause=self._pause,
        )
        try:
            while (task := self._tasks.get()) is not None:
                self._results.put(fetcher.fetch(task))
        except BaseException as error:
            self._error = error
            raise
        finally:
            connection.close()
            # wakes the one who waits: before the end of all, no thread should get here
            self._results.put(None)
