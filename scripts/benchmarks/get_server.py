"""Serves files of two sizes on loopback until it is ended: arguments are ``DELAY FILE``.

``/small/<number>`` and ``/large/<number>`` each have bytes of their own: those of the block, or of
FILE, but for the first 16, which are the number. Each answer waits DELAY seconds, the first on a
connection twice as long, as if that were the time to the server and back. The port is printed.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import socket
import sys
from pathlib import Path
from typing import Final

SMALL: Final = 64 << 10
HEAD: Final = 16


def block() -> bytes:
    """Return the content that all small files share."""
    return random.Random(64).randbytes(SMALL)


def first_bytes(number: int) -> bytes:
    """Return the first bytes of a file, which differ in each file."""
    return b"%0*d" % (HEAD, number)


def digest_of(number: int, common: bytes | Path) -> str:
    """Return the sha256 of a file."""
    digest = hashlib.sha256(first_bytes(number))
    if isinstance(common, bytes):
        digest.update(common[HEAD:])
    else:
        with common.open("rb") as file:
            file.seek(HEAD)
            while piece := file.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()


class _Connection(asyncio.Protocol):
    def __init__(self, delay: float, common: bytes, file: Path) -> None:
        self._delay = delay
        self._common = memoryview(common)[HEAD:]
        self._file = file
        self._length = file.stat().st_size
        self._received = b""
        self._first = True
        self._busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        wire = transport.get_extra_info("socket")
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._next()

    def _next(self) -> None:
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if self._busy or not end:
            return
        self._received = rest
        self._busy = True
        loop = asyncio.get_running_loop()
        loop.call_later(self._delay * (1 + self._first), self._answer, head)
        self._first = False

    def _answer(self, head: bytes) -> None:
        method, target, _ = head.split(b" ", 2)
        _, kind, number = target.split(b"/")
        length = SMALL if kind == b"small" else self._length
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length
        if method == b"HEAD":
            self._transport.write(answer)
        elif kind == b"small":
            self._transport.write(b"".join([answer, first_bytes(int(number)), self._common]))
        else:
            self._transport.write(answer + first_bytes(int(number)))
            self._sending = asyncio.ensure_future(self._send())
            return
        self._done()

    async def _send(self) -> None:
        try:
            with self._file.open("rb") as file:
                await asyncio.get_running_loop().sendfile(self._transport, file, HEAD)
        except (ConnectionError, RuntimeError):
            return  # the client disconnected
        self._done()

    def _done(self) -> None:
        self._busy = False
        self._next()


async def _serve(delay: float, file: Path) -> None:
    common = block()
    server = await asyncio.get_running_loop().create_server(
        lambda: _Connection(delay, common, file), "127.0.0.1", 0, backlog=512
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(float(sys.argv[1]), Path(sys.argv[2])))
