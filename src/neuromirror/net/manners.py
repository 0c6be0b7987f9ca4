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
from neuromirror.net.bounds import ListingLimits
from neuromirror.net.errors import NetError
from neuromirror.net.urls import redact
from neuromirror.net.waits import Limits

_LONGEST: Final = 200
_LONGEST_CLOSED: Final = 3600.0
_WRITTEN: Final = re.compile(r"[!#-'*-:=?-\[\]-~]+")
"""Printable ASCII without what ends or quotes a comment of a header: ``"()\\;<>`` and spaces."""
_MAIL: Final = re.compile(r"mailto:[^@?]+@[^@?]+\Z")


@dataclass(frozen=True, slots=True)
class Manners:
    """What an operator asks of all requests of a mirror; None leaves it as the source has it.

    ``contact`` is where those who run an archive can reach the operator: it goes into the agent
    string. ``listing`` bounds one listing, the others what goes to one host.
    """

    contact: str | None = None
    connections_per_host: int | None = None
    requests_per_second: float | None = None
    listing: ListingLimits | None = None

    def applied_to(self, limits: Limits) -> Limits:
        """Return the limits with what the operator asks."""
        asked: dict[str, Any] = {
            "per_host": self.connections_per_host,
            "per_second": self.requests_per_second,
            "listing": self.listing,
        }
        return replace(limits, **{name: one for name, one in asked.items() if one is not None})


def checked_contact(contact: str) -> str:
    """A contact fit for the agent string; raises ValueError that says what one is.

    The message does not repeat it, since it may be a secret in the wrong place.
    """
    if len(contact) > _LONGEST:
        raise ValueError(f"a contact has at most {_LONGEST} characters")
    if not _WRITTEN.fullmatch(contact):
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


def agent(contact: str | None) -> str:
    """The agent string; without a contact it names none."""
    return f"neuromirror/{__version__}" + (f" (+{contact})" if contact else "")


class Turns:
    """Lets requests to one host wait for each other; shared by threads.

    At most ``connections`` are under way at a time, and no more begin in a second than
    ``per_second`` says (None: as many as there are).
    """

    def __init__(self, connections: int, per_second: float | None) -> None:
        self._places = threading.BoundedSemaphore(connections)
        self._between = 0.0 if per_second is None else 1.0 / per_second
        self._lock = threading.Lock()
        self._next = 0.0
        self._closed: tuple[float, NetError] | None = None

    def close(self, seconds: float, error: NetError) -> None:
        """Let every request to the host fail with ``error`` for so many seconds, or an hour."""
        self._closed = time.monotonic() + min(seconds, _LONGEST_CLOSED), error

    def check(self) -> None:
        """Raise the error that the host is closed with, if it is."""
        closed = self._closed
        if closed is not None and time.monotonic() < closed[0]:
            raise copy(closed[1])

    @contextmanager
    def place(self) -> Iterator[float]:
        """Holds one of the connections; gives the seconds that were waited for it."""
        began = time.monotonic()
        with self._places:
            yield time.monotonic() - began

    def pace(self) -> float:
        """Waits until another request may begin; gives the seconds that took."""
        if not self._between:
            return 0.0
        with self._lock:
            now = time.monotonic()
            begins = max(now, self._next)
            self._next = begins + self._between
        if begins > now:
            time.sleep(begins - now)
        return begins - now
