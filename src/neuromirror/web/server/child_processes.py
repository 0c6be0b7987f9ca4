"""Processes of the catalogue that answer requests over a socket, and their messages."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import IO, Any, Final
from urllib.parse import unquote_to_bytes

import msgspec

_LENGTH: Final = struct.Struct("!Q")
"""The length of a message, which precedes it."""
MAX_MESSAGE_BYTES: Final = 32 << 20
"""Maximum size of a message in bytes; the processes send less."""

_PROGRAM: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); from {module} import main; main()"
)
"""The process uses the module search path of this one."""
_MAX_LOG_LINE: Final = 4096
"""Maximum length of a log line; longer lines are split."""
_START_SECONDS: Final = 60.0


class Request(msgspec.Struct, frozen=True, tag=True):
    """The parts of an ASGI scope that a process needs; the reply has the same number."""

    number: int
    method: str
    scheme: str
    path: bytes
    query: bytes
    headers: list[tuple[bytes, bytes]]

    @classmethod
    def of(cls, scope: Mapping[str, Any], number: int) -> Request:
        """Return the request of a scope."""
        return cls(
            number,
            scope["method"],
            scope["scheme"],
            scope.get("raw_path", scope["path"].encode()),
            scope["query_string"],
            list(scope["headers"]),
        )


class Cancellation(msgspec.Struct, frozen=True, tag=True):
    """The client of a request has disconnected, or the reply has taken too long."""

    number: int


class Reply(msgspec.Struct, frozen=True):
    """The response to a request; ``is_last`` if the process exits after it.

    A process sends one with the number 0 when it has started.
    """

    number: int = 0
    status: int = 0
    headers: list[tuple[bytes, bytes]] = []
    body: bytes = b""
    is_last: bool = False


class ChildProcess:
    """A process that answers requests, several at a time; for one event loop.

    Its output is logged, in the form of this process's log.

    Parameters
    ----------
    module
        The module whose function ``main`` the process calls.
    options
        The options as JSON, its first argument; ``socket`` is the number of its end of the socket.
    environment
        Its environment, without secrets.
    on_exit
        Called when the process exited although it was not stopped.

    Attributes
    ----------
    is_ready, is_running
        Whether the process can answer requests, and whether it has neither exited nor been stopped.
    pending
        The requests in progress.
    started_at, replied_at
        When the process was started and when it last replied, by the monotonic clock.
    """

    def __init__(
        self,
        module: str,
        options: Mapping[str, Any],
        environment: Mapping[str, str],
        on_exit: Callable[[], None] = lambda: None,
    ) -> None:
        self._arguments, self._on_exit = (module, options, environment), on_exit
        self.is_ready, self.is_running = False, True
        self.started_at = self.replied_at = time.monotonic()
        self.pending: dict[int, asyncio.Future[Reply]] = {}
        self._last_number = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._started = asyncio.Event()
        self._serving = asyncio.ensure_future(self._serve())

    @property
    def pid(self) -> int:
        """The id of the process."""
        assert self._process is not None  # it is ready
        return self._process.pid

    async def _serve(self) -> None:
        """Start the process, and pass on its replies until it exits."""
        try:
            self._process, ours = await asyncio.to_thread(_spawn, *self._arguments)
            reader, self._writer = await asyncio.open_connection(sock=ours)
            decoder = msgspec.msgpack.Decoder(Reply)
            while self.is_running:
                reply = decoder.decode(await receive(reader))
                self.replied_at = time.monotonic()
                self.is_ready = True
                self._started.set()
                replying = self.pending.pop(reply.number, None)
                if replying is not None and not replying.done():
                    replying.set_result(reply)
        except (EOFError, OSError, msgspec.DecodeError) as error:
            if self.is_running:  # it was not stopped
                module, _, _ = self._arguments
                logging.getLogger(__name__).warning("a process of %s exited: %r", module, error)
                self._on_exit()
        finally:
            self.stop()
            if self._process is not None:
                await asyncio.to_thread(self._process.wait)

    async def request(self, scope: Mapping[str, Any], seconds: float) -> Reply:
        """Return the reply to a request of an ASGI scope, after the process has started.

        Raises
        ------
        EOFError
            The process exited.
        TimeoutError
            It took too long.
        """
        async with asyncio.timeout(_START_SECONDS):
            await self._started.wait()
        if self._writer is None or not self.is_running:
            raise EOFError
        number = self._last_number = self._last_number + 1
        replying = self.pending[number] = asyncio.get_running_loop().create_future()
        try:
            self._writer.write(encode(Request.of(scope, number)))
            async with asyncio.timeout(seconds):
                reply: Reply = await replying
                return reply
        except (TimeoutError, asyncio.CancelledError):
            if self.pending.pop(number, None) is not None and self.is_running:
                # so that the process does not make the reply
                self._writer.write(encode(Cancellation(number)))
            raise

    def stop(self) -> None:
        """Kill the process; its requests fail."""
        self.is_ready = self.is_running = False
        self._started.set()
        if self._writer is not None:
            self._writer.close()
        if self._process is not None:
            self._process.kill()
        pending, self.pending = self.pending, {}
        for replying in pending.values():
            if not replying.done():
                replying.set_exception(EOFError())

    async def ended(self) -> None:
        """Wait until the process, which was stopped, has ended."""
        await asyncio.wait([self._serving])

    def close(self) -> None:
        """Stop the process, and wait until it has ended."""
        self.stop()
        if self._process is not None:
            self._process.wait()


def encode(message: msgspec.Struct) -> bytes:
    """Return a message for the other end of a socket, preceded by its length."""
    body = msgspec.msgpack.encode(message)
    return _LENGTH.pack(len(body)) + body


async def receive(reader: asyncio.StreamReader) -> bytes:
    """Return the next message; raises EOFError if the other end is closed."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if length > MAX_MESSAGE_BYTES:
            raise EOFError
        return await reader.readexactly(length)
    except (asyncio.IncompleteReadError, OSError):
        raise EOFError from None


async def connect_to_parent(
    options: Mapping[str, Any],
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return the child's end of the socket, after telling the parent that it has started."""
    connection = socket.socket(fileno=options["socket"])
    connection.set_inheritable(False)
    reader, writer = await asyncio.open_connection(sock=connection)
    writer.write(encode(Reply()))
    return reader, writer


async def reply_to(application: Any, request: Request, max_bytes: int = MAX_MESSAGE_BYTES) -> Reply:
    """Return the response of an ASGI application; what follows ``max_bytes`` of it is dropped."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": request.scheme,
        "path": unquote_to_bytes(request.path).decode("utf-8", "replace"),
        "raw_path": request.path,
        "query_string": request.query,
        "root_path": "",
        "headers": request.headers,
    }
    status, headers, body = 500, list[tuple[bytes, bytes]](), bytearray()

    async def nothing() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def sent(message: dict[str, Any]) -> None:
        nonlocal status, headers
        if message["type"] == "http.response.start":
            status, headers = message["status"], list(message["headers"])
        elif len(body) <= max_bytes:
            body.extend(message.get("body", b""))

    await application(scope, nothing, sent)
    return Reply(request.number, status, headers, bytes(body))


def _spawn(
    module: str, options: Mapping[str, Any], environment: Mapping[str, str]
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", _PROGRAM.format(module=module), json.dumps(sys.path)),
                json.dumps({**options, "socket": theirs.fileno()}),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=[theirs.fileno()],
        )
    assert process.stdout is not None  # a pipe
    threading.Thread(target=_log_lines, args=(process.stdout,), daemon=True).start()
    return process, ours


def _log_lines(output: IO[bytes]) -> None:
    with output:
        for line in iter(lambda: output.readline(_MAX_LOG_LINE), b""):
            text = line.decode(errors="replace").strip()
            if text:
                logging.getLogger(__name__).warning("%s", text)
