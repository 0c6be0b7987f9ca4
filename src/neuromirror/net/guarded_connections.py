"""Connections with an address check and a deadline.

The address is checked when the connection is made, so DNS rebinding (a name that resolves to
another address the second time) has no effect. A deadline limits the whole response, not only
the wait for each chunk: a server that sends one byte per second is disconnected.
"""

from __future__ import annotations

import http.client
import io
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import certifi
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.util.connection import create_connection

from neuromirror.model import ConfigurationError
from neuromirror.net.allowed_addresses import configured_ca_bundle, resolve_allowed_addresses
from neuromirror.net.request_limits import Deadline
from neuromirror.net.urls import redact

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


class GuardedPools:
    """Pools of connections; direct ones check the address and keep the deadline. Thread-safe.

    Connections through a proxy are not checked here, since the proxy resolves the name; see
    :func:`~neuromirror.net.allowed_addresses.refuse_behind_proxy`. No cookies are kept.

    ``is_private_allowed`` and ``private_hint`` are those of the session, ``connections`` is the
    number of connections per host that are kept open.
    """

    def __init__(
        self,
        *,
        is_private_allowed: Callable[[str, int], bool],
        private_hint: Callable[[str], str],
        deadline: Deadline,
        connections: int,
    ) -> None:
        guards = is_private_allowed, private_hint, deadline

        class Plain(HTTPConnectionPool):
            ConnectionCls = _guarded_connection_class(HTTPConnection, *guards)

        class Secure(HTTPSConnectionPool):
            ConnectionCls = _guarded_connection_class(HTTPSConnection, *guards)

        self._direct_pools = {"http": Plain, "https": Secure}
        self._connections = connections
        self._lock = threading.Lock()
        self._managers: dict[tuple[str, str], urllib3.PoolManager] = {}

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        *,
        proxy: str,
        timeout: urllib3.Timeout,
    ) -> urllib3.BaseHTTPResponse:
        """Send one request without following redirects or reading the body."""
        manager = self._manager(proxy, configured_ca_bundle() or certifi.where())
        parts = urlsplit(url)
        target = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
        return manager.connection_from_url(url).urlopen(
            method,
            url if proxy and parts.scheme == "http" else target,
            body=body,
            headers=headers,
            retries=False,
            redirect=False,
            assert_same_host=False,
            timeout=timeout,
            preload_content=False,
            decode_content=False,
        )

    def _manager(self, proxy: str, ca_path: str) -> urllib3.PoolManager:
        with self._lock:
            manager = self._managers.get((proxy, ca_path))
            if manager is None:
                options: dict[str, Any] = {
                    "num_pools": 32,
                    "maxsize": self._connections,
                    "ca_cert_dir" if os.path.isdir(ca_path) else "ca_certs": ca_path,
                }
                if proxy:
                    manager = _proxy_manager(proxy, options)
                else:
                    manager = urllib3.PoolManager(**options)
                    manager.pool_classes_by_scheme = self._direct_pools
                self._managers[proxy, ca_path] = manager
            return manager

    def close(self) -> None:
        """Close the idle connections."""
        with self._lock:
            for manager in self._managers.values():
                manager.clear()


def _proxy_manager(proxy: str, options: Mapping[str, Any]) -> urllib3.PoolManager:
    if proxy.lower().startswith("socks"):
        try:
            from urllib3.contrib.socks import SOCKSProxyManager
        except ImportError:
            raise ConfigurationError(
                f"the proxy {redact(proxy)} needs the package PySocks; install it with"
                " 'pip install pysocks'"
            ) from None
        return SOCKSProxyManager(proxy, **options)
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    login = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else None
    return urllib3.ProxyManager(
        parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(),
        proxy_headers=urllib3.make_headers(proxy_basic_auth=login) if login else None,
        **options,
    )
