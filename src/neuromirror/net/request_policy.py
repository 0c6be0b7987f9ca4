"""How archives are to be asked: who asks, how often, and how much at a time."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import urlsplit

from neuromirror import __version__
from neuromirror.net.errors import NetError
from neuromirror.net.listing_limits import ListingLimits
from neuromirror.net.request_limits import RequestLimits
from neuromirror.net.urls import redact

_MAX_CONTACT_LENGTH: Final = 200
_MAX_BLOCK_SECONDS: Final = 3600.0
_CONTACT_CHARACTERS: Final = re.compile(r"[!#-'*-:=?-\[\]-~]+")
"""Printable ASCII without what ends or quotes a comment of a header: ``"()\\;<>`` and spaces."""
_MAIL: Final = re.compile(r"mailto:[^@?]+@[^@?]+\Z")


@dataclass(frozen=True, slots=True)
class RequestPolicy:
    """What an operator asks of all requests of a mirror; None leaves it as the source has it.

    ``contact`` is where those who run an archive can reach the operator: it goes into the agent
    string. ``listing`` bounds one listing, the others what goes to one host.
    """

    contact: str | None = None
    connections_per_host: int | None = None
    requests_per_second: float | None = None
    listing: ListingLimits | None = None

    def apply_to(self, limits: RequestLimits) -> RequestLimits:
        """Return the limits with what the operator asks."""
        overrides: dict[str, Any] = {
            "per_host": self.connections_per_host,
            "per_second": self.requests_per_second,
            "listing": self.listing,
        }
        return replace(limits, **{name: one for name, one in overrides.items() if one is not None})


def validate_contact(contact: str) -> str:
    """A contact fit for the agent string; raises ValueError that says what one is.

    The message does not repeat it, since it may be a secret in the wrong place.
    """
    if len(contact) > _MAX_CONTACT_LENGTH:
        raise ValueError(f"a contact has at most {_MAX_CONTACT_LENGTH} characters")
    if not _CONTACT_CHARACTERS.fullmatch(contact):
        raise ValueError(
            "a contact is written in plain letters, without spaces, quotes, parentheses or "
            "control characters"
        )
    if not _MAIL.match(contact):
        try:
            parts = urlsplit(contact)
        except ValueError:
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("a contact is an address like mailto:you@your.lab or a web page's")
    if redact(contact) != contact:
        raise ValueError("a contact is sent to everybody who is asked: it must hold no secret")
    return contact


def user_agent(contact: str | None) -> str:
    """The agent string; without a contact it names none."""
    return f"neuromirror/{__version__}" + (f" (+{contact})" if contact else "")


class HostLimiter:
    """Lets requests to one host wait for each other; shared by threads.

    At most ``connections`` are under way at a time, and no more begin in a second than
    ``per_second`` says (None: as many as there are).
    """

    def __init__(self, connections: int, per_second: float | None) -> None:
        self._slots = threading.BoundedSemaphore(connections)
        self._interval = 0.0 if per_second is None else 1.0 / per_second
        self._lock = threading.Lock()
        self._next_start = 0.0
        self._blocked: tuple[float, NetError] | None = None

    def block(self, seconds: float, error: NetError) -> None:
        """Let every request to the host fail with ``error`` for so many seconds, or an hour."""
        self._blocked = time.monotonic() + min(seconds, _MAX_BLOCK_SECONDS), error

    def check(self) -> None:
        """Raise the error that the host is closed with, if it is."""
        blocked = self._blocked
        if blocked is not None and time.monotonic() < blocked[0]:
            raise copy(blocked[1])

    @contextmanager
    def slot(self) -> Iterator[float]:
        """Holds one of the connections; gives the seconds that were waited for it."""
        began = time.monotonic()
        with self._slots:
            yield time.monotonic() - began

    def wait_for_rate(self) -> float:
        """Waits until another request may begin; gives the seconds that took."""
        if not self._interval:
            return 0.0
        with self._lock:
            now = time.monotonic()
            begins = max(now, self._next_start)
            self._next_start = begins + self._interval
        if begins > now:
            time.sleep(begins - now)
        return begins - now
