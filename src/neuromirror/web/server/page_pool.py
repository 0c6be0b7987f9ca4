"""A pool of processes that make pages, so that pages use several processors.

Python runs one thread at a time, so that one process makes pages on one processor only.
Connections, limits per client, cached responses, the gateway, previews and cutouts stay in the
catalogue's own process; it passes requests for pages that are made of the index and the store alone
to these processes, several at a time, over one socket each.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import msgspec

from neuromirror.model import NeuromirrorError, environment_without_secrets
from neuromirror.web.server.child_processes import LENGTH, MAX_MESSAGE_BYTES, start_child
from neuromirror.web.server.http_files import Header, Send

MAX_PROCESSES: Final = 4
"""Default maximum number of processes."""
READY: Final = 0
"""The number of the reply that a process sends when it has started."""
_TIMEOUT_SECONDS: Final = 90.0
"""Time limit of a page; queries have shorter limits of their own."""
_RESTART_SECONDS: Final = 10.0
"""Minimum time between two starts of a process."""
_MODULE: Final = "neuromirror.web.server.page_process"


class PageRequest(msgspec.Struct, frozen=True, tag=True):
    """A request for a page, with the parts of its ASGI scope; replies have its number."""

    number: int
    method: str
    scheme: str
    path: bytes
    query: bytes
    headers: list[tuple[bytes, bytes]]


class PageCancellation(msgspec.Struct, frozen=True, tag=True):
    """The client of a request has disconnected, or the page has taken too long."""

    number: int


class PageReply(msgspec.Struct, frozen=True):
    """The response to a request."""

    number: int
    status: int = 0
    headers: list[tuple[bytes, bytes]] = []
    body: bytes = b""


class PageProcessError(NeuromirrorError):
    """The process that made a page exited, or took too long."""


def default_processes() -> int:
    """Return the number of processors that this process may use, at most :data:`MAX_PROCESSES`."""
    return min(_processors(), MAX_PROCESSES)


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):  # macOS lacks it
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def encode(message: msgspec.Struct) -> bytes:
    """Return a message for the other end of a socket, preceded by its length."""
    body = msgspec.msgpack.encode(message)
    return LENGTH.pack(len(body)) + body


async def receive(reader: asyncio.StreamReader) -> bytes:
    """Return the next message; raises EOFError if the other end is closed."""
    try:
        (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
        if length > MAX_MESSAGE_BYTES:
            raise EOFError
        return await reader.readexactly(length)
    except (asyncio.IncompleteReadError, OSError):
        raise EOFError from None


class _PageProcess:
    """A process and the requests that it is answering; for one event loop."""

    def __init__(self, options: Mapping[str, Any], on_exit: Callable[[], None]) -> None:
        self._on_exit = on_exit
        self.is_ready = False
        self.is_running = True
        self.started_at = self._replied_at = time.monotonic()
        self.pending: dict[int, asyncio.Future[PageReply]] = {}
        self._last_number = READY
        self._options = options
        self._writer: asyncio.StreamWriter | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._serving = asyncio.ensure_future(self._serve())

    async def _serve(self) -> None:
        """Start the process, and pass on its replies until it exits."""
        try:
            environment = environment_without_secrets()
            self._process, ours = await asyncio.to_thread(
                start_child, _MODULE, self._options, environment
            )
            reader, self._writer = await asyncio.open_connection(sock=ours)
            decoder = msgspec.msgpack.Decoder(PageReply)
            while True:
                reply = decoder.decode(await receive(reader))
                self._replied_at = time.monotonic()
                if reply.number == READY:
                    self.is_ready = True
                replying = self.pending.pop(reply.number, None)
                if replying is not None and not replying.done():
                    replying.set_result(reply)
        except (EOFError, OSError, msgspec.DecodeError) as error:
            if self.is_running:  # it was not stopped
                logging.getLogger(__name__).warning("a process that makes pages exited: %r", error)
                self._on_exit()
        finally:
            self.stop()

    async def respond(self, scope: Mapping[str, Any]) -> PageReply:
        """Return the process's reply to a request; raises PageProcessError."""
        assert self._writer is not None  # it is ready
        number = self._last_number = self._last_number + 1
        request = PageRequest(
            number,
            scope["method"],
            scope["scheme"],
            scope.get("raw_path", scope["path"].encode()),
            scope["query_string"],
            list(scope["headers"]),
        )
        started = time.monotonic()
        replying = self.pending[number] = asyncio.get_running_loop().create_future()
        try:
            self._writer.write(encode(request))
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                reply: PageReply = await replying
                return reply
        except TimeoutError:
            self._cancel(number)
            if self._replied_at <= started and self.is_running:
                self.stop()  # queries stop earlier: the process hangs
                self._on_exit()
            raise PageProcessError(f"a page took more than {_TIMEOUT_SECONDS:g} s") from None
        except asyncio.CancelledError:
            self._cancel(number)
            raise

    def _cancel(self, number: int) -> None:
        """Give up a request, so that the process does not make its page."""
        if self.pending.pop(number, None) is not None and self.is_running:
            assert self._writer is not None
            self._writer.write(encode(PageCancellation(number)))

    def stop(self) -> None:
        """Kill the process; its requests fail."""
        self.is_ready = self.is_running = False
        if self._writer is not None:
            self._writer.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        pending, self.pending = self.pending, {}
        for replying in pending.values():
            if not replying.done():
                replying.set_exception(PageProcessError("the process that made a page exited"))


class PagePool:
    """The processes of one site that make pages; for one event loop.

    They are started once two pages are requested at the same time: until then, the catalogue's own
    process makes pages, and needs less memory.

    Parameters
    ----------
    count
        The number of processes.
    options
        Their options: see :func:`neuromirror.web.server.page_process.main`.
    on_exit
        Called when a process exited unexpectedly or was stopped because it hung.
    """

    def __init__(
        self,
        count: int,
        options: Mapping[str, Any],
        on_exit: Callable[[], None] = lambda: None,
    ) -> None:
        self._options, self._on_exit = options, on_exit
        self._processes: list[_PageProcess | None] = [None] * count
        self._in_progress = 0

    async def respond(
        self, scope: Mapping[str, Any], send: Send, make: Callable[[], Awaitable[None]]
    ) -> None:
        """Send the response to a request from a process; without one, ``make`` sends it.

        Raises
        ------
        PageProcessError
            The process exited before it replied, or took too long.
        """
        self._in_progress += 1
        try:
            if self._in_progress > 1:
                self._start_missing()
            process = self._least_busy()
            if process is None:
                await make()
                return
            reply = await process.respond(scope)
        finally:
            self._in_progress -= 1
        headers: list[Header] = reply.headers
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    def _start_missing(self) -> None:
        for position, process in enumerate(self._processes):
            if process is None or (
                not process.is_running and time.monotonic() - process.started_at > _RESTART_SECONDS
            ):
                self._processes[position] = _PageProcess(self._options, self._on_exit)

    def _least_busy(self) -> _PageProcess | None:
        ready = [one for one in self._processes if one is not None and one.is_ready]
        return min(ready, key=lambda one: len(one.pending), default=None)

    def close(self) -> None:
        """Stop all processes."""
        for process in self._processes:
            if process is not None:
                with suppress(OSError):
                    process.stop()
        self._processes = []
