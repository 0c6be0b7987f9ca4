"""Questions to the index from a loop that must not wait: in threads, each with a connection."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from neuromirror.index import Index

_T = TypeVar("_T")
_THREADS = 4
"""Of each kind: a question that takes long keeps no file waiting."""
_SLOW = 2
_SECONDS = 10.0
"""Seconds that a question may take, and …"""
_AT_LENGTH = 60.0
"""… that one may take which others do not wait for."""


class Reader:
    """Reads the index at ``path``, and the new one where a rebuild has put another in its place.

    Questions raise IndexMissing where there is none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._own = threading.local()
        self._asking = ThreadPoolExecutor(_THREADS, thread_name_prefix="ask")
        self._comparing = ThreadPoolExecutor(_SLOW, thread_name_prefix="compare")
        self._doing = ThreadPoolExecutor(_THREADS, thread_name_prefix="do")
        self._reading = ThreadPoolExecutor(_THREADS, thread_name_prefix="read")

    async def ask(self, question: Callable[[Index], _T]) -> _T:
        """The answer to a question about the index as it is now; no iterator may come out.

        Raises QueryStopped where it takes too long.
        """
        return await self._stoppable(self._asking, _SECONDS, question)

    async def ask_at_length(self, question: Callable[[Index], _T]) -> _T:
        """The answer to a question that may take seconds; :meth:`ask` does not wait for it."""
        return await self._stoppable(self._comparing, _AT_LENGTH, question)

    async def _stoppable(
        self, pool: ThreadPoolExecutor, seconds: float, question: Callable[[Index], _T]
    ) -> _T:
        """Ask in a thread, which stops soon after ``seconds`` or when this is cancelled."""
        cancelled = threading.Event()

        def ask() -> _T:
            until = time.monotonic() + seconds
            return self._ask(question, lambda: cancelled.is_set() or time.monotonic() > until)

        try:
            return await asyncio.get_running_loop().run_in_executor(pool, ask)
        finally:
            cancelled.set()

    def _ask(self, question: Callable[[Index], _T], stop: Callable[[], bool]) -> _T:
        index: Index | None = getattr(self._own, "index", None)
        if index is not None and index.replaced:
            index.close()
            index = self._own.index = None  # nor is it asked again where no other can be opened
        if index is None:
            index = self._own.index = Index.open_readonly(self._path)
        with index.bounded(stop):
            return question(index)

    async def do(self, work: Callable[[], _T]) -> _T:
        """Something that waits for a program, or takes its time."""
        return await asyncio.get_running_loop().run_in_executor(self._doing, work)

    async def read(self, work: Callable[[], _T]) -> _T:
        """Something that waits for a disk alone: a piece of a file."""
        return await asyncio.get_running_loop().run_in_executor(self._reading, work)

    @property
    def state(self) -> tuple[int, ...]:
        """Another one whenever the index may have changed."""
        told: list[int] = []
        for path in (self._path, self._path.with_name(self._path.name + "-wal")):
            with suppress(FileNotFoundError):
                found = path.stat()
                told += [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns]
        return tuple(told)
