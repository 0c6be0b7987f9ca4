"""How long to wait before the next attempt."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from neuromirror.net.listing_limits import ListingLimits
from neuromirror.net.responses import parse_http_date

_THROTTLE_MESSAGE: Final = re.compile(
    r"available (?:in (\d{1,9}) seconds?|(tomorrow))", re.IGNORECASE
)
"""What Django's REST framework says of throttling, and BOSS of a quota."""

_DAY: Final = 86400.0
_LONGEST_SHOWN: Final = 365 * _DAY


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Times in seconds, sizes in bytes; the defaults suit an archive on the internet.

    ``attempts`` counts the first one. The wait before attempt n + 1 is random between half and
    all of ``wait * 2**(n-1)``, at most ``wait_max``; a Retry-After longer than
    ``retry_after_max`` is an error instead of a sleep. ``read`` bounds the wait for the next
    bytes, ``total`` a whole reply, from when it is asked for: turns that are waited for before
    do not count. At most ``per_host`` requests go to one host at a time, and no more begin in a
    second than ``per_second``, if it is set.
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


def requested_wait(headers: Mapping[str, str], detail: str | None) -> float | None:
    """Return the seconds that a reply asks to wait, None where it does not.

    The Retry-After header counts, else the words in its body: ``available in 30 seconds``, or
    ``available tomorrow``, which is taken for a day.
    """
    stated = parse_retry_after(headers)
    found = _THROTTLE_MESSAGE.search(detail or "") if stated is None else None
    if found is None:
        return stated
    return _DAY if found[2] else float(found[1])


def format_wait(seconds: float, detail: str | None) -> str:
    """Return how long a reply asks to wait and until when, for a message."""
    found = _THROTTLE_MESSAGE.search(detail or "")
    if found is not None and found[2]:
        return "until tomorrow"
    if seconds > _LONGEST_SHOWN:
        return f"{seconds:.0f} seconds"
    ends = datetime.now(UTC) + timedelta(seconds=seconds)
    return f"{seconds:.0f} seconds, until {ends:%Y-%m-%d %H:%M} UTC"


def parse_retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds that a Retry-After header asks for (either form), never negative, else None.

    A date is compared with the server's own time where the reply has one: the clock here may be
    wrong. ``now`` is the time without it.
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
