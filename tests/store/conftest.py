"""A store, and a plain static web server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from neuromirror.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store.open(tmp_path / "store", create=True)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def _stop(httpd: ThreadingHTTPServer, thread: threading.Thread) -> None:
    httpd.shutdown()
    httpd.server_close()
    thread.join()


@pytest.fixture
def serve() -> Iterator[Callable[[Path], str]]:
    """Serves a folder's files on loopback, nothing more; gives the address."""
    with ExitStack() as stack:

        def start(folder: Path) -> str:
            httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
            thread = threading.Thread(target=httpd.serve_forever, daemon=True)
            thread.start()
            stack.callback(_stop, httpd, thread)
            return f"http://127.0.0.1:{httpd.server_address[1]}"

        yield start


@pytest.fixture
def small_disk(disk_of: Callable[[str], Path]) -> Path:
    """A disk of its own, of 4 MiB."""
    return disk_of("4m")
