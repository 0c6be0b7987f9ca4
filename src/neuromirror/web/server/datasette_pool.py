"""A pool of Datasette processes that serve the pages below ``/index``.

A visitor's SQL statement runs in one of these processes, which has a memory limit and is killed
after a timeout; their number is small. Requests and responses go through a socket.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from msgspec import Struct

from neuromirror.model import NeuromirrorError
from neuromirror.web.server.child_processes import LENGTH, MAX_MESSAGE_BYTES, start_child

MAX_CONCURRENT = 2
"""Maximum number of concurrent requests."""
TIMEOUT_SECONDS = 15.0
"""Time limit of a request."""
_ABANDONED_SECONDS = 1.0
"""Time that a request may continue after its client has disconnected."""
_START_TIMEOUT = 60.0
_MODULE = "neuromirror.web.server.datasette_process"
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TZ")
"""Environment variables that the processes inherit: no tokens or passwords."""


class DatasetteBusyError(NeuromirrorError):
    """A request was refused, because the maximum number of requests for tables is in progress."""


class DatasetteProcessError(NeuromirrorError):
    """The Datasette process that served a request exited without a response."""


class DatasetteTimeoutError(NeuromirrorError):
    """A Datasette process took too long to respond, and was stopped."""


class DatasetteReply(Struct, frozen=True):
    """A response of Datasette."""

    status: int
    headers: dict[str, str]
    body: bytes


def send(to: socket.socket, *parts: bytes) -> None:
    """Send a message to the other end of a process's socket, preceded by its length."""
    to.sendall(LENGTH.pack(sum(map(len, parts))) + b"".join(parts))


def receive(source: socket.socket) -> bytes:
    """Receive a message; raises EOFError if the other end is closed."""
    (length,) = LENGTH.unpack(_receive_exactly(source, LENGTH.size))
    if length > MAX_MESSAGE_BYTES:
        raise EOFError
    return _receive_exactly(source, length)


def _receive_exactly(source: socket.socket, length: int) -> bytes:
    found = bytearray()
    while len(found) < length:
        block = source.recv(min(1 << 20, length - len(found)))
        if not block:
            raise EOFError
        found += block
    return bytes(found)


class _DatasetteProcess:
    def __init__(self, command: Mapping[str, Any]) -> None:
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        self._process, self._socket = start_child(_MODULE, command, environment)
        self._started = False

    def request(self, request: bytes) -> tuple[DatasetteReply, bool]:
        """Return the response, and whether the process can be reused."""
        if not self._started:
            self._socket.settimeout(_START_TIMEOUT)
            receive(self._socket)
            self._started = True
        self._socket.settimeout(TIMEOUT_SECONDS)
        send(self._socket, request)
        head = json.loads(receive(self._socket))
        body = receive(self._socket)
        return DatasetteReply(head["status"], head["headers"], body), head["is_reusable"]

    def stop(self) -> None:
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def kill(self) -> None:
        """Kill the process, so that :meth:`request` fails in its thread."""
        self._process.kill()


class _PendingRequest:
    """A request and its process; thread-safe."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self._lock = threading.Lock()
        self._process: _DatasetteProcess | None = None
        self._is_abandoned = False

    def send_to(self, process: _DatasetteProcess) -> tuple[DatasetteReply, bool]:
        with self._lock:
            if self._is_abandoned:
                raise EOFError
            self._process = process
        try:
            return process.request(self.request)
        finally:
            with self._lock:
                self._process = None

    def abandon(self) -> None:
        """Kill the process of the request, if it still runs."""
        with self._lock:
            self._is_abandoned = True
            if self._process is not None:
                self._process.kill()


class DatasettePool:
    """The Datasette processes of one site, which are started on demand.

    ``store`` and ``index_path`` are paths, ``title`` and ``address`` those of the site; ``sql`` is
    whether visitors may write SQL statements.
    """

    def __init__(self, store: Path, index_path: Path, *, title: str, address: str, sql: bool):
        self._process_options = {
            "store": str(store.absolute()),
            "index": str(index_path.absolute()),
            "title": title,
            "address": address,
            "sql": sql,
        }
        self._idle: list[_DatasetteProcess] = []
        self._busy = 0
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(MAX_CONCURRENT, thread_name_prefix="tables")

    async def respond(self, scope: Mapping[str, Any]) -> DatasetteReply:
        """Return Datasette's reply to a request.

        Raises DatasetteBusyError, DatasetteTimeoutError or DatasetteProcessError. If cancelled, the
        process gets another moment to finish, because a new one takes longer to start than most
        requests take, and is then killed.
        """
        with self._lock:
            if self._busy >= MAX_CONCURRENT:
                raise DatasetteBusyError(f"{MAX_CONCURRENT} requests for tables are in progress")
            self._busy += 1
        request = {
            "method": scope["method"],
            "path": scope.get("raw_path", scope["path"].encode()).decode("latin-1"),
            "query": scope["query_string"].decode("latin-1"),
            "scheme": scope["scheme"],
            "host": dict(scope["headers"]).get(b"host", b"").decode("latin-1"),
        }
        pending = _PendingRequest(json.dumps(request).encode())
        loop = asyncio.get_running_loop()
        replying = loop.run_in_executor(self._threads, self._respond, pending)
        # shielded below: a cancelled future would not reach its thread and release its slot
        replying.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            return await asyncio.shield(replying)
        except asyncio.CancelledError:
            loop.call_later(_ABANDONED_SECONDS, pending.abandon)
            raise

    def _respond(self, pending: _PendingRequest) -> DatasetteReply:
        process = None
        is_reusable = False
        try:
            with self._lock:
                process = self._idle.pop() if self._idle else None
            process = process or _DatasetteProcess(self._process_options)
            respond, is_reusable = pending.send_to(process)
            return respond
        except TimeoutError:
            raise DatasetteTimeoutError(
                f"the response took more than {TIMEOUT_SECONDS:g} s"
            ) from None
        except (OSError, EOFError, ValueError) as error:
            raise DatasetteProcessError(f"a Datasette process died: {error!r}") from None
        finally:
            if process is not None and not is_reusable:
                process.stop()
            with self._lock:
                self._busy -= 1
                if process is not None and is_reusable:
                    self._idle.append(process)

    def close(self) -> None:
        """Stop the idle processes."""
        self._threads.shutdown(wait=False)
        with self._lock, suppress(IndexError):
            while True:
                self._idle.pop().stop()
