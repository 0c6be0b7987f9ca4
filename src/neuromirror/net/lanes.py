"""Bodies over connections that a thread keeps to itself: the short way for thousands of files.

A session prepares each request with care, which takes longer than a small file takes to arrive.
What is plain — a GET over a direct connection, answered with 200 or 206 and a stated length — is
done here with a fifth of the work; all else (an error, a body without a length, a proxy, an
address with odd characters) is left to the session, whose words and patience it needs.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import requests.utils

from neuromirror.model import Traffic
from neuromirror.net.errors import BrokenOff, NetError, TimedOut, Unreachable, UnsafeAddress
from neuromirror.net.guard import checked_addresses
from neuromirror.net.replies import stated_length
from neuromirror.net.session import Session
from neuromirror.net.traffic import count
from neuromirror.net.urls import host_of

_BUFFER: Final = 1 << 20
_HEAD: Final = 1 << 16
_KEPT: Final = 4
"""Hosts to which a lane keeps a connection."""

_PRINTED: Final = re.compile(r"[!-~]+")
_PLAIN_HEAD: Final = re.compile(
    rb"HTTP/1\.1 (\d{3})(?: [^\r\n]*+)?\r\n(?:[!-9;-~]++:[^\r\n]*+\r\n)*+\r\n"
)
"""A head that cannot be read in two ways: others may end an odd one elsewhere."""
_FIELD: Final = re.compile(
    rb"(?i)\n(content-length|content-range|transfer-encoding|connection|location):"
    rb"[ \t]*([^\r\n]*?)[ \t]*(?=\r?\n)"
)
_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-\d+/(?:\d+|\*)")
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})

Place = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class OpenBody:
    """A body that arrives; ``start`` is where in the file it begins, ``length`` what is to come.

    A piece of ``pieces`` is good until the next one is asked for. They raise a NetError when the
    body ends before its stated length, or takes too long.
    """

    start: int
    length: int | None
    pieces: Iterator[memoryview]


class Lanes:
    """Makes lanes that ask as ``session_for(url)`` may; shared by threads.

    Each address on the way, redirects too, is asked within the limits of its own session.
    """

    def __init__(self, session_for: Callable[[str], Session]) -> None:
        self.session_for = session_for
        self._trusted: ssl.SSLContext | None = None

    def lane(self) -> Lane:
        """One more, for one thread."""
        return Lane(self)

    def trusted(self) -> ssl.SSLContext:
        """Whose certificates are believed: those whom sessions believe."""
        if self._trusted is None:
            file = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
            place = file or requests.utils.DEFAULT_CA_BUNDLE_PATH
            folder = os.path.isdir(place)
            self._trusted = ssl.create_default_context(
                cafile=None if folder else place, capath=place if folder else None
            )
        return self._trusted


class Lane:
    """Asks for one body after the other; for one thread, to be closed at its end."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._kept: dict[Place, _Connection] = {}
        self._direct: dict[Place, bool] = {}
        self._hosts: dict[Place, str] = {}
        self._buffer = bytearray(_BUFFER)
        self._busy: _Connection | None = None
        self._broken = False

    def close(self) -> None:
        """Closes the kept connections."""
        for connection in self._kept.values():
            connection.close()
        self._kept.clear()

    def break_off(self) -> None:
        """Lets nothing more come, from any thread: what is under way raises a NetError."""
        self._broken = True
        if (busy := self._busy) is not None:
            busy.hang_up()

    @contextmanager
    def body(
        self,
        url: str,
        *,
        start: int = 0,
        headers: Mapping[str, str] | None = None,
        total: float | None = None,
    ) -> Iterator[OpenBody]:
        """The body at an address, from byte ``start`` on where the server can (look at ``start``).

        ``headers`` go to the address's own origin only, not where a redirect leads away from it.
        ``total`` bounds the whole, in seconds. Raises a NetError.
        """
        limits = self._lanes.session_for(url).limits
        deadline = time.monotonic() + total if total is not None else None
        asked, home = url, None
        for _ in range(limits.redirects + 1):
            session = self._lanes.session_for(asked)
            self._refuse_if_broken(session, asked)
            place = session._place(asked)
            home = home or place
            own = dict(headers or {}) if place == home else {}
            if start:
                own["Range"] = f"bytes={start}-"
            if not self._is_direct(asked, place):
                break
            turns = session._turns_at(place)
            with turns.place():
                turns.pace()
                answer = self._ask(session, asked, place, own)
                if isinstance(answer, _Plain):
                    pieces = self._pieces(answer, session, asked, deadline)
                    try:
                        yield OpenBody(answer.start, answer.length, pieces)
                    finally:
                        self._leave(place, answer)
                    return
            if answer is None:
                break
            asked = session._redirected(asked, answer)
        else:
            shown = session._shown(url)
            endless = Unreachable(
                f"{shown} redirects more than {limits.redirects} times", url=shown
            )
            endless.passing = False
            raise endless
        self._refuse_if_broken(session, asked)
        left = None if deadline is None else max(deadline - time.monotonic(), 1.0)
        # a session would take what may go to one address along to another
        most = 0 if headers or session.allow_private else None
        with session.stream(asked, total=left, headers=own, redirects=most) as stream:
            begins = _begins(stream.status, stream.headers.get("Content-Range", ""))
            if begins is None:
                shown = session._shown(asked)
                raise NetError(f"{shown} sent a part without saying which", url=shown)
            yield OpenBody(
                begins,
                stated_length(stream.headers),
                map(memoryview, stream.chunks),
            )

    def _refuse_if_broken(self, session: Session, url: str) -> None:
        if self._broken:
            shown = session._shown(url)
            raise BrokenOff(f"{shown} was broken off", url=shown)

    def _is_direct(self, url: str, place: Place) -> bool:
        if not _PRINTED.fullmatch(url):
            return False
        found = self._direct.get(place)
        if found is None:
            proxies = requests.utils.get_environ_proxies(url)
            found = self._direct[place] = not (proxies.get(place[0]) or proxies.get("all"))
        return found

    def _ask(
        self, session: Session, url: str, place: Place, headers: Mapping[str, str]
    ) -> _Plain | str | None:
        """The plain answer, the address that it redirects to, or None for any other answer."""
        parts = urlsplit(url)
        target = parts.path or "/"
        if parts.query:
            target += "?" + parts.query
        host = self._hosts.get(place)
        if host is None:
            host = self._hosts[place] = host_of(url)
        agent = session._http.headers["User-Agent"]
        lines = [
            f"GET {target} HTTP/1.1",
            f"Host: {parts.netloc.rpartition('@')[2]}",
            f"User-Agent: {agent if isinstance(agent, str) else agent.decode()}",
            "Accept: */*",
            "Accept-Encoding: identity",
            *(f"{name}: {value}" for name, value in headers.items()),
            "\r\n",
        ]
        request = "\r\n".join(lines).encode("latin-1")
        kept = self._kept.pop(place, None)
        for connection in [kept, None] if kept is not None else [None]:
            count(host, Traffic(requests=1))
            try:
                now = connection or self._connect(session, place, url)
            except OSError:
                return None
            self._busy = now
            try:
                now.send(request)
                head = now.head()
            except OSError:
                head = None
            if head is not None:
                answer = _answer(now, head, host)
                if not isinstance(answer, _Plain):
                    now.close()
                return answer
            # the server may have hung up on a connection that was not used for a while
            now.close()
            self._refuse_if_broken(session, url)
        return None

    def _connect(self, session: Session, place: Place, url: str) -> _Connection:
        scheme, host, port = place
        try:
            private = session.private_at(host, port)
            addresses = checked_addresses(
                host, port, allow_private=private, private_hint=session.private_hint
            )
        except UnsafeAddress as error:
            raise UnsafeAddress(str(error), url=session._shown(url), never=error.never) from None
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
                    sock = self._lanes.trusted().wrap_socket(sock, server_hostname=host)
                return _Connection(sock, self._buffer, session.limits.read)
            except OSError as error:
                sock.close()
                failed = error
        raise failed or OSError(f"{host} has no address")

    def _pieces(
        self, answer: _Plain, session: Session, url: str, deadline: float | None
    ) -> Iterator[memoryview]:
        at = answer.at
        connection = answer.connection
        broken: OSError | None = None
        try:
            while answer.left and broken is None:
                end = min(connection.room, at + answer.left)
                try:
                    while connection.filled < end:
                        if deadline is not None and time.monotonic() > deadline:
                            raise TimeoutError
                        connection.fill(end)
                except OSError as error:
                    # what has come before is good
                    broken, end = error, connection.filled
                answer.left -= end - at
                if end > at:
                    yield connection.view[at:end]
                at = connection.filled = 0
        finally:
            count(answer.host, Traffic(bytes=answer.length - answer.left))
        if broken is not None:
            shown = session._shown(url)
            got = answer.length - answer.left
            if isinstance(broken, TimeoutError | BlockingIOError):
                late = f"{shown} sent {got} bytes and then took too long; try again"
                raise TimedOut(late, url=shown)
            cut = f"{shown} broke off after {got} bytes; try again"
            raise BrokenOff(cut, url=shown)

    def _leave(self, place: Place, answer: _Plain) -> None:
        """Keeps the connection where its body was read to the end, else closes it."""
        self._busy = None
        if answer.left or answer.last:
            answer.connection.close()
            return
        self._kept[place] = answer.connection
        if len(self._kept) > _KEPT:
            self._kept.pop(next(iter(self._kept))).close()


class _Connection:
    """A socket, and the buffer of its lane."""

    __slots__ = ("_flags", "_sock", "_wait", "filled", "room", "view")

    def __init__(self, sock: socket.socket, buffer: bytearray, wait: float) -> None:
        self._sock = sock
        self._wait = wait
        self.view = memoryview(buffer)
        self.room = len(buffer)
        self.filled = 0
        self._flags = 0
        if not isinstance(sock, ssl.SSLSocket):
            # the system waits by itself for a piece as large as the buffer: two calls, not many
            sock.settimeout(None)
            span = struct.pack("ll", int(wait), int(wait % 1 * 1e6))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, span)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, span)
            self._flags = socket.MSG_WAITALL
        else:
            sock.settimeout(wait)

    def send(self, request: bytes) -> None:
        self._sock.sendall(request)
        self.filled = 0

    def head(self) -> int | None:
        """Where the head ends; None where none came, or too long a one, or too slowly."""
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
        """Receives more, at most up to ``end``; raises OSError at the end of all."""
        got = self._sock.recv_into(self.view[self.filled : end], 0, self._flags)
        if not got:
            raise ConnectionError("the connection was closed")
        self.filled += got

    def hang_up(self) -> None:
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with suppress(OSError):
            self._sock.close()


@dataclass(slots=True)
class _Plain:
    """An answer whose body is read here: ``at`` is where in the buffer it begins."""

    connection: _Connection
    host: str
    start: int
    length: int
    at: int
    last: bool
    """Whether the server closes the connection after it."""
    left: int


def _answer(connection: _Connection, end: int, host: str) -> _Plain | str | None:
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
    size = stated_length({"Content-Length": fields.get("content-length", "")})
    if code not in (200, 206) or size is None or "transfer-encoding" in fields:
        return None
    start = _begins(code, fields.get("content-range", ""))
    if start is None:
        return None
    return _Plain(
        connection=connection,
        host=host,
        start=start,
        length=size,
        at=end,
        # what follows a body unasked must not be taken for the next head
        last=fields.get("connection", "").lower() == "close" or connection.filled > end + size,
        left=size,
    )


def _begins(status: int, content_range: str) -> int | None:
    """Where in the file a body begins; None where a part does not say it."""
    if status != 206:
        return 0
    found = _RANGE.match(content_range)
    return None if found is None else int(found[1])
