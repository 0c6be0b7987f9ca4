"""Whether the places of mirrored files still have what was mirrored: asked, never downloaded.

Places that were never asked come first, then those asked longest ago; what each said is recorded
for all, so that an audit goes on where the last one stopped, whoever made it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from neuromirror.crawl import Recorder
from neuromirror.index import DueLocation
from neuromirror.lab.verify import Finding, Health
from neuromirror.transfer.url_health import record_health
from neuromirror.transfer.url_prober import STATUSES, Prober
from neuromirror.transfer.url_sessions import VERIFY_LIMITS, UrlSessions
from neuromirror.transfer.verify_items import PinnedFile

DEFAULT_MAX_AGE = timedelta(days=30)
"""After so long a place is asked again, unless somebody says otherwise."""

_BATCH = 256
"""Places that are looked up, asked and recorded at a time."""


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """How servers are asked.

    ``connections`` and ``per_second`` bound what goes to one host. ``allowed`` are private
    addresses that may be asked, as git-annex's configuration has them
    (``annex.security.allowed-ip-addresses``); ``token`` gives the token for a host of volumes.
    """

    connections: int = 4
    per_second: float = 10.0
    allowed: tuple[str, ...] = ()
    token: Callable[[str], str | None] = lambda host: None

    def open_sessions(self) -> UrlSessions:
        """The sessions to ask by; the caller closes them."""
        limits = replace(VERIFY_LIMITS, per_host=self.connections, per_second=self.per_second)
        return UrlSessions(self.allowed, self.token, limits, setting="git config --global")


@dataclass(frozen=True, slots=True)
class AuditScope:
    """What is audited: a mirror, a dataset, or (both None) all."""

    mirror: str | None = None
    dataset: str | None = None

    @classmethod
    def parse(cls, name: str) -> AuditScope:
        """What a person names: ``dandi`` or ``dandi:000027``."""
        return cls(dataset=name) if ":" in name else cls(mirror=name)


def audit(
    recorder: Recorder,
    scopes: tuple[AuditScope, ...] = (AuditScope(),),
    *,
    budget: int | None = None,
    older_than: timedelta = DEFAULT_MAX_AGE,
    settings: AuditSettings | None = None,
    now: datetime,
    until: float | None = None,
) -> Generator[Finding, None, None]:
    """Asks places that were not asked since ``now - older_than``, and yields what each says.

    At most ``budget`` places, and none after ``until`` (of time.monotonic). Raises
    UnknownMirrorError
    and UnknownDatasetError before anything is asked. Close it where it is left before its end:
    what was
    asked is then recorded.
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
                # what cannot be recorded would come again and again
                fresh = [one for one in due if (one.url, one.key) not in seen]
                if not fresh or (until is not None and time.monotonic() >= until):
                    break
                seen.update((one.url, one.key) for one in fresh)
                fresh.sort(key=lambda one: (one.dataset, one.path, one.url))
                # all of these are recorded, whatever they said before: by that the next come up
                yield from record_health(
                    _probe_all(prober, fresh, settings.connections, until),
                    recorder,
                    now,
                    interval=timedelta(0),
                )
                if left is not None:
                    left -= len(fresh)


def _due_locations(
    recorder: Recorder, scope: AuditScope, limit: int, before: str
) -> list[DueLocation]:
    return recorder.ask(
        lambda index: index.due_locations(limit, before, mirror=scope.mirror, dataset=scope.dataset)
    )


def _probe_all(
    prober: Prober, due: list[DueLocation], connections: int, until: float | None
) -> Iterator[Finding]:
    """What places say, in order; those that it came too late for say nothing."""

    def ask(location: DueLocation) -> Finding | None:
        if until is not None and time.monotonic() >= until:
            return None
        return _probe_one(prober, location)

    # several hosts may be among them, each of which has its own bounds
    with ThreadPoolExecutor(4 * connections, thread_name_prefix="audit") as pool:
        running: list[Future[Finding | None]] = [pool.submit(ask, location) for location in due]
        try:
            for future in running:
                finding = future.result()
                if finding is not None:
                    yield finding
        finally:
            for future in running:
                future.cancel()


def _probe_one(prober: Prober, location: DueLocation) -> Finding:
    file = PinnedFile(location.path.encode(), location.key, (location.url,))
    found = prober.probe(file, location.digests, is_only_url=location.is_only_location)[0]
    health = found.health or Health.UNKNOWN
    # told by the address that the index has, for what it says to be found again
    return replace(
        found,
        action="audit",
        what="place",
        status=STATUSES[health],
        dataset=location.dataset,
        url=location.url,
        health=health,
    )
