"""A fast path for GET requests: one set of persistent connections per thread.

Preparing a request in a session takes longer than downloading a small file. Here, the simple case
takes a fifth of the CPU time: a GET over a direct connection, answered with 200 or 206 and a
``Content-Length``. Everything else (an error status, a body of unknown length, a proxy, a URL with
unusual characters) is left to the session, with its retries and error messages.
"""

from __future__ import annotations

import os
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from msgspec import Struct

from neuromirror.model import Traffic
from neuromirror.net.allowed_addresses import (
    configured_ca_bundle,
    configured_proxy,
    resolve_allowed_addresses,
)
from neuromirror.net.errors import (
    IncompleteResponseError,
    NetError,
    RequestTimeoutError,
    UnsafeAddressError,
)
from neuromirror.net.responses import content_length
from neuromirror.net.session import Session
from neuromirror.net.traffic import record_traffic
from neuromirror.net.urls import display_host

if TYPE_CHECKING:
    import ssl

_HEAD: Final = 1 << 16
_PLAIN_HEAD: Final = re.compile(
    rb"HTTP/1\.1 (\d{3})(?: [^\r\n]*+)?\r\n(?:[!-9;-~]++:[^\r\n]*+\r\n)*+\r\n"
)
"""An unambiguous response head: parsers may disagree about where any other head ends."""
_FIELD: Final = re.compile(
    rb"(?i)\n(content-length|content-range|transfer-encoding|connection|location"
    rb"|etag|x-amz-checksum-[a-z0-9]+|x-amz-server-side-encryption[a-z-]*):"
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
    headers: Mapping[str, str]


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
        headers=fields,
    )


def first_byte_of(status: int, content_range: str) -> int | None:
    """Return the offset at which the body of a reply starts in the file.

    It is 0 for a whole file, and None for a partial reply (206) without a valid Content-Range.
    """
    if status != 206:
        return 0
    found = _RANGE.match(content_range)
    return None if found is None else int(found[1])


_BUFFER: Final = 1 << 20
_MAX_IDLE: Final = 4
"""Maximum number of idle connections that are kept open."""

_PRINTABLE: Final = re.compile(r"[!-~]+")

Origin = tuple[str, str, int]


class OpenBody(Struct, frozen=True):
    """A response body that is being received.

    Attributes
    ----------
    start
        Offset of the body's first byte in the file.
    length
        Length of the body in bytes; None if unknown.
    chunks
        The bytes. A chunk is valid until the next one is requested. Raises NetError if the body
        ends before its stated length or the deadline passes.
    headers
        The headers of the reply, with names in lower case.
    """

    start: int
    length: int | None
    chunks: Iterator[memoryview]
    headers: Mapping[str, str] = {}


class ConnectionFactory:
    """Creates persistent connections. Thread-safe.

    Parameters
    ----------
    session_for
        Returns the session of a URL. Each URL, including each redirect target, is requested
        within the limits of its own session.
    """

    def __init__(self, session_for: Callable[[str], Session]) -> None:
        self.session_for = session_for
        self._ssl_context: ssl.SSLContext | None = None

    def new_connection(self) -> PersistentConnection:
        """Return a new connection for the calling thread.

        Returns
        -------
        PersistentConnection
            The connection, not yet open.
        """
        return PersistentConnection(self)

    def ssl_context(self) -> ssl.SSLContext:
        """Return a TLS context with the CA certificates that sessions use.

        Returns
        -------
        ssl.SSLContext
            The context, the same for all connections. ``REQUESTS_CA_BUNDLE`` and ``CURL_CA_BUNDLE``
            name other certificates.
        """
        if self._ssl_context is None:
            import ssl

            import certifi

            ca_path = configured_ca_bundle() or certifi.where()
            is_directory = os.path.isdir(ca_path)
            self._ssl_context = ssl.create_default_context(
                cafile=None if is_directory else ca_path, capath=ca_path if is_directory else None
            )
        return self._ssl_context


class PersistentConnection:
    """Requests bodies one after another, in one thread. Close it when the thread is finished."""

    def __init__(self, factory: ConnectionFactory) -> None:
        self._factory = factory
        self._idle_sockets: dict[Origin, BufferedSocket] = {}
        self._direct: dict[Origin, bool] = {}
        self._hosts: dict[Origin, str] = {}
        self._buffer = bytearray(_BUFFER)
        self._busy_socket: BufferedSocket | None = None
        self._aborted = False

    def close(self) -> None:
        """Close the idle connections."""
        for connection in self._idle_sockets.values():
            connection.close()
        self._idle_sockets.clear()

    def abort(self) -> None:
        """Make the current and all further requests raise NetError. Callable from any thread."""
        self._aborted = True
        if (busy := self._busy_socket) is not None:
            busy.shut_down()

    @contextmanager
    def stream(
        self,
        url: str,
        *,
        start: int = 0,
        stop: int | None = None,
        headers: Mapping[str, str] | None = None,
        total: float | None = None,
    ) -> Iterator[OpenBody]:
        """Request a body.

        Parameters
        ----------
        url
            The URL.
        start
            Offset of the first requested byte. A server without range requests sends the whole
            body; see ``OpenBody.start``.
        stop
            Offset after the last requested byte; None for the rest of the file.
        headers
            Additional headers. They are sent to the URL's own origin only, not to the target of a
            redirect to another one.
        total
            Time limit for the whole body, in seconds.

        Yields
        ------
        OpenBody
            The body.

        Raises
        ------
        NetError
            If the request fails.
        """
        limits = self._factory.session_for(url).limits
        deadline = time.monotonic() + total if total is not None else None
        current_url, first_origin = url, None
        for _ in range(limits.redirects + 1):
            session = self._factory.session_for(current_url)
            self._raise_if_aborted(session, current_url)
            origin = session._origin_of(current_url)
            first_origin = first_origin or origin
            own_headers = dict(headers or {}) if origin == first_origin else {}
            if start or stop is not None:
                own_headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
            if not self._is_direct(current_url, origin):
                break
            limiter = session._limiter_for(origin)
            with limiter.slot():
                limiter.wait_for_rate()
                answer = self._send_get(session, current_url, origin, own_headers)
                if isinstance(answer, PlainResponse):
                    pieces = self._read_chunks(answer, session, current_url, deadline)
                    try:
                        yield OpenBody(answer.start, answer.length, pieces, answer.headers)
                    finally:
                        self._release(origin, answer)
                    return
            if answer is None:
                break
            current_url = session._redirect_target(current_url, answer)
        else:
            raise session._endless_redirects(url, limits.redirects)
        self._raise_if_aborted(session, current_url)
        remaining_seconds = None if deadline is None else max(deadline - time.monotonic(), 1.0)
        # a session would also send the headers to the target of a redirect
        redirect_limit = 0 if headers or session.allow_private else None
        with session.stream(
            current_url, total=remaining_seconds, headers=own_headers, redirects=redirect_limit
        ) as stream:
            first_byte = first_byte_of(stream.status, stream.headers.get("Content-Range", ""))
            if first_byte is None:
                redacted_url = session._redact_url(current_url)
                raise NetError(
                    f"{redacted_url}: partial response without a valid Content-Range",
                    url=redacted_url,
                )
            yield OpenBody(
                first_byte,
                content_length(stream.headers),
                map(memoryview, stream.chunks),
                stream.headers,
            )

    def _raise_if_aborted(self, session: Session, url: str) -> None:
        if self._aborted:
            redacted_url = session._redact_url(url)
            raise IncompleteResponseError(f"{redacted_url}: download aborted", url=redacted_url)

    def _is_direct(self, url: str, origin: Origin) -> bool:
        if not _PRINTABLE.fullmatch(url):
            return False
        found = self._direct.get(origin)
        if found is None:
            found = self._direct[origin] = not configured_proxy(url)
        return found

    def _send_get(
        self, session: Session, url: str, origin: Origin, headers: Mapping[str, str]
    ) -> PlainResponse | str | None:
        """Return a simple response, the target of a redirect, or None for any other response."""
        parts = urlsplit(url)
        target = parts.path or "/"
        if parts.query:
            target += "?" + parts.query
        host = self._hosts.get(origin)
        if host is None:
            host = self._hosts[origin] = display_host(url)
        headers = {**headers, **session.credentials_for("GET", url, headers)}
        lines = [
            f"GET {target} HTTP/1.1",
            f"Host: {parts.netloc.rpartition('@')[2]}",
            f"User-Agent: {session.user_agent}",
            "Accept: */*",
            "Accept-Encoding: identity",
            *(f"{name}: {value}" for name, value in headers.items()),
            "\r\n",
        ]
        request = "\r\n".join(lines).encode("latin-1")
        idle = self._idle_sockets.pop(origin, None)
        for connection in [idle, None] if idle is not None else [None]:
            record_traffic(host, Traffic(requests=1))
            try:
                current = connection or self._connect(session, origin, url)
            except OSError:
                return None
            self._busy_socket = current
            try:
                current.send(request)
                head = current.receive_head()
            except OSError:
                head = None
            if head is not None:
                answer = parse_response(current, head, host)
                if not isinstance(answer, PlainResponse):
                    current.close()
                return answer
            # the server may have closed a connection that was idle
            current.close()
            self._raise_if_aborted(session, url)
        return None

    def _connect(self, session: Session, origin: Origin, url: str) -> BufferedSocket:
        scheme, host, port = origin
        try:
            private = session.is_private_allowed(host, port)
            addresses = resolve_allowed_addresses(
                host, port, allow_private=private, private_hint=session.private_hint
            )
        except UnsafeAddressError as error:
            raise UnsafeAddressError(
                str(error), url=session._redact_url(url), always_refused=error.always_refused
            ) from None
        failed: OSError | None = None
        for address in addresses:
            try:
                sock = socket.create_connection((address, port), session.limits.connect)
            except OSError as error:
                failed = error
                continue
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if scheme == "https":
                    sock = self._factory.ssl_context().wrap_socket(sock, server_hostname=host)
                return BufferedSocket(sock, self._buffer, session.limits.read)
            except OSError as error:
                sock.close()
                failed = error
        raise failed or OSError(f"{host} has no address")

    def _read_chunks(
        self, answer: PlainResponse, session: Session, url: str, deadline: float | None
    ) -> Iterator[memoryview]:
        at = answer.body_offset
        connection = answer.connection
        broken: OSError | None = None
        try:
            while answer.remaining and broken is None:
                end = min(connection.capacity, at + answer.remaining)
                try:
                    while connection.filled < end:
                        if deadline is not None and time.monotonic() > deadline:
                            raise TimeoutError
                        connection.fill(end)
                except OSError as error:
                    # the bytes received so far are valid
                    broken, end = error, connection.filled
                answer.remaining -= end - at
                if end > at:
                    yield connection.view[at:end]
                at = connection.filled = 0
        finally:
            record_traffic(answer.host, Traffic(bytes=answer.length - answer.remaining))
        if broken is not None:
            redacted_url = session._redact_url(url)
            got = answer.length - answer.remaining
            if isinstance(broken, TimeoutError | BlockingIOError):
                timeout_message = f"{redacted_url}: timed out after {got} bytes; try again"
                raise RequestTimeoutError(timeout_message, url=redacted_url)
            cut_message = f"{redacted_url}: connection lost after {got} bytes; try again"
            raise IncompleteResponseError(cut_message, url=redacted_url)

    def _release(self, origin: Origin, answer: PlainResponse) -> None:
        """Keep the connection if the whole body was read, else close it."""
        self._busy_socket = None
        if answer.remaining or answer.closes_connection:
            answer.connection.close()
            return
        self._idle_sockets[origin] = answer.connection
        if len(self._idle_sockets) > _MAX_IDLE:
            self._idle_sockets.pop(next(iter(self._idle_sockets))).close()
