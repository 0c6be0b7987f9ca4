"""Limits on the size and duration of one listing.

Without them, an archive whose listing never ends would fill memory and disk.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from neuromirror.net.errors import ListingTooLongError

_REMEDY: Final = (
    "the listing is discarded; if its size is legitimate, raise {option} in [listing] of the "
    "mirror's configuration file"
)


class ListingLimits(Struct, frozen=True):
    """The limits of one listing; the defaults exceed every known listing of a real archive.

    Attributes
    ----------
    entries
        Maximum number of objects, object versions, folders or rows.
    bytes
        Maximum size of all responses, after decompression.
    seconds
        Maximum time from the first page to the last, including the time spent processing them.
    """

    entries: int = 50_000_000
    bytes: int = 64 * 2**30
    seconds: float = 72 * 3600.0


class ListingBudget:
    """Counts the entries, bytes and time of one listing against its limits. Thread-safe.

    Parameters
    ----------
    limits
        The limits.
    listing_name
        The name of the listing in error messages.
    clock
        Returns the current time in seconds.
    """

    def __init__(
        self,
        limits: ListingLimits,
        listing_name: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._listing_name = listing_name
        self._clock = clock
        self._lock = threading.Lock()
        self._started: float | None = None
        self._entries = 0
        self._bytes = 0

    def check_stated_count(self, entries: int) -> None:
        """Check the number of entries that the archive states, before the listing is requested.

        Parameters
        ----------
        entries
            The stated number of entries.

        Raises
        ------
        ListingTooLongError
            If it exceeds the limit.
        """
        if entries > self._limits.entries:
            self._raise_too_long(f"states {entries} entries", "max_entries")

    def count_page(self, entries: int, size: int) -> None:
        """Count a page.

        Parameters
        ----------
        entries
            The number of entries of the page.
        size
            The size of the page in bytes.

        Raises
        ------
        ListingTooLongError
            If the listing exceeds a limit.
        """
        now = self._clock()
        with self._lock:
            if self._started is None:
                self._started = now
            self._entries += entries
            self._bytes += size
            seconds = now - self._started
        if self._entries > self._limits.entries:
            self._raise_too_long(f"has more than {self._limits.entries} entries", "max_entries")
        if self._bytes > self._limits.bytes:
            self._raise_too_long(f"has more than {self._limits.bytes} bytes", "max_gigabytes")
        if seconds > self._limits.seconds:
            hours = self._limits.seconds / 3600
            self._raise_too_long(f"takes more than {hours:g} hours", "max_hours")

    def _raise_too_long(self, why: str, option: str) -> None:
        raise ListingTooLongError(
            f"{self._listing_name}: the listing {why}; {_REMEDY.format(option=option)}",
            url=self._listing_name,
            status=200,
        )
