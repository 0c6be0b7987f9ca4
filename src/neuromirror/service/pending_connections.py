"""Limits for connections whose peers have not proved anything yet: how many, and for how long."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

HANDSHAKE_SECONDS: Final = 10.0
"""That a peer may take until it has asked, or has authenticated."""

MAX_PENDING: Final = 64
"""Connections that may wait for that at a time."""


class PendingConnections:
    """Connections that wait for their peer's request or key; shared by threads.

    A silent peer, or one that sends a byte at a time, is cut off after ``seconds`` as a whole.
    Beyond ``most`` the connection that has waited longest is cut off, and not the new one: so
    whoever asks at once is heard whatever others do. To cut off is to shut the socket down, which
    wakes the thread that reads from it.
    """

    def __init__(
        self,
        limit: int = MAX_PENDING,
        seconds: float = HANDSHAKE_SECONDS,
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
        """Begin to wait for a peer; whoever adds a socket discards it before closing it."""
        with self._lock:
            self._pending[id(sock)] = sock, self._clock() + self._seconds
            while len(self._pending) > self._limit:
                self._cut_off(next(iter(self._pending)))

    def discard(self, sock: socket.socket) -> bool:
        """Wait no longer for a peer; return whether it was still waited for."""
        with self._lock:
            return self._pending.pop(id(sock), None) is not None

    def cut_off_overdue(self) -> None:
        """Cut off those that have taken too long; to be called every second or so."""
        now = self._clock()
        with self._lock:
            for key in [key for key, (_, until) in self._pending.items() if until < now]:
                self._cut_off(key)

    def _cut_off(self, key: int) -> None:
        sock, _ = self._pending.pop(key)
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
