"""Receive HTTP/1.1 responses from a socket into a reusable buffer.

Only simple responses are parsed: status 200 or 206 with a ``Content-Length``, and redirects.
"""

from __future__ import annotations

import re
import socket
import struct
import time
from contextlib import suppress
from typing import Final

from msgspec import Struct

from neuromirror.net.responses import content_length

_HEAD: Final = 1 << 16
_PLAIN_HEAD: Final = re.compile(
    rb"HTTP/1\.1 (\d{3})(?: [^\r\n]*+)?\r\n(?:[!-9;-~]++:[^\r\n]*+\r\n)*+\r\n"
)
"""An unambiguous response head: parsers may disagree about where any other head ends."""
_FIELD: Final = re.compile(
    rb"(?i)\n(content-length|content-range|transfer-encoding|connection|location):"
    rb"[ \t]*([^\r\n]*?)[ \t]*(?=\r?\n)"
)
_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-\d+/(?:\d+|\*)")
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


class BufferedSocket:
    """A connected socket with the receive buffer of its :class:`PersistentConnection`.

    ``wait`` is the timeout in seconds for the next bytes.
    """

    __slots__ = ("_flags", "_sock", "_wait", "capacity", "filled", "view")

    def __init__(self, sock: socket.socket, buffer: bytearray, wait: float) -> None:
        self._sock = sock
        self._wait = wait
        self.view = memoryview(buffer)
        self.capacity = len(buffer)
        self.filled = 0
        self._flags = 0
        if type(sock) is socket.socket:  # not a TLS socket
            # MSG_WAITALL fills the buffer in one system call
            sock.settimeout(None)
            span = struct.pack("ll", int(wait), int(wait % 1 * 1e6))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, span)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, span)
            self._flags = socket.MSG_WAITALL
        else:
            sock.settimeout(wait)

    def send(self, request: bytes) -> None:
        """Send a request and clear the buffer."""
        self._sock.sendall(request)
        self.filled = 0

    def receive_head(self) -> int | None:
        """Receive a response head and return its length; None if it is too long or too slow."""
        searched = 0
        until = time.monotonic() + self._wait
        while self.filled < _HEAD and time.monotonic() < until:
            got = self._sock.recv_into(self.view[self.filled :])
            if not got:
                return None
            self.filled += got
            end = bytes(self.view[searched : min(self.filled, _HEAD)]).find(b"\r\n\r\n")
            if end >= 0:
                return searched + end + 4
            searched = max(self.filled - 3, 0)
        return None

    def fill(self, end: int) -> None:
        """Receive up to offset ``end`` of the buffer; raises OSError if the peer has closed."""
        got = self._sock.recv_into(self.view[self.filled : end], 0, self._flags)
        if not got:
            raise ConnectionError("the connection was closed")
        self.filled += got

    def shut_down(self) -> None:
        """Wake up a blocked read, which then fails. Callable from any thread."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket."""
        with suppress(OSError):
            self._sock.close()


class PlainResponse(Struct):
    """A response with a plain body of known length (not chunked or compressed).

    Its body starts at ``body_offset`` in the buffer of ``connection``; ``start`` is the offset of
    the body's first byte in the file, ``length`` and ``remaining`` its bytes and those not yet
    read.
    """

    connection: BufferedSocket
    host: str
    start: int
    length: int
    body_offset: int
    closes_connection: bool
    """Whether the connection cannot be used again."""
    remaining: int


def parse_response(connection: BufferedSocket, end: int, host: str) -> PlainResponse | str | None:
    """Parse the head of a response, the first ``end`` bytes in the buffer of a connection.

    Returns
    -------
    PlainResponse or str or None
        A response with a plain body, the target of a redirect, or None for any other response,
        which the caller requests again through its session.
    """
    head = bytes(connection.view[:end])
    status = _PLAIN_HEAD.fullmatch(head)
    if status is None:
        return None
    fields: dict[str, str] = {}
    for name, value in _FIELD.findall(head):
        if fields.setdefault(name.lower().decode(), value.decode("latin-1")) != value.decode(
            "latin-1"
        ):
            return None
    code = int(status[1])
    if code in _REDIRECTS:
        return fields.get("location")
    size = content_length({"Content-Length": fields.get("content-length", "")})
    if code not in (200, 206) or size is None or "transfer-encoding" in fields:
        return None
    start = first_byte_of(code, fields.get("content-range", ""))
    if start is None:
        return None
    return PlainResponse(
        connection=connection,
        host=host,
        start=start,
        length=size,
        body_offset=end,
        # unexpected bytes after the body must not be parsed as the next head
        closes_connection=fields.get("connection", "").lower() == "close"
        or connection.filled > end + size,
        remaining=size,
    )


def first_byte_of(status: int, content_range: str) -> int | None:
    """Return the offset at which the body of a reply starts in the file.

    It is 0 for a whole file, and None for a partial reply (206) without a valid Content-Range.
    """
    if status != 206:
        return 0
    found = _RANGE.match(content_range)
    return None if found is None else int(found[1])
