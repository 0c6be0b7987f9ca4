"""Simulated archives: lists and visits with their requests, durations, failures and outcomes.

All jobs share the limit of requests per second of a host.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

from neuromirror.crawl import DatasetTask
from neuromirror.index import LastVisit
from neuromirror.model import DatasetHint
from neuromirror.service.scheduling_policy import JobOutcome
from simulation.costs import ROUND_TRIP, START
from simulation.figures import Measure
from simulation.world import ARCHIVES, EPOCH, FAILING, SETTLE, World

_TRIED = 5
"""Requests of a visit that fails."""

_GIVEN_UP = 30.0
"""Seconds of such a visit."""

_STATUS = {"failed": "failed", "settling": "waiting"}


@dataclass(frozen=True, slots=True)
class SimulatedVisit:
    """A visit of a subject that started at ``since`` and finishes at ``end``."""

    subject: int
    since: float
    end: float
    outcome: JobOutcome
    state: int
    fingerprint: str | None


@dataclass(frozen=True, slots=True)
class SimulatedListing:
    """A list that was requested at ``since`` and will have been read at ``end``, if ``ok``.

    ``news`` are the subjects whose entry differs from the previous list.
    """

    archive: int
    since: float
    end: float
    ok: bool
    news: tuple[int, ...]
    last: int


class Upstream:
    """A simulated world and one mirror's view of it; ``uses_fingerprints``: overviews are used."""

    def __init__(self, world: World, rate: float, seed: int, *, uses_fingerprints: bool) -> None:
        self.world = world
        self.measure = Measure(world)
        self._rate = rate
        self._chance = random.Random(seed)
        self._uses_fingerprints = uses_fingerprints
        count = len(world.subjects)
        self._mirrored = [0] * count
        self.last_visits: list[LastVisit | None] = [None] * count
        self._free_at = {one.host: EPOCH for one in ARCHIVES}
        self._news = [self._all_news(position) for position in range(len(ARCHIVES))]
        self._read = [0] * len(ARCHIVES)
        held = Counter(one.archive for one in world.subjects)
        self._sizes = [held[position] for position in range(len(ARCHIVES))]

    def _all_news(self, position: int) -> list[tuple[float, int]]:
        """Return the changes of a mirror's listing by time: datasets appear and change."""
        uses_fingerprints = self.uses_fingerprints(position)
        return sorted(
            (when, number)
            for number, subject in enumerate(self.world.subjects)
            if subject.archive == position
            for when in (
                subject.listed_changes if uses_fingerprints else subject.listed_changes[:1]
            )
        )

    def uses_fingerprints(self, position: int) -> bool:
        """Return whether an archive's overview reports changes and is used."""
        return ARCHIVES[position].has_fingerprints and self._uses_fingerprints

    def archive_of(self, number: int) -> int:
        """Return the index of a subject's archive."""
        return self.world.subjects[number].archive

    def list(self, position: int, now: float) -> SimulatedListing:
        """Start to read a list."""
        archive, news, last = ARCHIVES[position], self._news[position], self._read[position]
        before = last
        while last < len(news) and news[last][0] <= now:
            last += 1
        ok = self.world.is_reachable(archive.host, now)
        requests = archive.cost.list(self._sizes[position]) if ok else _TRIED
        seconds = START + requests * ROUND_TRIP if ok else _GIVEN_UP
        end = self._send_requests(archive.host, requests, now, seconds)
        numbers = tuple(sorted({one for _, one in news[before:last]}))
        return SimulatedListing(position, now, end, ok, numbers if ok else (), last)

    def finish_listing(self, read: SimulatedListing) -> None:
        """Apply a listing that has been read."""
        if read.ok:
            self._read[read.archive] = read.last

    def task(self, number: int, when: float) -> DatasetTask:
        """Return the task for a dataset according to the overview of ``when``."""
        subject = self.world.subjects[number]
        fingerprint = subject.fingerprint(when) if self.uses_fingerprints(subject.archive) else None
        hint = DatasetHint(subject.ref, fingerprint)
        return DatasetTask(hint, "visit", "", self.last_visits[number])

    def visit(self, number: int, fingerprint: str | None, now: float) -> SimulatedVisit:
        """Start a visit."""
        subject = self.world.subjects[number]
        archive = ARCHIVES[subject.archive]
        first = self._mirrored[number] == 0
        state = subject.state(now)
        outcome: JobOutcome = "changed" if state > self._mirrored[number] else "unchanged"
        requests, seconds = archive.cost.visit(subject.files, first=first)
        if (
            self._chance.random() < FAILING
            or subject.fails(now)
            or not self.world.is_reachable(archive.host, now)
        ):
            outcome, requests, seconds = "failed", min(requests, _TRIED), _GIVEN_UP
        elif archive.settles and first and now - subject.changes[state - 1] < SETTLE:
            outcome = "settling"
        end = self._send_requests(archive.host, requests, now, seconds)
        self.measure.visits += 1
        self.measure.failed += outcome == "failed"
        return SimulatedVisit(number, now, end, outcome, state, fingerprint)

    def finish_visit(self, last_visits: SimulatedVisit, now: float) -> None:
        """Finish a visit: its changes are mirrored."""
        number = last_visits.subject
        if last_visits.outcome in ("changed", "unchanged"):
            self.measure.seen(number, self._mirrored[number], last_visits.state, now)
            self._mirrored[number] = last_visits.state
        status = _STATUS.get(last_visits.outcome, "full")
        self.last_visits[number] = LastVisit(last_visits.fingerprint or "", status, 0, "")

    def over(self) -> Measure:
        """End the simulation; return its results."""
        self.measure.over(self._mirrored)
        return self.measure

    def _send_requests(self, host: str, requests: int, now: float, seconds: float) -> float:
        """Return when the requests of a job to a host are finished, within the rate limit."""
        free = max(self._free_at[host], now) + requests / self._rate
        self._free_at[host] = free
        self.measure.count_requests(host, now, requests)
        return max(now + seconds, free)
