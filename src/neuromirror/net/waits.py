"""How long to wait before the next attempt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


@dataclass(frozen=True, slots=True)
class Limits:
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


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds that a Retry-After header asks for (either form), never negative, else None."""
    value = headers.get("Retry-After", "").strip()
    if not value:
        return None
    if value.isascii() and value.isdecimal():
        return float(value[:18])
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - (now or datetime.now(UTC))).total_seconds())
