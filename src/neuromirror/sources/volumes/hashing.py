"""Hashing of blocks: parallel streams, of which nothing is stored."""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from contextlib import closing
from itertools import islice
from typing import Final

from neuromirror.net import ContextThreadPool, IncompleteResponseError, NetError, Session
from neuromirror.sources.volumes.errors import BlockReadError, WrongVoxelsError
from neuromirror.sources.volumes.fetching import fetch_block
from neuromirror.sources.volumes.grid import Block
from neuromirror.sources.volumes.urls import parse_url

_ATTEMPTS: Final = 3
"""Attempts after truncated replies; the session itself retries failed requests."""
_QUEUED_PER_WORKER: Final = 2
"""Queued blocks per worker, so that a slow block does not stop the others."""

Numbered = tuple[int, Block]


class _StoppedError(Exception):
    """Another block failed, so this one is cancelled."""


class BlockHasher:
    """Reads blocks from a service in parallel and computes the sha256 of their chunk files.

    Nothing is stored. ``name`` is the dataset's, for messages; ``workers`` the number of blocks
    that are read in parallel.
    """

    def __init__(self, session: Session, name: str, workers: int) -> None:
        self._session = session
        self._name = name
        self._workers = workers

    def digests(
        self, numbered_blocks: Iterable[Numbered], note: Callable[[int, bytes], None] | None = None
    ) -> Generator[tuple[int, bytes], None, None]:
        """Yield number and sha256 (32 bytes) of each block, in the given order.

        ``note`` is called with each as soon as it is known, in a worker thread.

        Raises
        ------
        BlockReadError
            At the first block that cannot be read; the others are cancelled.
        """
        stop = threading.Event()
        pool = ContextThreadPool(self._workers, thread_name_prefix="volume-block")
        rest = iter(numbered_blocks)
        waiting: deque[tuple[int, Future[bytes]]] = deque()
        try:
            while True:
                capacity = self._workers * (1 + _QUEUED_PER_WORKER) - len(waiting)
                for number, block in islice(rest, capacity):
                    waiting.append((number, pool.submit(self._digest, number, block, stop, note)))
                if not waiting:
                    return
                number, future = waiting.popleft()
                yield number, future.result()
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _digest(
        self,
        number: int,
        block: Block,
        stop: threading.Event,
        note: Callable[[int, bytes], None] | None,
    ) -> bytes:
        digest = self._read_with_retries(block, stop)
        if note is not None:
            note(number, digest)
        return digest

    def _read_with_retries(self, block: Block, stop: threading.Event) -> bytes:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._read(block, stop)
            except (NetError, WrongVoxelsError) as error:
                broken = (
                    isinstance(error, IncompleteResponseError | WrongVoxelsError)
                    and error.transient
                )
                if not broken or attempt == _ATTEMPTS:
                    raise BlockReadError(
                        f"{self._name}: the block {block.path.decode()} ({block.url}) cannot be"
                        f" read: {error}; nothing was changed"
                    ) from error
                limits = self._session.limits
                stop.wait(min(limits.wait_max, limits.wait * 2**attempt))
        raise AssertionError("the last attempt returns or raises")

    def _read(self, block: Block, stop: threading.Event) -> bytes:
        digest = hashlib.sha256()
        with closing(fetch_block(self._session, parse_url(block.url), size=block.size)) as pieces:
            for piece in pieces:
                if stop.is_set():
                    raise _StoppedError
                digest.update(piece)
        return digest.digest()
