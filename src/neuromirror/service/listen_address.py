"""Addresses that something of ours is served at: as people write them, and as sockets."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from neuromirror.model import ConfigurationError

_BACKLOG = 128
"""Connections that wait to be accepted, as long as nobody does."""


def parse_listen_address(text: str) -> tuple[str, int]:
    """``127.0.0.1:9464``, ``[::1]:9464`` or ``:9464`` (this machine alone) as host and port.

    Raises ConfigurationError for anything else.
    """
    try:
        parts = urlsplit(f"//{text}")
        port = parts.port
    except ValueError:
        port = None
    if port is None or parts.path or parts.query or parts.fragment or "@" in text:
        raise ConfigurationError(f"'{text}' is not an address; write host:port, as 127.0.0.1:9464")
    return parts.hostname or "127.0.0.1", port


def format_address(address: tuple[str, int]) -> str:
    """The same, as people write it."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_site_url(text: str) -> str:
    """``https://mirror.example.org``, as people type it; empty: none of its own.

    Raises ConfigurationError for anything else.
    """
    try:
        parts = urlsplit(text)
        named = bool(parts.hostname) and "@" not in parts.netloc
    except ValueError:
        named = False
    if text and not (named and parts.scheme in ("http", "https") and text.isascii()):
        raise ConfigurationError(
            f"'{text}' is not the address of a site; write for example https://mirror.example.org"
        )
    if text and (parts.query or parts.fragment):
        raise ConfigurationError(f"'{text}': the address of a site ends before its ? or #")
    return text.rstrip("/")


def open_listener(address: tuple[str, int], what: str) -> socket.socket:
    """A socket at which connections wait from now on; port 0 takes a free one.

    Raises ConfigurationError, with ``what`` should be served, where it cannot be had.
    """
    host, port = address
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(found[0], socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(found[4])
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise ConfigurationError(
            f"{what} cannot be served at {format_address(address)}: {reason or error}; name "
            "another address"
        ) from error
    return listener


def bound_address(listener: socket.socket) -> tuple[str, int]:
    """Where a socket listens, its port known."""
    host, port = listener.getsockname()[:2]
    return str(host), int(port)
