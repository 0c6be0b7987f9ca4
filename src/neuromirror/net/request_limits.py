"""Limits of requests, their deadlines, and the waits that servers request."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import copy
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

from msgspec import Struct, field
from msgspec.structs import replace

from neuromirror import __version__
from neuromirror.net.errors import CircuitOpenError, ListingTooLongError, NetError
from neuromirror.net.responses import parse_http_date
from neuromirror.net.urls import redact

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


_FAILURES: Final = 8
_SECONDS: Final = 30.0


class _HostFailures(Struct):
    since: float
    count: int = 0
    last_try: float = 0.0
    decisive: bool = False
    cause: NetError | None = None


class HostCircuitBreaker:
    """Refuses requests to hosts that keep failing. Thread-safe.

    The circuit of a host opens after `failures` consecutive failures over at least `seconds`, or
    after one decisive failure. A successful request closes it.

    Parameters
    ----------
    failures
        Consecutive failures that open the circuit.
    seconds
        Minimum time between the first and the last of these failures.
    retry_after
        While the circuit is open, one request per this many seconds is allowed as a probe. None for
        no probes.
    """

    def __init__(
        self,
        failures: int = _FAILURES,
        seconds: float = _SECONDS,
        retry_after: float | None = _SECONDS,
    ) -> None:
        self._failures = failures
        self._seconds = seconds
        self._retry_after = retry_after
        self._lock = threading.Lock()
        self._failures_by_host: dict[str, _HostFailures] = {}
        self._responsive_hosts: set[str] = set()
        self._first_request_locks: dict[str, threading.Lock] = {}

    def check(self, url: str) -> None:
        """Raise CircuitOpenError if the circuit of the URL's host is open.

        Parameters
        ----------
        url
            The URL of the next request.

        Raises
        ------
        CircuitOpenError
            If the circuit is open. With ``retry_after``, one request is allowed each time that
            many seconds have passed.
        """
        if not self._failures_by_host:
            return
        host = _host(url)
        now = time.monotonic()
        with self._lock:
            found = self._failures_by_host.get(host)
            if found is None or not self._is_open(found, now):
                return
            if self._retry_after is not None and now - found.last_try > self._retry_after:
                found.last_try = now
                return
        raise CircuitOpenError(host, now - found.since, found.cause, url)

    @contextmanager
    def attempt(self, url: str) -> Iterator[Callable[[], None]]:
        """Guard one request.

        Requests to a host are serialized until its first reply: if many threads start at the same
        time, only one of them waits for the timeout of a host that is down.

        Parameters
        ----------
        url
            The URL of the request.

        Yields
        ------
        callable
            Call it as soon as the host has replied.

        Raises
        ------
        CircuitOpenError
            If the circuit of the URL's host is open.
        """
        with ExitStack() as stack:
            host = _host(url)
            if host not in self._responsive_hosts:
                with self._lock:
                    first_request = self._first_request_locks.setdefault(host, threading.Lock())
                stack.enter_context(first_request)
                if host in self._responsive_hosts:
                    stack.close()
            self.check(url)

            def record_answer() -> None:
                self.record_success(url)
                stack.close()

            yield record_answer

    def record_success(self, url: str) -> None:
        """Record that the host replied, and close its circuit.

        Parameters
        ----------
        url
            The URL of the request.
        """
        host = _host(url)
        self._responsive_hosts.add(host)
        if self._failures_by_host:
            with self._lock:
                self._failures_by_host.pop(host, None)

    def record_failure(
        self, url: str, cause: NetError | None = None, *, decisive: bool = False
    ) -> None:
        """Record a failed request.

        A refusal by this circuit breaker is not a failure of the host and is ignored.

        Parameters
        ----------
        url
            The requested URL.
        cause
            The error, quoted in later refusals.
        decisive
            True if the error applies to every URL of the host; opens the circuit at once.
        """
        if isinstance(cause, CircuitOpenError):
            return
        now = time.monotonic()
        with self._lock:
            found = self._failures_by_host.setdefault(_host(url), _HostFailures(now, last_try=now))
            found.count += 1
            found.cause = cause
            found.decisive |= decisive

    def _is_open(self, found: _HostFailures, now: float) -> bool:
        has_enough_failures = found.count >= self._failures and now - found.since >= self._seconds
        return found.decisive or has_enough_failures


def _host(url: str) -> str:
    try:
        return urlsplit(url).netloc.rpartition("@")[2]
    except ValueError:
        return ""
