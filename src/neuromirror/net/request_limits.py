"""Limits of requests, their deadlines, and the waits that servers request."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

from msgspec import Struct, field
from msgspec.structs import replace

from neuromirror import __version__
from neuromirror.net.errors import NetError
from neuromirror.net.listing_limits import ListingLimits
from neuromirror.net.responses import parse_http_date
from neuromirror.net.urls import redact

_THROTTLE_MESSAGE: Final = re.compile(
    r"available (?:in (\d{1,9}) seconds?|(tomorrow))", re.IGNORECASE
)
"""The throttling messages of Django REST framework and of BOSS."""

_DAY: Final = 86400.0
_LONGEST_SHOWN: Final = 365 * _DAY


class RequestLimits(Struct, frozen=True):
    """Timeouts, retries and concurrency limits; the defaults suit an archive on the internet.

    Times are in seconds, sizes in bytes.

    Attributes
    ----------
    attempts
        Attempts per request, including the first one.
    wait, wait_max
        The wait before attempt n + 1 is random between half of and the full
        ``wait * 2**(n-1)``, which is limited to ``wait_max``.
    retry_after_max
        A Retry-After longer than this is an error instead of a wait.
    connect
        Timeout for a connection.
    read
        Timeout for the next bytes of a response.
    total
        Timeout for a whole response, not counting waits for the concurrency and rate limits.
    json_bytes
        Maximum size of a JSON body.
    per_host
        Maximum number of concurrent requests per host.
    per_second
        Maximum number of requests per second and host; None for no limit.
    redirects
        Maximum number of redirects per request.
    listing
        Limits of one listing.
    """

    attempts: int = 5
    wait: float = 1.0
    wait_max: float = 60.0
    retry_after_max: float = 300.0
    connect: float = 15.0
    read: float = 60.0
    total: float = 300.0
    json_bytes: int = 32 * 2**20
    per_host: int = 16
    per_second: float | None = None
    redirects: int = 10
    listing: ListingLimits = field(default_factory=ListingLimits)


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


def requested_wait(headers: Mapping[str, str], detail: str | None) -> float | None:
    """Return the wait that a response requests, in seconds; None if it requests none.

    The Retry-After header takes precedence over the message in the body:
    ``available in 30 seconds``, or ``available tomorrow``, which counts as a day.
    """
    stated = parse_retry_after(headers)
    found = _THROTTLE_MESSAGE.search(detail or "") if stated is None else None
    if found is None:
        return stated
    return _DAY if found[2] else float(found[1])


def format_wait(seconds: float, detail: str | None) -> str:
    """Return a wait as text for an error message.

    Parameters
    ----------
    seconds
        The time to wait.
    detail
        The error message in the response; None if it has none.

    Returns
    -------
    str
        ``90 seconds, until 2024-03-01 12:00 UTC``; without the end if it is more than a year away.
        If ``detail`` asks the client to wait until tomorrow: ``until tomorrow``.
    """
    found = _THROTTLE_MESSAGE.search(detail or "")
    if found is not None and found[2]:
        return "until tomorrow"
    if seconds > _LONGEST_SHOWN:
        return f"{seconds:.0f} seconds"
    ends = datetime.now(UTC) + timedelta(seconds=seconds)
    return f"{seconds:.0f} seconds, until {ends:%Y-%m-%d %H:%M} UTC"


def parse_retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Parse a Retry-After header, either seconds or a date.

    Parameters
    ----------
    headers
        The response headers.
    now
        The current time, used if the response has no ``Date``. The server's clock takes
        precedence, because the local clock may be wrong.

    Returns
    -------
    float or None
        The seconds to wait, never negative; None if the header is missing or invalid.
    """
    value = headers.get("Retry-After", "").strip()
    if not value:
        return None
    if value.isascii() and value.isdecimal():
        return float(value[:18])
    moment = parse_http_date(value)
    if moment is None:
        return None
    now = parse_http_date(headers.get("Date", "")) or now or datetime.now(UTC)
    return max(0.0, (moment - now).total_seconds())


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
