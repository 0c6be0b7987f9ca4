"""Limits on expensive requests: a rate per client, and a total concurrency.

A client is an IPv4 address or an IPv6 /64 network.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, MutableSequence
from contextlib import asynccontextmanager
from ctypes import c_double
from multiprocessing.sharedctypes import RawArray
from typing import Any, Final, cast
from urllib.parse import parse_qsl
from zlib import crc32

from msgspec import Struct

from neuromirror.model import ConfigurationError, NeuromirrorError

_BUCKETS: Final = 1 << 16
"""Number of buckets; clients whose hashes are equal share one."""
_MAX_FIELDS: Final = 100
_BUSY_RETRY_SECONDS: Final = 10.0
"""Retry-After for requests beyond the total concurrency."""


class RequestKind(Struct, frozen=True):
    """A kind of expensive request.

    A client may send ``per_minute`` of them, as a burst if it likes, and have ``max_per_client`` in
    progress, of which ``max_running_per_client`` are processed and the others wait; these are
    unlimited if the rate is 0. Over all clients ``max_running`` are processed and ``max_admitted``
    are in progress, including those that wait.
    """

    noun: str
    per_minute: int
    max_running: int
    max_admitted: int
    max_per_client: int
    max_running_per_client: int


REQUEST_KINDS: Final[Mapping[str, RequestKind]] = {
    # CutoutService limits their concurrency
    "cutout": RequestKind("cutouts and slices", 60, 16, 16, 4, 4),
    # PreviewService limits their concurrency
    "preview": RequestKind("previews", 120, 34, 34, 6, 6),
    "gateway": RequestKind("files of the gateway", 6000, 96, 256, 64, 16),
    "diff": RequestKind("comparisons, lists and lock files", 30, 2, 8, 2, 2),
    "search": RequestKind("searches", 120, 2, 8, 3, 2),
}

MEGABYTES: Final = "gateway-mb"
"""The name of the limit on the megabytes per minute that the gateway sends to a client."""
_MEGABYTES_PER_MINUTE: Final = 6000

_PATHS: Final = (
    ("cutout", re.compile(rb"/(?:cutout|slice)/")),
    ("preview", re.compile(rb"/(?:preview|thumbnail)/")),
    ("gateway", re.compile(rb"/(?:at|download)/")),
    ("diff", re.compile(rb"/(?:api/v1/)?diff\Z|/lock/|/croissant/")),
    ("search", re.compile(rb"/(?:find|search)\Z|/api/v1/(?:search\Z|datasets/.*/paths\Z)")),
)
_SEARCHABLE_PATHS: Final = re.compile(rb"/\Z|/dataset/|/lock\Z|/api/v1/datasets\Z")
_SEARCH_FIELDS: Final = frozenset({b"q", b"match", b"page"})
"""Query parameters that turn a page into a search."""
_CSV_PATHS: Final = re.compile(rb"/(?:search|changes|mirrors)\Z")
_CSV_FIELDS: Final = frozenset({b"format"})
"""Query parameters that turn a page into a list of all its rows."""


class RequestLimitError(NeuromirrorError):
    """A request exceeds a limit; ``status`` is the HTTP status, ``retry_after`` in seconds."""

    def __init__(self, message: str, status: int, retry_after: float) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, max(1, math.ceil(retry_after))


def parse_limits(given: Iterable[str]) -> dict[str, int]:
    """Parse limits such as ``search=60`` into requests per client and minute by kind.

    Raises
    ------
    ConfigurationError
        If a text has another form or an unknown kind.
    """
    limits = {name: kind.per_minute for name, kind in REQUEST_KINDS.items()}
    limits[MEGABYTES] = _MEGABYTES_PER_MINUTE
    for text in given:
        name, _, number = text.partition("=")
        if name not in limits or not re.fullmatch(r"[0-9]{1,6}", number):
            raise ConfigurationError(
                f"limit {text!r}: not KIND=NUMBER; the kinds are {', '.join(limits)}, the "
                f"number is in requests per minute and client ({MEGABYTES}: megabytes), 0 for no "
                "limit"
            )
        limits[name] = int(number)
    return limits


def parse_proxies(given: Iterable[str]) -> list[str]:
    """Parse the networks of trusted proxies; raise ConfigurationError for an invalid one.

    The result has the form that uvicorn's option ``forwarded_allow_ips`` needs.
    """
    found: list[str] = []
    for text in given:
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError as error:
            raise ConfigurationError(
                f"trusted proxy {text!r}: {error}; write an address such as 127.0.0.1, or a "
                "network such as 10.0.0.0/8"
            ) from error
        found.append(str(network))
        if network.version == 4:  # the form in which a dual-stack socket reports IPv4 peers
            found.append(f"::ffff:{network.network_address}/{96 + network.prefixlen}")
    return found


def client_key(scope: Mapping[str, Any]) -> str:
    """Return a text that identifies the client of a request, to which a rate limit applies.

    It is the IPv4 address, or the /64 network of the IPv6 address.
    """
    peer = scope.get("client")
    try:
        address = ipaddress.ip_address(peer[0] if peer else "")
    except ValueError:
        return "unknown"  # reported by a proxy: all such requests count as one client
    if address.version == 4:
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))


def request_kind(scope: Mapping[str, Any]) -> str | None:
    """Return the name of the kind of an expensive request (:class:`RequestKind`).

    For other requests it returns None.
    """
    path = scope.get("raw_path", scope["path"].encode()).partition(b"?")[0]
    query = scope["query_string"]
    if query and _CSV_PATHS.match(path) and _has_field(query, _CSV_FIELDS):
        return "diff"
    for name, pattern in _PATHS:
        if pattern.match(path):
            return name
    is_search = query and _SEARCHABLE_PATHS.match(path) and _has_field(query, _SEARCH_FIELDS)
    return "search" if is_search else None


def _has_field(query: bytes, names: Collection[bytes]) -> bool:
    """Return whether a query string has one of the fields, or too many fields to look."""
    try:
        return any(name in names for name, _ in parse_qsl(query, max_num_fields=_MAX_FIELDS))
    except ValueError:
        return True


Tokens = MutableSequence[float]
"""For each bucket of tokens the time at which it will be full; a token moves that time."""


def shared_tokens() -> Tokens:
    """Return full buckets that the processes of a catalogue can share."""
    return cast("Tokens", RawArray(c_double, _BUCKETS))


class RequestLimiter:
    """Admits requests within ``per_minute`` by kind; for one event loop.

    ``now`` returns the time in seconds; ``refused`` counts refused requests by kind. The rates
    apply to all processes that have the same ``tokens``, other limits to this one.
    """

    def __init__(
        self,
        per_minute: Mapping[str, int],
        tokens: Tokens | None = None,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_minute, self._now = per_minute, now
        self._tokens = tokens or [0.0] * _BUCKETS
        self._in_progress: Counter[tuple[str, str]] = Counter()
        self._slots = {
            name: asyncio.Semaphore(kind.max_running) for name, kind in REQUEST_KINDS.items()
        }
        self._client_slots: dict[tuple[str, str], asyncio.Semaphore] = {}
        self.refused: Counter[str] = Counter()

    @asynccontextmanager
    async def admit(self, name: str, client: str) -> AsyncIterator[None]:
        """Hold a slot for the block, waiting for it; raises :class:`RequestLimitError`."""
        try:
            self._admit(name, client)
        except RequestLimitError:
            self.refused[name] += 1
            raise
        held = [(name, client), (name, "")]
        self._in_progress.update(held)
        kind = REQUEST_KINDS[name]
        most = kind.max_running_per_client if self._per_minute[name] else kind.max_running
        own = self._client_slots.setdefault((name, client), asyncio.Semaphore(most))
        try:
            async with own, self._slots[name]:
                yield
        finally:
            self._in_progress.subtract(held)
            for one in held:
                if not self._in_progress[one]:
                    del self._in_progress[one]
                    self._client_slots.pop(one, None)

    def _admit(self, name: str, client: str) -> None:
        kind = REQUEST_KINDS[name]
        if self._per_minute[name] and self._in_progress[name, client] >= kind.max_per_client:
            raise RequestLimitError(
                f"{kind.max_per_client} {kind.noun} from your address are in progress; try again",
                429,
                1,
            )
        if self._in_progress[name, ""] >= kind.max_admitted:
            raise RequestLimitError(
                f"many {kind.noun} are in progress; try again in {_BUSY_RETRY_SECONDS:.0f} seconds",
                503,
                _BUSY_RETRY_SECONDS,
            )
        limit, wait = f"{self._per_minute.get(MEGABYTES)} MB", 0.0
        if name == "gateway" and self._per_minute.get(MEGABYTES):
            wait = self._tokens[_bucket(MEGABYTES, client)] - self._now() - 60
        if wait <= 0:
            limit, wait = str(self._per_minute[name]), self._take_token(name, client)
        if wait > 0:
            raise RequestLimitError(
                f"the limit for {kind.noun} is {limit} per minute and address; try again in "
                f"{math.ceil(wait)} seconds",
                429,
                wait,
            )

    def _take_token(self, name: str, client: str) -> float:
        """Take a token from a client's bucket, or return the seconds until there is one."""
        rate = self._per_minute[name]
        if rate == 0:
            return 0
        bucket, now, each = _bucket(name, client), self._now(), 60 / rate
        full_at = max(now, self._tokens[bucket]) + each
        wait = full_at - now - 60
        if wait >= each / 1000:  # rounding errors are tolerated
            return wait
        self._tokens[bucket] = full_at
        return 0

    def add_bytes(self, client: str, count: int) -> None:
        """Count bytes that the gateway sent to a client, for the admission of its next request."""
        megabytes = self._per_minute.get(MEGABYTES, 0)
        if megabytes and count:
            bucket = _bucket(MEGABYTES, client)
            full_at = max(self._now(), self._tokens[bucket])
            self._tokens[bucket] = full_at + 60 * count / (megabytes * 1_000_000)


def _bucket(name: str, client: str) -> int:
    return crc32(f"{name} {client}".encode()) % _BUCKETS
