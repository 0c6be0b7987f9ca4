"""Addresses at which servers listen, their optional packages, and the status of catalogues."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import Final
from urllib.parse import urlsplit

import msgspec

from neuromirror.model import ConfigurationError
from neuromirror.model.validation import analysed_type
from neuromirror.store import Store, write_atomically
from neuromirror.store.durable_files import make_folder

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


SERVICE = ("'neuromirror serve'", "service", "apscheduler", "prometheus_client")
CATALOGUE = ("the catalogue", "web", "starlette", "uvicorn")


_PREFIX: Final = "catalogue-"
_SAVE_SECONDS: Final = 60.0
"""Seconds between two saved states of a catalogue."""
_LOST_SECONDS: Final = 180.0
_FORGOTTEN_SECONDS: Final = 7 * 86400.0
"""Seconds after its last saved state until a catalogue counts as lost."""
_RESULTS: Final = ("document", "download", "folder", "redirect", "proxy", "bytes")
"""Results of the gateway that are no failures."""


class CatalogueStatus(msgspec.Struct, forbid_unknown_fields=True):
    """The status of a catalogue.

    Attributes
    ----------
    url
        The URL at which it listens.
    gateway
        The mode of the gateway by mirror; that of all other mirrors has the name ``""``.
    counts
        Refused requests by kind, and responses of the gateway (``gateway <result>``), since the
        start.
    saved_at
        When this status was saved, in POSIX seconds.
    host
        The host on which it runs; catalogues on several hosts may have the same URL.
    """

    url: str
    gateway: dict[str, str]
    counts: dict[str, int] = {}
    saved_at: float = 0.0
    host: str = ""

    @property
    def name(self) -> str:
        """The URL and the host, for messages."""
        return f"{self.url} on {self.host}" if self.host else self.url

    @property
    def gateway_failures(self) -> dict[str, int]:
        """Number of responses of the gateway that failed, by reason."""
        found = {
            name.removeprefix("gateway "): count
            for name, count in self.counts.items()
            if name.startswith("gateway ")
        }
        return {name: count for name, count in sorted(found.items()) if name not in _RESULTS}

    @property
    def is_lost(self) -> bool:
        """Whether it no longer runs, although it was not stopped."""
        return time.time() - self.saved_at > _LOST_SECONDS

    def problems(self) -> Iterator[str]:
        """Yield a message for everything that an operator has to look at."""
        if self.is_lost:
            yield (
                f"catalogue {self.name}: not running since {_moment(self.saved_at)}, although it "
                "was not stopped; see its log, and start it again"
            )


class CatalogueStatusFile:
    """Saves the status of a catalogue from time to time; thread-compatible.

    Parameters
    ----------
    store
        The store. If it cannot be written, nothing is saved.
    url
        The URL at which the catalogue listens.
    gateway
        The mode of the gateway by mirror.
    """

    def __init__(self, store: Store, url: str, gateway: Mapping[str, str]) -> None:
        self.status = CatalogueStatus(url, dict(gateway), host=socket.gethostname())
        name = re.sub(r"[^\w.-]+", "-", f"{self.status.host}-{url.partition('://')[2]}")
        self._path = store.task_state_path(_PREFIX + name)

    def update(self, counts: Mapping[str, int]) -> None:
        """Set the counts; save the status if a minute has passed."""
        now, found = time.time(), self.status
        found.counts = dict(counts)
        if now - found.saved_at > _SAVE_SECONDS:
            found.saved_at = now
            with suppress(OSError):
                make_folder(self._path.parent)
                write_atomically(self._path, msgspec.json.encode(found) + b"\n", durable=False)

    def remove(self) -> None:
        """Remove the file of a catalogue that was stopped."""
        with suppress(OSError):
            self._path.unlink()


def catalogue_statuses(store: Store) -> list[CatalogueStatus]:
    """Return the status of each catalogue that was not stopped, and that ran in the last week.

    Parameters
    ----------
    store
        The store.
    """
    found = []
    for path in sorted(store.task_state_path(_PREFIX).parent.glob(f"{_PREFIX}*.json")):
        with suppress(OSError, msgspec.DecodeError):
            status = msgspec.json.decode(path.read_bytes(), type=analysed_type(CatalogueStatus))
            if time.time() - status.saved_at < _FORGOTTEN_SECONDS:
                found.append(status)
    return found


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
