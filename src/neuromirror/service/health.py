"""Health of a service: HTTP server for /healthz, /readyz and /metrics, and systemd's watchdog.

The server listens at a separate address, which should not be public. Its pages would be safe to
publish: they contain no names of datasets, no paths and no text from upstream.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, Self

from neuromirror.index import Index, Schedule
from neuromirror.model import ConfigurationError, NeuromirrorError
from neuromirror.service.logs import log_event
from neuromirror.service.servers import format_address
from neuromirror.store import Store

# --- the server

METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_CLIENT_TIMEOUT: Final = 10.0
"""Seconds that a client may take to send a request and to read the response."""

_MAX_PAGES: Final = 8
"""Maximum number of concurrent responses; further requests get a 503."""


class Heartbeat:
    """Records when the service loop last completed a pass.

    After ``limit`` seconds without a pass the loop counts as hanging.
    """

    def __init__(self, limit: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self._clock = clock
        self._last = clock()

    def beat(self) -> None:
        """Record a pass of the loop."""
        self._last = self._clock()

    def age(self) -> float:
        """Return the seconds since the last pass, or since the start."""
        return self._clock() - self._last

    def is_alive(self) -> bool:
        """Whether the last pass is recent."""
        return self.age() < self.limit


class Readiness:
    """Checks whether the service can work: state of store, index and schedule."""

    def __init__(self, store: Store, index: Path, schedule: Schedule) -> None:
        self._store = store
        self._index = index
        self._schedule = schedule
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Report that the service is stopping."""
        self._stopping.set()

    def problems(self) -> list[str]:
        """Return the problems that prevent the service from working, one line each, no paths."""
        stopping = ["stopping: no new jobs are started"] if self._stopping.is_set() else []
        return stopping + self.local_problems()

    def local_problems(self) -> list[str]:
        """Return the problems of this machine, one line each, no paths."""
        found = []
        for what, ask in (
            ("store: cannot be written to", self._write),
            ("journal: cannot be written to", self._write_journal),
            ("index: cannot be read", self._read_index),
            ("schedule: cannot be read", self._read_schedule),
        ):
            try:
                ask()
            except OSError as error:
                found.append(f"{what} ({os.strerror(error.errno or 0)})")
            except NeuromirrorError as error:
                found.append(f"{what} ({type(error).__name__})")
        return found

    def _write(self) -> None:
        # a full disk may allow an empty file, but no byte in it
        with tempfile.TemporaryFile(dir=self._store.schedule_path.parent, buffering=0) as probe:
            probe.write(b"1")

    def _write_journal(self) -> None:
        if self._store.journal.path.exists():
            self._store.journal.path.open("ab").close()

    def _read_index(self) -> None:
        with Index.open_readonly(self._index) as index:
            next(index.crawl.mirrors(), None)

    def _read_schedule(self) -> None:
        self._schedule.leases.in_force(time.time())


class HealthServer:
    """Serves health checks and metrics during the block.

    /healthz responds 200 while the service loop runs, /readyz unless there are ``problems``;
    otherwise they respond 503 with the reasons. /metrics returns ``metrics()``. ``address`` is the
    bound address with its actual port. Raises ConfigurationError if the address cannot be bound.
    """

    def __init__(
        self,
        address: tuple[str, int],
        *,
        heartbeat: Heartbeat,
        problems: Callable[[], list[str]],
        metrics: Callable[[], bytes],
    ) -> None:
        pages = {
            "/healthz": lambda: _health_page(_loop_problems(heartbeat)),
            "/readyz": lambda: _health_page(problems()),
            "/metrics": lambda: (HTTPStatus.OK, METRICS_TYPE, metrics()),
        }
        host, port = address
        kind = _IPv6Server if ":" in host else _Server
        try:
            self._server = kind((host, port), _handler_class(pages))
        except OSError as error:
            raise ConfigurationError(
                f"health and metrics cannot be served at {format_address(address)}: "
                f"{error.strerror}; choose another address"
            ) from error
        self.address: tuple[str, int] = (host, self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="health"
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


_Page = tuple[HTTPStatus, str, bytes]
_TEXT: Final = "text/plain; charset=utf-8"


def _loop_problems(heartbeat: Heartbeat) -> list[str]:
    age = heartbeat.age()
    return [] if heartbeat.is_alive() else [f"the service loop last ran {age:.0f} s ago"]


def _health_page(problems: list[str]) -> _Page:
    status = HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK
    text = "\n".join(problems or ["ok"])
    return status, _TEXT, f"{text}\n".encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, *given: Any) -> None:
        self.pages = threading.BoundedSemaphore(_MAX_PAGES)
        super().__init__(*given)

    def handle_error(self, request: object, client_address: object) -> None:
        """Log a page that failed; ignore clients that disconnect or time out."""
        error = sys.exception()
        if not isinstance(error, OSError):
            log_event("health page failed", level=logging.ERROR, error=error)


class _IPv6Server(_Server):
    address_family = socket.AF_INET6


def _handler_class(pages: dict[str, Callable[[], _Page]]) -> type[BaseHTTPRequestHandler]:
    class HealthHandler(BaseHTTPRequestHandler):
        timeout = _CLIENT_TIMEOUT
        server_version = "neuromirror"
        sys_version = ""

        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def _answer(self, *, body: bool) -> None:
            server = self.server
            assert isinstance(server, _Server)
            if not server.pages.acquire(blocking=False):
                self._send(HTTPStatus.SERVICE_UNAVAILABLE, _TEXT, b"too many requests\n", body)
                return
            try:
                page = pages.get(self.path.partition("?")[0])
                found = (HTTPStatus.NOT_FOUND, _TEXT, b"no such page\n") if page is None else page()
            finally:
                server.pages.release()
            self._send(*found, body)

        def _send(self, status: HTTPStatus, kind: str, content: bytes, body: bool) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return HealthHandler


# --- systemd (sd_notify(3)); without it nothing is sent

_LONGEST_STATUS = 512
"""Maximum length of a status in bytes."""


class SystemdNotifier:
    """Notifies systemd that the service is ready, alive or stopping; does nothing without a socket.

    ``socket_name`` is the path of systemd's socket, None without systemd. A name that starts with
    ``@`` is an abstract socket. ``watchdog`` is the timeout of systemd's watchdog in seconds, None
    without a watchdog.
    """

    def __init__(self, socket_name: str | None, watchdog: float | None = None) -> None:
        self._name = socket_name
        self.watchdog = watchdog

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Create a notifier from ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID``."""
        name = environment.get("NOTIFY_SOCKET", "")
        usec, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
        meant = not pid or pid == str(os.getpid())
        watched = meant and usec.isascii() and usec.isdigit() and int(usec) > 0
        known = name.startswith(("/", "@"))
        return cls(name if known else None, int(usec) / 1e6 if watched else None)

    def ready(self, status: str = "") -> None:
        """Report that the service is up; ``systemctl start`` returns."""
        self._send("READY=1", status)

    def stopping(self, status: str = "") -> None:
        """Report that the service is stopping."""
        self._send("STOPPING=1", status)

    def status(self, status: str) -> None:
        """Set the text that ``systemctl status`` shows; without names of datasets or URLs."""
        self._send("", status)

    @contextmanager
    def feed_watchdog(self, heartbeat: Heartbeat) -> Iterator[None]:
        """Notify the watchdog twice per timeout while the service is alive."""
        if self._name is None or self.watchdog is None:
            yield
            return
        stopped, pause = threading.Event(), self.watchdog / 2

        def watch() -> None:
            while not stopped.is_set():
                if heartbeat.is_alive():
                    self._send("WATCHDOG=1")
                stopped.wait(pause)

        feed_watchdog = threading.Thread(target=watch, name="watchdog", daemon=True)
        feed_watchdog.start()
        try:
            yield
        finally:
            stopped.set()
            feed_watchdog.join()

    def _send(self, state: str, status: str = "") -> None:
        if self._name is None:
            return
        shown = " ".join(status.split()).encode()[:_LONGEST_STATUS].decode(errors="ignore")
        lines = [state, f"STATUS={shown}" if shown else ""]
        address = f"\0{self._name[1:]}" if self._name.startswith("@") else self._name
        # the service continues if systemd no longer listens
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as its:
            its.sendto("\n".join(filter(None, lines)).encode(), address)
