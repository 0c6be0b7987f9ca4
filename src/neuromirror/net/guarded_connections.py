"""Connections with an address check and a deadline.

The address is checked when the connection is made, so DNS rebinding (a name that resolves to
another address the second time) has no effect. A deadline limits the whole response, not only
the wait for each chunk: a server that sends one byte per second is disconnected.
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
"""Maximum number of interim responses (1xx) before the final one."""


class Deadline(threading.local):
    """The time by which the calling thread's current request must finish.

    ``expires_at`` is in seconds of ``time.monotonic``, None without a deadline.
    """

    expires_at: float | None = None

    def __init__(self, aborted: threading.Event) -> None:
        self.aborted = aborted
        """If set, reading fails in every thread."""

    @contextmanager
    def within(self, seconds: float | None) -> Iterator[None]:
        """Set the deadline of the requests made in this context, and restore the previous one."""
        previous = self.expires_at
        self.expires_at = None if seconds is None else time.monotonic() + seconds
        try:
            yield
        finally:
            self.expires_at = previous

    def extend(self, seconds: float) -> None:
        """Postpone the deadline, if there is one."""
        if self.expires_at is not None:
            self.expires_at += seconds


class _TimedRaw(io.RawIOBase):
    """A raw stream over a socket that fails after the deadline."""

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
            raise TimeoutError("the response exceeded its deadline")
        self._sock.settimeout(left if self._wait is None else min(left, self._wait))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedSocket:
    """The part of a socket's interface that http.client uses for a response: ``makefile``."""

    def __init__(self, sock: socket.socket, deadline: float, aborted: threading.Event) -> None:
        self._sock = sock
        self._deadline = deadline
        self._aborted = aborted

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedRaw(self._sock, self._deadline, self._aborted))


class _Response(http.client.HTTPResponse):
    """An HTTP response that skips interim responses (1xx) and refuses negative chunk sizes.

    http.client skips 100 only. It takes any other 1xx for the final response, and the final
    response for that of the next request on the connection.
    """

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(_INTERIM):
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 100 <= status < 200:
                return version, status, reason
            if status == http.HTTPStatus.SWITCHING_PROTOCOLS:
                raise http.client.HTTPException("unexpected status 101 (switching protocols)")
            http.client.parse_headers(self.fp)
        raise http.client.HTTPException(f"more than {_INTERIM} interim responses")

    def _read_next_chunk_size(self) -> int:
        size: int = super()._read_next_chunk_size()  # type: ignore[misc]
        if size < 0:
            raise ValueError(f"invalid chunk size {size}")
        return size


def allow_private_hint(address: str) -> str:
    """Return the end of an error message: which setting allows a refused private address."""
    return (
        "if this archive is on your own network, set allow_private = true in the mirror's "
        "configuration file"
    )


def resolve_allowed_addresses(
    host: str,
    port: int,
    *,
    allow_private: bool,
    private_hint: Callable[[str], str] = allow_private_hint,
) -> list[str]:
    """Resolve a host name and check its addresses.

    Parameters
    ----------
    host, port
        The host to connect to.
    allow_private
        Whether loopback and private addresses are allowed.
    private_hint
        Returns, for a refused private address, the setting that would allow it.

    Returns
    -------
    list of str
        The addresses, all of them allowed.

    Raises
    ------
    socket.gaierror
        If the name cannot be resolved.
    UnsafeAddressError
        If at least one address is refused: a name with both allowed and refused addresses is
        an attack or a misconfiguration.
    """
    found: list[str] = []
    if (why := host_name_refusal(host)) is not None:
        raise UnsafeAddressError(f"{host}: refused ({why})", always_refused=True)
    literal = literal_address(host)
    try:
        address_infos = socket.getaddrinfo(
            host if literal is None else str(literal), port, type=socket.SOCK_STREAM
        )
    except UnicodeError as error:
        raise socket.gaierror(socket.EAI_NONAME, "not a valid DNS name") from error
    for *_, sockaddr in address_infos:
        text = str(sockaddr[0])
        address = ipaddress.ip_address(text.partition("%")[0])
        why = address_refusal(address, allow_private=allow_private)
        if why is not None:
            never = address_refusal(address, allow_private=True) is not None
            hint = "" if never else f"; {private_hint(text)}"
            raise UnsafeAddressError(
                f"{host}: refused, because it resolves to {text} ({why}){hint}",
                always_refused=never,
            )
        if text not in found:
            found.append(text)
    return found


def refuse_behind_proxy(host: str, redacted_url: str, *, allow_private: bool) -> None:
    """Raise UnsafeAddressError if a host must not be requested through a proxy.

    The proxy resolves names, so only IP address literals and known names can be checked here.

    Parameters
    ----------
    host
        The host.
    redacted_url
        The URL for the message.
    allow_private
        Whether private addresses are allowed.
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
            f"{redacted_url}: refused ({why})", url=redacted_url, always_refused=never
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
                raise ConnectTimeoutError(self, f"{self.host}: connection timed out") from failed
            raise NewConnectionError(self, f"cannot connect: {failed}") from failed

        def response_class(self, sock: Any, *rest: Any, **named: Any) -> http.client.HTTPResponse:
            if deadline.expires_at is not None:
                sock = _TimedSocket(sock, deadline.expires_at, deadline.aborted)
            return _Response(sock, *rest, **named)

    return Guarded


class GuardedAdapter(HTTPAdapter):
    """A requests adapter whose direct connections check the address and keep the deadline.

    Connections through a proxy are not checked here, since the proxy resolves the name; see
    :func:`refuse_behind_proxy`.

    Parameters
    ----------
    is_private_allowed
        Whether a host and port may be on a private network.
    private_hint
        Returns, for a refused private address, the setting that would allow it.
    deadline
        The deadline of the current request.
    connections
        Connections per host that are kept open.
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
        """Create the connection pools (called by requests)."""
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
