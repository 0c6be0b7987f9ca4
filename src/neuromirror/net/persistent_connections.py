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
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from msgspec import Struct

from neuromirror.model import Traffic
from neuromirror.net.allowed_addresses import resolve_allowed_addresses
from neuromirror.net.buffered_socket import (
    BufferedSocket,
    PlainResponse,
    first_byte_of,
    parse_response,
)
from neuromirror.net.environment import configured_ca_bundle, configured_proxies
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
    """

    start: int
    length: int | None
    chunks: Iterator[memoryview]


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
                        yield OpenBody(answer.start, answer.length, pieces)
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
            found = self._direct[origin] = not configured_proxies(url)
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
