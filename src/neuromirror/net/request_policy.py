"""The operator's request policy (contact, rate and concurrency limits), and its enforcement."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any, Final
from urllib.parse import urlsplit

from msgspec import Struct
from msgspec.structs import replace

from neuromirror import __version__
from neuromirror.net.errors import NetError
from neuromirror.net.listing_limits import ListingLimits
from neuromirror.net.request_limits import RequestLimits
from neuromirror.net.urls import redact

_MAX_CONTACT_LENGTH: Final = 200
_MAX_BLOCK_SECONDS: Final = 3600.0
_CONTACT_CHARACTERS: Final = re.compile(r"[!#-'*-:=?-\[\]-~]+")
"""Printable ASCII without spaces and the delimiters of a header comment: ``"()\\;<>``."""
_MAIL: Final = re.compile(r"mailto:[^@?]+@[^@?]+\Z")


class RequestPolicy(Struct, frozen=True):
    """The operator's settings for all requests of a mirror; None keeps the source's default.

    Attributes
    ----------
    contact
        The operator's contact address, sent in the User-Agent header.
    connections_per_host
        Maximum number of concurrent requests per host.
    requests_per_second
        Maximum number of requests per second and host.
    listing
        Limits of one listing.
    """

    contact: str | None = None
    connections_per_host: int | None = None
    requests_per_second: float | None = None
    listing: ListingLimits | None = None

    def apply_to(self, limits: RequestLimits) -> RequestLimits:
        """Return the limits with the operator's settings applied.

        Parameters
        ----------
        limits
            The limits that the source sets.

        Returns
        -------
        RequestLimits
            A copy; settings that are None keep the value of ``limits``.
        """
        overrides: dict[str, Any] = {
            "per_host": self.connections_per_host,
            "per_second": self.requests_per_second,
            "listing": self.listing,
        }
        return replace(limits, **{name: one for name, one in overrides.items() if one is not None})


def validate_contact(contact: str) -> str:
    """Return a contact address that is safe to send in the User-Agent header.

    Parameters
    ----------
    contact
        A URL or a ``mailto:`` address.

    Returns
    -------
    str
        The address.

    Raises
    ------
    ValueError
        If it is neither. The message does not quote the value, which may be a misplaced secret.
    """
    if len(contact) > _MAX_CONTACT_LENGTH:
        raise ValueError(f"expected at most {_MAX_CONTACT_LENGTH} characters")
    if not _CONTACT_CHARACTERS.fullmatch(contact):
        raise ValueError(
            "expected printable ASCII without spaces, quotes, parentheses and backslashes"
        )
    if not _MAIL.match(contact):
        try:
            parts = urlsplit(contact)
        except ValueError:
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected mailto:you@your.lab or the URL of a web page")
    if redact(contact) != contact:
        raise ValueError("it contains a secret, but is sent to every archive; remove the secret")
    return contact


def user_agent(contact: str | None) -> str:
    """Return the User-Agent header, with the contact address if there is one."""
    return f"neuromirror/{__version__}" + (f" (+{contact})" if contact else "")


class HostLimiter:
    """Limits the concurrency and the rate of requests to one host. Thread-safe.

    Parameters
    ----------
    connections
        Maximum number of concurrent requests.
    per_second
        Maximum number of requests per second; None for no limit.

    Attributes
    ----------
    has_replied
        Whether the host has replied to a request.
    """

    def __init__(self, connections: int, per_second: float | None) -> None:
        self.has_replied = False
        self._slots = threading.BoundedSemaphore(connections)
        self._interval = 0.0 if per_second is None else 1.0 / per_second
        self._lock = threading.Lock()
        self._next_start = 0.0
        self._blocked: tuple[float, NetError] | None = None

    def block(self, seconds: float, error: NetError) -> None:
        """Make every request to the host fail with ``error`` for ``seconds``, at most an hour."""
        self._blocked = time.monotonic() + min(seconds, _MAX_BLOCK_SECONDS), error

    def check(self) -> None:
        """Raise the error given to :meth:`block` while the host is blocked."""
        blocked = self._blocked
        if blocked is not None and time.monotonic() < blocked[0]:
            raise copy(blocked[1])

    @contextmanager
    def slot(self) -> Iterator[float]:
        """Hold one of the connection slots; yields the seconds spent waiting for it."""
        began = time.monotonic()
        with self._slots:
            yield time.monotonic() - began

    def wait_for_rate(self) -> float:
        """Wait until the rate limit allows another request; return the seconds waited."""
        if not self._interval:
            return 0.0
        with self._lock:
            now = time.monotonic()
            begins = max(now, self._next_start)
            self._next_start = begins + self._interval
        if begins > now:
            time.sleep(begins - now)
        return begins - now
