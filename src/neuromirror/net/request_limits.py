"""Limits of requests, their deadlines, and the waits that servers request."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Final

from msgspec import Struct, field

from neuromirror.net.listing_limits import ListingLimits
from neuromirror.net.responses import parse_http_date

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
