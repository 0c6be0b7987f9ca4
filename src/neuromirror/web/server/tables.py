"""Datasette, which answers what is below ``/index``, in processes of its own.

Whatever a visitor's statement takes is taken from such a process: its memory is limited, it is
ended when it takes too long, and there are few of them. Requests and replies go over a socket.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from neuromirror.model import NeuromirrorError

AT_ONCE = 2
"""Requests that are answered at the same time."""
SECONDS = 15.0
"""That a request may take."""
_ABANDONED = 1.0
"""That a request may go on after its client has left."""
_STARTING = 60.0
_LENGTH = struct.Struct("!Q")
_LINE = 4096
"""Bytes of a log line; the rest of a longer one is a line of its own."""
_MOST = 32 << 20
"""Bytes of a message; the process sends less."""

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "from neuromirror.web.server.tables_process import main; main()"
)
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TZ")
"""All that such a process gets of this one's: no token, no password."""


class TablesBusy(NeuromirrorError):
    """As many requests are answered as may be at once."""


class TablesFailed(NeuromirrorError):
    """The process that was to answer ended."""


class TablesTooSlow(NeuromirrorError):
    """The reply took too long."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply of Datasette."""

    status: int
    headers: dict[str, str]
    body: bytes


def send(to: socket.socket, *parts: bytes) -> None:
    """Send a message."""
    to.sendall(_LENGTH.pack(sum(map(len, parts))) + b"".join(parts))


def receive(source: socket.socket) -> bytes:
    """Receive a message; raises EOFError where the other end is closed."""
    (length,) = _LENGTH.unpack(_exactly(source, _LENGTH.size))
    if length > _MOST:
        raise EOFError
    return _exactly(source, length)


def _exactly(source: socket.socket, length: int) -> bytes:
    found = bytearray()
    while len(found) < length:
        block = source.recv(min(1 << 20, length - len(found)))
        if not block:
            raise EOFError
        found += block
    return bytes(found)


def _log_lines(output: IO[bytes]) -> None:
    """Log what a process prints, in the form of this process's log, until it exits."""
    with output:
        for line in iter(lambda: output.readline(_LINE), b""):
            text = line.decode(errors="replace").strip()
            if text:
                logging.getLogger(__name__).warning("%s", text)


class _Process:
    def __init__(self, command: Mapping[str, Any]) -> None:
        self._socket, theirs = socket.socketpair()
        arguments = [json.dumps(sys.path), json.dumps({**command, "socket": theirs.fileno()})]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
                pass_fds=[theirs.fileno()],
            )
        assert self._process.stdout is not None  # a pipe
        threading.Thread(target=_log_lines, args=(self._process.stdout,), daemon=True).start()
        self._started = False

    def ask(self, request: bytes) -> tuple[Reply, bool]:
        """Return the reply, and whether the process goes on to answer others."""
        if not self._started:
            self._socket.settimeout(_STARTING)
            receive(self._socket)
            self._started = True
        self._socket.settimeout(SECONDS)
        send(self._socket, request)
        head = json.loads(receive(self._socket))
        body = receive(self._socket)
        return Reply(head["status"], head["headers"], body), head["goes_on"]

    def end(self) -> None:
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def kill(self) -> None:
        """Make :meth:`ask`, which waits in another thread, fail."""
        self._process.kill()


class _Question:
    """A request, and the process that answers it; shared by threads."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._is_abandoned = False

    def ask(self, process: _Process) -> tuple[Reply, bool]:
        with self._lock:
            if self._is_abandoned:
                raise EOFError
            self._process = process
        try:
            return process.ask(self.request)
        finally:
            with self._lock:
                self._process = None

    def abandon(self) -> None:
        """Kill the process that still answers."""
        with self._lock:
            self._is_abandoned = True
            if self._process is not None:
                self._process.kill()


class Tables:
    """The processes that answer for one site; each is started when it is needed.

    ``sql`` says whether visitors may write statements of their own.
    """

    def __init__(self, store: Path, index_path: Path, *, title: str, address: str, sql: bool):
        self._command = {
            "store": str(store.absolute()),
            "index": str(index_path.absolute()),
            "title": title,
            "address": address,
            "sql": sql,
        }
        self._idle: list[_Process] = []
        self._busy = 0
        self._lock = threading.Lock()
        self._asking = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="tables")

    async def reply(self, scope: Mapping[str, Any]) -> Reply:
        """Return Datasette's reply to a request.

        Raises TablesBusy, TablesTooSlow and TablesFailed. Cancelled, it leaves the process a
        moment, because a new one takes longer to start than most replies, and then kills it.
        """
        with self._lock:
            if self._busy >= AT_ONCE:
                raise TablesBusy(f"{AT_ONCE} requests for tables are being answered")
            self._busy += 1
        request = {
            "method": scope["method"],
            "path": scope.get("raw_path", scope["path"].encode()).decode("latin-1"),
            "query": scope["query_string"].decode("latin-1"),
            "scheme": scope["scheme"],
            "host": dict(scope["headers"]).get(b"host", b"").decode("latin-1"),
        }
        question = _Question(json.dumps(request).encode())
        loop = asyncio.get_running_loop()
        replying = loop.run_in_executor(self._asking, self._reply, question)
        # one that is cancelled before its thread has it would never be counted down
        replying.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            return await asyncio.shield(replying)
        except asyncio.CancelledError:
            loop.call_later(_ABANDONED, question.abandon)
            raise

    def _reply(self, question: _Question) -> Reply:
        process = None
        goes_on = False
        try:
            with self._lock:
                process = self._idle.pop() if self._idle else None
            process = process or _Process(self._command)
            reply, goes_on = question.ask(process)
            return reply
        except TimeoutError:
            raise TablesTooSlow(f"the reply took more than {SECONDS:g} s") from None
        except (OSError, EOFError, ValueError) as error:
            raise TablesFailed(f"a process for the index's tables ended: {error!r}") from None
        finally:
            if process is not None and not goes_on:
                process.end()
            with self._lock:
                self._busy -= 1
                if process is not None and goes_on:
                    self._idle.append(process)

    def close(self) -> None:
        """End the processes that wait."""
        self._asking.shutdown(wait=False)
        with self._lock, suppress(IndexError):
            while True:
                self._idle.pop().end()
