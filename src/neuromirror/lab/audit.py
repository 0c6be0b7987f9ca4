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
from neuromirror.index import PlaceDue
from neuromirror.lab.verify import Finding, Health
from neuromirror.lab.verify.health import recorded
from neuromirror.lab.verify.places import STATUSES, Prober
from neuromirror.lab.verify.sessions import LIMITS, Sessions
from neuromirror.lab.verify.walking import PinnedFile

OLD = timedelta(days=30)
"""After so long a place is asked again, unless somebody says otherwise."""

_TOGETHER = 256
"""Places that are looked up, asked and recorded at a time."""


@dataclass(frozen=True, slots=True)
class Asking:
    """How servers are asked.

    ``connections`` and ``per_second`` bound what goes to one host. ``allowed`` are private
    addresses that may be asked, as git-annex's configuration has them
    (``annex.security.allowed-ip-addresses``); ``token`` gives the token for a host of volumes.
    """

    connections: int = 4
    per_second: float = 10.0
    allowed: tuple[str, ...] = ()
    token: Callable[[str], str | None] = lambda host: None

    def sessions(self) -> Sessions:
        """The sessions to ask by; the caller closes them."""
        limits = replace(LIMITS, per_host=self.connections, per_second=self.per_second)
        return Sessions(self.allowed, self.token, limits, setting="git config --global")


@dataclass(frozen=True, slots=True)
class Scope:
    """What is audited: a mirror, a dataset, or (both None) all."""

    mirror: str | None = None
    dataset: str | None = None

    @classmethod
    def of(cls, name: str) -> Scope:
        """What a person names: ``dandi`` or ``dandi:000027``."""
        return cls(dataset=name) if ":" in name else cls(mirror=name)


def audit(
    recorder: Recorder,
    scopes: tuple[Scope, ...] = (Scope(),),
    *,
    budget: int | None = None,
    older_than: timedelta = OLD,
    asking: Asking | None = None,
    now: datetime,
    until: float | None = None,
) -> Generator[Finding, None, None]:
    """Asks places that were not asked since ``now - older_than``, and yields what each says.

    At most ``budget`` places, and none after ``until`` (of time.monotonic). Raises UnknownMirror
    and UnknownDataset before anything is asked. Close it where it is left before its end: what was
    asked is then recorded.
    """
    before = (now - older_than).astimezone(UTC).isoformat(timespec="seconds")
    left = budget
    asking = asking or Asking()
    with closing(asking.sessions()) as sessions:
        prober = Prober(sessions)
        for scope in scopes:
            _look_up(recorder, scope, 1, before)
        for scope in scopes:
            seen: set[tuple[str, str]] = set()
            while left is None or left > 0:
                limit = _TOGETHER if left is None else min(left, _TOGETHER)
                due = _look_up(recorder, scope, limit, before)
                # what cannot be recorded would come again and again
                fresh = [one for one in due if (one.url, one.key) not in seen]
                if not fresh or (until is not None and time.monotonic() >= until):
                    break
                seen.update((one.url, one.key) for one in fresh)
                fresh.sort(key=lambda one: (one.dataset, one.path, one.url))
                # all of these are recorded, whatever they said before: by that the next come up
                yield from recorded(
                    _asked(prober, fresh, asking.connections, until),
                    recorder,
                    now,
                    again=timedelta(0),
                )
                if left is not None:
                    left -= len(fresh)


def _look_up(recorder: Recorder, scope: Scope, limit: int, before: str) -> list[PlaceDue]:
    return recorder.ask(
        lambda index: index.places_due(limit, before, mirror=scope.mirror, dataset=scope.dataset)
    )


def _asked(
    prober: Prober, due: list[PlaceDue], connections: int, until: float | None
) -> Iterator[Finding]:
    """What places say, in order; those that it came too late for say nothing."""

    def ask(place: PlaceDue) -> Finding | None:
        if until is not None and time.monotonic() >= until:
            return None
        return _finding(prober, place)

    # several hosts may be among them, each of which has its own bounds
    with ThreadPoolExecutor(4 * connections, thread_name_prefix="audit") as pool:
        running: list[Future[Finding | None]] = [pool.submit(ask, place) for place in due]
        try:
            for future in running:
                finding = future.result()
                if finding is not None:
                    yield finding
        finally:
            for future in running:
                future.cancel()


def _finding(prober: Prober, place: PlaceDue) -> Finding:
    file = PinnedFile(place.path.encode(), place.key, (place.url,))
    found = prober.probe(file, place.digests, alone=place.alone)[0]
    health = found.health or Health.UNKNOWN
    # told by the address that the index has, for what it says to be found again
    return replace(
        found,
        action="audit",
        what="place",
        status=STATUSES[health],
        dataset=place.dataset,
        url=place.url,
        health=health,
    )
