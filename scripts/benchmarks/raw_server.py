"""A minimal, fast HTTP server: whole replies as bytes, over persistent connections."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

Answer = Callable[[bytes, bytes, bytes], bytes]
"""Returns the whole reply, given a method, a target (path and query), and the request's head."""

LAST = b"Connection: close\r\n"
"""In the first 200 bytes of a reply: the connection is closed after it."""


class RawServer:
    """Serves on loopback within a ``with`` block, with one thread per connection.

    Bodies of requests are not read. ``port`` 0 selects a free port.
    """

    def __init__(self, answer: Answer, port: int = 0) -> None:
        self.url = ""
        """``http://127.0.0.1:<port>``, while the server runs."""
        self._answer = answer
        self._port = port
        self._lock = threading.Lock()
        self._open: dict[socket.socket, threading.Thread] = {}

    def __enter__(self) -> RawServer:
        self._listener = socket.create_server(("127.0.0.1", self._port), backlog=128)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # shutdown() wakes a thread that waits in accept()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        with self._lock:
            threads = list(self._open.values())
            for one in self._open:
                with suppress(OSError):  # the client may have disconnected
                    one.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                one, _ = self._listener.accept()
            except OSError:
                return
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            thread = threading.Thread(target=self._serve, args=(one,), daemon=True)
            with self._lock:
                self._open[one] = thread
            thread.start()

    def _serve(self, one: socket.socket) -> None:
        waiting = b""
        try:
            while True:
                while b"\r\n\r\n" not in waiting:
                    more = one.recv(1 << 16)
                    if not more:
                        return
                    waiting += more
                head, _, waiting = waiting.partition(b"\r\n\r\n")
                method, target, _ = head.split(b"\r\n", 1)[0].split(b" ", 2)
                reply = self._answer(method, target, head)
                one.sendall(reply)
                if LAST in reply[:200]:
                    return
        except OSError:
            return
        finally:
            with self._lock:
                del self._open[one]
                one.close()
