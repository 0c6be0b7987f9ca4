"""Whether a service is well, for programs that ask over HTTP: /healthz, /readyz, /metrics.

It has an address of its own, to be kept from the world; what it says is meant for everybody all
the same: no name of a dataset, no path, nothing that upstream wrote.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from neuromirror.index import Index, Schedule
from neuromirror.model import ConfigurationError, NeuromirrorError
from neuromirror.service.listen_address import format_address
from neuromirror.service.logs import log_event
from neuromirror.service.pending_connections import PendingConnections
from neuromirror.store import Store

METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_CLIENT_TIMEOUT: Final = 10.0
"""Seconds that somebody who asks may take for the request, and to read the reply."""

_MAX_PAGES: Final = 8
"""Pages that are made at a time; others are told to come again."""


class Heartbeat:
    """When the service's loop turned last; ``limit`` are the seconds after which it hangs."""

    def __init__(self, limit: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self._clock = clock
        self._last = clock()

    def beat(self) -> None:
        """The loop has turned."""
        self._last = self._clock()

    def age(self) -> float:
        """Seconds since then (since the start, before the first)."""
        return self._clock() - self._last

    def is_alive(self) -> bool:
        """Whether it turned lately."""
        return self.age() < self.limit


class Readiness:
    """Whether the service can take work: store, index and schedule as they are right now."""

    def __init__(self, store: Store, index: Path, schedule: Schedule) -> None:
        self._store = store
        self._index = index
        self._schedule = schedule
        self._stopping = threading.Event()

    def stop(self) -> None:
        """From now on it takes none."""
        self._stopping.set()

    def problems(self) -> list[str]:
        """What keeps it from working, a line each, without a path; empty where all is well."""
        found = ["stopping: no work is taken"] if self._stopping.is_set() else []
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
        # a full disk takes an empty file, but no byte in it
        with tempfile.TemporaryFile(dir=self._store.schedule_path.parent, buffering=0) as probe:
            probe.write(b"1")

    def _write_journal(self) -> None:
        if self._store.journal_path.exists():
            self._store.journal_path.open("ab").close()

    def _read_index(self) -> None:
        with Index.open_readonly(self._index) as index:
            next(index.mirror_status(), None)

    def _read_schedule(self) -> None:
        self._schedule.leases(time.time())


class HealthServer:
    """Serves the three pages while the block lasts; ``address`` is where, its port known then.

    /healthz: 200 while the loop turns; /readyz: 200 where nothing keeps the service from working,
    with a line for each of ``remarks``: what is not well, and keeps it from nothing; otherwise 503,
    and why. /metrics: what ``metrics`` gives. Raises ConfigurationError where the address cannot be
    had.
    """

    def __init__(
        self,
        address: tuple[str, int],
        *,
        heartbeat: Heartbeat,
        problems: Callable[[], list[str]],
        metrics: Callable[[], bytes],
        remarks: Callable[[], list[str]] = list,
    ) -> None:
        pages = {
            "/healthz": lambda: _health_page(_loop_problems(heartbeat), []),
            "/readyz": lambda: _health_page(problems(), remarks()),
            "/metrics": lambda: (HTTPStatus.OK, METRICS_TYPE, metrics()),
        }
        host, port = address
        kind = _IPv6Server if ":" in host else _Server
        try:
            self._server = kind((host, port), _handler_class(pages))
        except OSError as error:
            raise ConfigurationError(
                f"health and metrics cannot be served at {format_address(address)}: "
                f"{error.strerror}; name another address"
            ) from error
        self.address: tuple[str, int] = (host, self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="health"
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


_Page = tuple[HTTPStatus, str, bytes]
_TEXT: Final = "text/plain; charset=utf-8"


def _loop_problems(heartbeat: Heartbeat) -> list[str]:
    age = heartbeat.age()
    return (
        [] if heartbeat.is_alive() else [f"the loop turned {age:.0f} s ago, and should each second"]
    )


def _health_page(problems: list[str], remarks: list[str]) -> _Page:
    status = HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK
    text = "\n".join([*(problems or ["ok"]), *remarks])
    return status, _TEXT, f"{text}\n".encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, *given: Any) -> None:
        self.pending = PendingConnections(seconds=_CLIENT_TIMEOUT)
        self.pages = threading.BoundedSemaphore(_MAX_PAGES)
        super().__init__(*given)

    def service_actions(self) -> None:
        """Cut off those who dawdle (called by the loop that accepts)."""
        self.pending.cut_off_overdue()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a connection in a thread of its own, if it asks soon."""
        self.pending.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        self.pending.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Tells of a page that failed; that somebody hung up, or dawdled, is no matter of ours."""
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
            server.pending.discard(self.connection)
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
