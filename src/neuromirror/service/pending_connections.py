"""Limits on connections without a request yet: their number, and how long they may take."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

MAX_PENDING: Final = 64
"""Maximum number of such connections."""


class PendingConnections:
    """The connections of a server that have not sent a request yet; thread-safe.

    A peer that is silent, or sends one byte at a time, is disconnected after ``seconds`` in total.
    Beyond ``limit`` connections the oldest is disconnected, not the new one, so that a prompt
    client is served even during an attack. Disconnecting shuts the socket down, which wakes the
    thread that reads from it.
    """

    def __init__(
        self,
        seconds: float,
        limit: int = MAX_PENDING,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = limit
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._pending: dict[int, tuple[socket.socket, float]] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, sock: socket.socket) -> None:
        """Add a connection; the caller discards it before closing the socket."""
        with self._lock:
            self._pending[id(sock)] = sock, self._clock() + self._seconds
            while len(self._pending) > self._limit:
                self._cut_off(next(iter(self._pending)))

    def discard(self, sock: socket.socket) -> bool:
        """Remove a connection; return whether it was still pending."""
        with self._lock:
            return self._pending.pop(id(sock), None) is not None

    def cut_off_overdue(self) -> None:
        """Disconnect the connections that are overdue; call it about every second."""
        now = self._clock()
        with self._lock:
            for key in [key for key, (_, until) in self._pending.items() if until < now]:
                self._cut_off(key)

    def _cut_off(self, key: int) -> None:
        sock, _ = self._pending.pop(key)
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
