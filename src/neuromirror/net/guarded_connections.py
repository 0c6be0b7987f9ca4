"""Connections with an address check and a deadline.

The address is checked when the connection is made, so DNS rebinding (a name that resolves to
another address the second time) has no effect. A deadline limits the whole response, not only
the wait for each chunk: a server that sends one byte per second is disconnected.
"""

from __future__ import annotations

import http.client
import io
import socket
import threading
import time
from collections.abc import Callable
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Final

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.util.connection import create_connection

from neuromirror.net.allowed_addresses import resolve_allowed_addresses
from neuromirror.net.request_limits import Deadline

_INTERIM: Final = 20
"""Maximum number of interim responses (1xx) before the final one."""


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
    :func:`~neuromirror.net.allowed_addresses.refuse_behind_proxy`.

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


def guarded_session(
    *,
    is_private_allowed: Callable[[str, int], bool],
    private_hint: Callable[[str], str],
    deadline: Deadline,
    connections: int,
) -> requests.Session:
    """Return a session of requests that keeps no cookies and sends no credentials from ``.netrc``.

    The parameters are those of :class:`GuardedAdapter`. Proxies are not looked up.
    """
    session = requests.Session()
    session.trust_env = False
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    adapter = GuardedAdapter(
        is_private_allowed=is_private_allowed,
        private_hint=private_hint,
        deadline=deadline,
        connections=connections,
    )
    for scheme in ("http://", "https://"):
        session.mount(scheme, adapter)
    return session
