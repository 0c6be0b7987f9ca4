"""HTTP servers on loopback, each in a thread, that stop without leftovers."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from neuromirror_demo.web import stop_serving


class QuietHandler(BaseHTTPRequestHandler):
    """Keeps connections open, answers HEAD like GET, and logs nothing."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # header and body are two writes

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        raise NotImplementedError

    def do_HEAD(self) -> None:
        self.do_GET()


class DirectoryHandler(SimpleHTTPRequestHandler):
    """Serves files, keeps connections open, and logs nothing."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass


class ServiceHandler(QuietHandler):
    """Leaves the answers to a service."""

    service: Any

    def do_GET(self) -> None:
        try:
            self.service.answer(self)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True


class HttpService:
    """Answers requests with its method ``answer`` while it is entered; ``url`` is its address."""

    url: str
    interface = "127.0.0.1"
    handler_type: type[ServiceHandler] = ServiceHandler

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def answer(self, handler: Any) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        handler = type("Handler", (self.handler_type,), {"service": self})
        self._stack = ExitStack()
        self.url = self._stack.enter_context(serving(handler, self.interface))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


@contextmanager
def serving(
    handler: Callable[..., BaseHTTPRequestHandler], interface: str = "127.0.0.1"
) -> Iterator[str]:
    """Serve on a free port; yields the URL, without a final slash."""
    with ThreadingHTTPServer((interface, 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://{interface}:{server.server_port}"
        finally:
            stop_serving(server)
            thread.join()


@contextmanager
def serving_directory(
    folder: Path, handler: type[DirectoryHandler] = DirectoryHandler
) -> Iterator[str]:
    """Serve the files of a folder."""
    with serving(partial(handler, directory=str(folder))) as url:
        yield url


def send_reply(
    handler: BaseHTTPRequestHandler,
    status: int,
    body: bytes = b"",
    kind: str = "application/json",
    **headers: str,
) -> bool:
    """Send a reply; returns True, as a callback does that has answered a request."""
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    for name, value in ({"Content-Length": str(len(body))} | sent).items():
        handler.send_header(name, value)
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)
    return True
