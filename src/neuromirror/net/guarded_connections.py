"""Connections that only reach allowed addresses and only last as long as allowed.

The address is checked where the connection is made, so a name that resolves to something else
the second time (DNS rebinding) gains nothing. Reading is bounded by a deadline as a whole, not by
a wait for each piece: a server that drips one byte a second is cut off.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.util.connection import create_connection

from neuromirror.net.errors import UnsafeAddressError
from neuromirror.net.urls import address_refusal, host_name_refusal, is_local_name, literal_address

_INTERIM: Final = 20
"""Interim replies (1xx) that may come before a reply."""


class Deadline(threading.local):
    """When this thread's current request must be over (monotonic seconds), or None."""

    expires_at: float | None = None

    def __init__(self, aborted: threading.Event) -> None:
        self.aborted = aborted
        """Set, nothing more is read, in any thread."""

    @contextmanager
    def within(self, seconds: float | None) -> Iterator[None]:
        """Sets the deadline for requests made inside, and puts back the one before."""
        previous = self.expires_at
        self.expires_at = None if seconds is None else time.monotonic() + seconds
        try:
            yield
        finally:
            self.expires_at = previous

    def extend(self, seconds: float) -> None:
        """Moves the deadline, if there is one, for time that nobody is to blame for."""
        if self.expires_at is not None:
            self.expires_at += seconds


class _TimedRaw(io.RawIOBase):
    """A socket's bytes, until the deadline."""

    def __init__(self, sock: socket.socket, deadline: float, aborted: threading.Event) -> None:
        self._sock = sock
        self._aborted = aborted
        self._raw = sock.makefile("rb", buffering=0)
        self._deadline = deadline
        self._wait = sock.gettimeout()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - time.monotonic()
        if self._aborted.is_set():
            raise TimeoutError("the session was aborted")
        if left <= 0:
            raise TimeoutError("the reply took too long as a whole")
        self._sock.settimeout(left if self._wait is None else min(left, self._wait))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedSocket:
    """What http.client takes as the socket of a response: only ``makefile`` is asked of it."""

    def __init__(self, sock: socket.socket, deadline: float, aborted: threading.Event) -> None:
        self._sock = sock
        self._deadline = deadline
        self._aborted = aborted

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedRaw(self._sock, self._deadline, self._aborted))


class _Response(http.client.HTTPResponse):
    """A reply whose interim ones (1xx) are passed over, and whose chunks have a size.

    http.client takes any but 100 for the reply, so that what follows would be the answer to the
    next request of the connection; and it reads chunks of less than nothing.
    """

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(_INTERIM):
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 100 <= status < 200:
                return version, status, reason
            if status == http.HTTPStatus.SWITCHING_PROTOCOLS:
                raise http.client.HTTPException("it switched protocols, which was not asked for")
            http.client.parse_headers(self.fp)
        raise http.client.HTTPException(f"got more than {_INTERIM} interim replies")

    def _read_next_chunk_size(self) -> int:
        size: int = super()._read_next_chunk_size()  # type: ignore[misc]
        if size < 0:
            raise ValueError("a chunk of less than nothing")
        return size


def allow_private_hint(address: str) -> str:
    """Return what an operator does for a mirror to reach a private address."""
    return (
        "set allow_private = true in the mirror's options if this archive really is on your own "
        "network"
    )


def resolve_allowed_addresses(
    host: str,
    port: int,
    *,
    allow_private: bool,
    private_hint: Callable[[str], str] = allow_private_hint,
) -> list[str]:
    """The addresses of a host, all of them allowed.

    ``private_hint`` gives, for an address that could be allowed, what to do for that.

    Raises socket.gaierror for an unknown name and :class:`UnsafeAddressError` when even one address
    is forbidden: a name with both kinds is an attack, or broken.
    """
    found: list[str] = []
    if (why := host_name_refusal(host)) is not None:
        raise UnsafeAddressError(f"{host} ({why}) is never asked", always_refused=True)
    literal = literal_address(host)
    try:
        address_infos = socket.getaddrinfo(
            host if literal is None else str(literal), port, type=socket.SOCK_STREAM
        )
    except UnicodeError as error:
        raise socket.gaierror(socket.EAI_NONAME, "no name that DNS could know") from error
    for *_, sockaddr in address_infos:
        text = str(sockaddr[0])
        address = ipaddress.ip_address(text.partition("%")[0])
        why = address_refusal(address, allow_private=allow_private)
        if why is not None:
            never = address_refusal(address, allow_private=True) is not None
            hint = "" if never else f"; {private_hint(text)}"
            raise UnsafeAddressError(
                f"{host} is at {text} ({why}), which is not asked{hint}", always_refused=never
            )
        if text not in found:
            found.append(text)
    return found


def refuse_behind_proxy(host: str, redacted_url: str, *, allow_private: bool) -> None:
    """Raise UnsafeAddressError for a host that a proxy must not be asked for.

    The proxy resolves names itself, so only addresses and names that are written out are checked.
    """
    address = literal_address(host)
    why = host_name_refusal(host)
    never = why is not None
    if address is not None:
        why = address_refusal(address, allow_private=allow_private)
        never = address_refusal(address, allow_private=True) is not None
    elif is_local_name(host) and not allow_private:
        why = "this machine itself"
    if why is not None:
        raise UnsafeAddressError(
            f"{redacted_url} is not asked: {why}", url=redacted_url, always_refused=never
        )


def _guarded_connection_class(
    base: type[HTTPConnection],
    is_private_allowed: Callable[[str, int], bool],
    private_hint: Callable[[str], str],
    deadline: Deadline,
) -> type[Any]:
    class Guarded(base):  # type: ignore[valid-type, misc]
        def _new_conn(self) -> socket.socket:
            host, port = self._dns_host, self.port
            private = is_private_allowed(host, port)
            try:
                addresses = resolve_allowed_addresses(
                    host, port, allow_private=private, private_hint=private_hint
                )
            except socket.gaierror as error:
                raise NameResolutionError(self.host, self, error) from error
            failed: OSError | None = None
            for address in addresses:
                try:
                    return create_connection(
                        (address, port),
                        self.timeout,
                        source_address=self.source_address,
                        socket_options=self.socket_options,
                    )
                except OSError as error:
                    failed = error
            if isinstance(failed, TimeoutError):
                raise ConnectTimeoutError(self, f"no answer from {self.host}") from failed
            raise NewConnectionError(self, f"cannot connect: {failed}") from failed

        def response_class(self, sock: Any, *rest: Any, **named: Any) -> http.client.HTTPResponse:
            if deadline.expires_at is not None:
                sock = _TimedSocket(sock, deadline.expires_at, deadline.aborted)
            return _Response(sock, *rest, **named)

    return Guarded


class GuardedAdapter(HTTPAdapter):
    """A requests adapter whose direct connections are checked and timed.

    ``is_private_allowed`` says of a host and port whether they may be on a private network, and
    ``private_hint`` of an address what to do for that. A
    configured proxy resolves names itself, so behind one only literal addresses can be checked (the
    session does that).
    """

    def __init__(
        self,
        *,
        is_private_allowed: Callable[[str, int], bool],
        private_hint: Callable[[str], str],
        deadline: Deadline,
        connections: int,
    ) -> None:
        self._is_private_allowed = is_private_allowed
        self._private_hint = private_hint
        self._deadline = deadline
        super().__init__(pool_connections=32, pool_maxsize=connections)

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any
    ) -> None:
        """Makes the pools (called by requests)."""
        pools = urllib3.PoolManager(
            num_pools=connections, maxsize=maxsize, block=block, **pool_kwargs
        )

        guards = self._is_private_allowed, self._private_hint, self._deadline

        class Plain(HTTPConnectionPool):
            ConnectionCls = _guarded_connection_class(HTTPConnection, *guards)

        class Secure(HTTPSConnectionPool):
            ConnectionCls = _guarded_connection_class(HTTPSConnection, *guards)

        pools.pool_classes_by_scheme = {"http": Plain, "https": Secure}
        self.poolmanager = pools
