"""Addresses at which servers listen, and checks for their optional packages."""

from __future__ import annotations

import socket
from importlib.util import find_spec
from urllib.parse import urlsplit

from neuromirror.model import ConfigurationError

_BACKLOG = 128
"""Backlog of the listening socket."""


def parse_listen_address(text: str) -> tuple[str, int]:
    """Parse ``127.0.0.1:9464``, ``[::1]:9464`` or ``:9464`` (loopback) into host and port.

    Raises
    ------
    ConfigurationError
        If the text has another form.
    """
    try:
        parts = urlsplit(f"//{text}")
        port = parts.port
    except ValueError:
        port = None
    if port is None or parts.path or parts.query or parts.fragment or "@" in text:
        raise ConfigurationError(
            f"'{text}' is not an address; write host:port, such as 127.0.0.1:9464"
        )
    return parts.hostname or "127.0.0.1", port


def format_address(address: tuple[str, int]) -> str:
    """Return ``host:port``, with brackets around an IPv6 address."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_site_url(text: str) -> str:
    """Return the public URL of a site without a trailing slash; empty if it has none.

    Raises
    ------
    ConfigurationError
        If the text is not an http or https URL, or has a query or fragment.
    """
    try:
        parts = urlsplit(text)
        named = bool(parts.hostname) and "@" not in parts.netloc
    except ValueError:
        named = False
    if text and not (named and parts.scheme in ("http", "https") and text.isascii()):
        raise ConfigurationError(
            f"'{text}' is not the URL of a site; write, for example, https://mirror.example.org"
        )
    if text and (parts.query or parts.fragment):
        raise ConfigurationError(
            f"'{text}': the URL of a site has no query and no fragment; "
            f"remove everything from ? or # on"
        )
    return text.rstrip("/")


def open_listener(address: tuple[str, int], what: str) -> socket.socket:
    """Return a listening socket; port 0 selects a free port.

    Raises
    ------
    ConfigurationError
        If the address cannot be bound; ``what`` names the server in the message.
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
            f"{what} cannot be served at {format_address(address)}: {reason or error}; choose "
            f"another address"
        ) from error
    return listener


def bound_address(listener: socket.socket) -> tuple[str, int]:
    """Return the address of a listening socket with its actual port."""
    host, port = listener.getsockname()[:2]
    return str(host), int(port)


def require_packages(what: str, extra: str, *names: str) -> None:
    """Raise ConfigurationError if a package of an extra is missing that ``what`` needs."""
    for name in names:
        if find_spec(name) is None:
            raise ConfigurationError(
                f"{what} needs the extra '{extra}' ({name} is missing): pip install "
                f"'neuromirror[{extra}]'"
            )


SERVICE = ("'neuromirror serve'", "service", "apscheduler", "prometheus_client", "pythonjsonlogger")
CATALOGUE = ("the catalogue", "web", "starlette", "uvicorn")
