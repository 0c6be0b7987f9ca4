"""Check whether the URLs of mirrored files still serve the mirrored content, without downloads.

URLs that were never checked come first, then those with the oldest check. All results are recorded,
so that an audit continues where the last one stopped.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta

from msgspec import Struct
from msgspec.structs import replace

from neuromirror.crawl import JournalRecorder
from neuromirror.index import DueLocation
from neuromirror.transfer.outcomes import Finding, Health
from neuromirror.transfer.url_health import STATUSES, Prober, record_health
from neuromirror.transfer.url_sessions import VERIFY_LIMITS, UrlSessions
from neuromirror.transfer.verified_repository import PinnedFile
from neuromirror.transfer.work_tree import map_in_order

DEFAULT_MAX_AGE = timedelta(days=30)
"""Default age of a result after which its URL is checked again."""

_BATCH = 256
"""Number of URLs that are looked up, checked and recorded together."""


class AuditSettings(Struct, frozen=True):
    """Limits and permissions for requests to servers.

    Attributes
    ----------
    connections, per_second
        Maximum number of connections, and of requests per second, per host.
    allowed
        Private addresses that may be requested, as in the git-annex option
        ``annex.security.allowed-ip-addresses``.
    token
        Returns the token for a volume host.
    """

    connections: int = 4
    per_second: float = 10.0
    allowed: tuple[str, ...] = ()
    token: Callable[[str], str | None] = lambda host: None

    def open_sessions(self) -> UrlSessions:
        """Open the sessions; the caller closes them."""
        limits = replace(VERIFY_LIMITS, per_host=self.connections, per_second=self.per_second)
        return UrlSessions(self.allowed, self.token, limits)


def audit(
    recorder: JournalRecorder,
    scopes: Sequence[str] = ("",),
    *,
    budget: int | None = None,
    older_than: timedelta = DEFAULT_MAX_AGE,
    settings: AuditSettings | None = None,
    now: datetime,
    until: float | None = None,
) -> Generator[Finding, None, None]:
    """Check URLs that were not checked since ``now - older_than``.

    Close the generator if it is not exhausted: the results so far are then recorded.

    Parameters
    ----------
    recorder
        The recorder of the store; the results are written through it.
    scopes
        The names of the mirrors and datasets to check; an empty one is the whole store.
    budget
        Maximum number of URLs.
    older_than
        Minimum age of the last check of a URL that is checked again.
    settings
        Limits and permissions for requests; None for the defaults.
    now
        The current time, with a time zone.
    until
        Time of :func:`time.monotonic` after which no further URL is checked.

    Yields
    ------
    Finding
        The result for each URL.

    Raises
    ------
    UnknownMirrorError, UnknownDatasetError
        A scope is not in the index; no request was sent.
    """
    before = (now - older_than).astimezone(UTC).isoformat(timespec="seconds")
    left = budget
    settings = settings or AuditSettings()
    with closing(settings.open_sessions()) as sessions:
        prober = Prober(sessions)
        for scope in scopes:
            _due_locations(recorder, scope, 1, before)
        for scope in scopes:
            seen: set[tuple[str, str]] = set()
            while left is None or left > 0:
                limit = _BATCH if left is None else min(left, _BATCH)
                due = _due_locations(recorder, scope, limit, before)
                # a result that cannot be recorded would be due forever
                fresh = [one for one in due if (one.url, one.key) not in seen]
                if not fresh or (until is not None and time.monotonic() >= until):
                    break
                seen.update((one.url, one.key) for one in fresh)
                fresh.sort(key=lambda one: (one.dataset, one.path, one.url))
                # record every result, also an unchanged one, so that the URL is no longer due
                yield from record_health(
                    _probe_all(prober, fresh, settings.connections, until),
                    recorder,
                    now,
                    interval=timedelta(0),
                )
                if left is not None:
                    left -= len(fresh)


def _due_locations(
    recorder: JournalRecorder, scope: str, limit: int, before: str
) -> list[DueLocation]:
    kind = "dataset" if ":" in scope else "mirror"
    return recorder.ask(lambda index: index.locations.due(limit, before, **{kind: scope or None}))


def _probe_all(
    prober: Prober, due: list[DueLocation], connections: int, until: float | None
) -> Iterator[Finding]:
    """Yield the results in order; URLs that were not checked in time are skipped."""

    def ask(location: DueLocation) -> Finding | None:
        if until is not None and time.monotonic() >= until:
            return None
        file = PinnedFile(location.path.encode(), location.key, (location.url,))
        found = prober.probe(file, location.digests, is_only_url=location.is_only_location)[0]
        health = found.health or Health.UNKNOWN
        about = {"action": "audit", "kind": "url", "dataset": location.dataset, "health": health}
        # report the URL as the index has it, so that the result can be recorded
        return replace(found, status=STATUSES[health], url=location.url, **about)

    # the URLs may be of several hosts, and the limits are per host
    with closing(map_in_order(4 * connections, threading.Event(), ask, due)) as findings:
        yield from filter(None, findings)
