"""A WSGI server on loopback, in a thread, that stops without leftovers."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any, cast

from werkzeug.serving import WSGIRequestHandler, make_server

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


class _QuietHandler(WSGIRequestHandler):
    # A client that connects and sends nothing must not delay the shutdown indefinitely.
    timeout = 5

    def log(self, type: str, message: str, *args: Any) -> None:
        """Log nothing: the archives have their own request logs."""


class LoopbackServer:
    """Serves as soon as it is constructed; ``port`` 0 selects a free port."""

    def __init__(self, app: WSGIApplication, port: int = 0) -> None:
        self._server = cast(
            Any,
            make_server("127.0.0.1", port, app, threaded=True, request_handler=_QuietHandler),
        )
        # Shutdown waits for requests in progress.
        self._server.daemon_threads = False
        self._server.block_on_close = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """``http://127.0.0.1:<port>``, without a final slash."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        """Stop accepting requests, finish those in progress, and free the port."""
        stop_serving(self._server)
        self._thread.join()
        self._server.server_close()


def stop_serving(server: TCPServer) -> None:
    """End ``serve_forever`` of a server in another thread, without waiting until it polls."""
    stopping = threading.Thread(target=server.shutdown)
    stopping.start()
    while stopping.is_alive():
        # a connection wakes the server; tests replace socket.create_connection
        with suppress(OSError), socket.socket(server.address_family) as waking:
            waking.settimeout(1)
            waking.connect(server.socket.getsockname()[:2])
        stopping.join(0.02)
