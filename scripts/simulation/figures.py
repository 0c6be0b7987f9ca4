"""Figures of a simulation: how far the mirror was behind, and the cost.

A dataset is stale by the age of its oldest change that the mirror has not got; 0 where it has all.
Those that change (or appear) in the time that is simulated are *active*. Staleness is weighed by
time: "95 % fresher than 24 h" is, at any moment, 95 % of the active datasets. While no service
ran, nothing is weighed; what is stale by then is, from when it ran again. Stricter, of *recent*
ones: those that changed in the last 30 days. Delays are of single changes, but for those that came
while no service ran.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulation.world import ARCHIVES, DAY, EPOCH, HOUR, World

_Floats = NDArray[np.float64]

FRESH = 24 * HOUR
RECENT = 30 * DAY


class Measure:
    """Collects figures of a simulation; call :meth:`figures` at its end. ``due`` is by subject."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._days = int(world.days) + 1
        self.due: _Floats = np.full(len(world.subjects), np.inf)
        self.visits = self.deep = self.failed = 0
        self._requests: dict[str, list[int]] = defaultdict(lambda: [0] * self._days)
        self._episodes: list[tuple[int, float, float]] = []
        self._delays: list[float] = []
        self._first: list[float] = []
        self._queue: list[tuple[float, int]] = []

    def count_requests(self, host: str, now: float, requests: int) -> None:
        """Count the requests to a host."""
        self._requests[host][int((now - EPOCH) / DAY)] += requests

    def sample(self, now: float) -> None:
        """Record how many subjects are waiting or being visited."""
        self._queue.append((now, int(np.count_nonzero(self.due <= now))))

    def seen(self, number: int, before: int, state: int, now: float) -> None:
        """Record that the mirror has all changes up to ``state`` of a subject, after ``before``."""
        changes = self._world.subjects[number].changes
        if changes[0] == EPOCH:
            # datasets that existed before the service started are not changes
            if before == 0:
                self._first.append(now)
            before = max(before, 1)
        if state > before:
            self._episodes.append((number, changes[before], now))
            down, up = self._world.down
            self._delays.extend(
                now - when for when in changes[before:state] if not down <= when < up
            )

    def over(self, mirrored: list[int]) -> None:
        """Finish: changes that are not mirrored by now were stale until the end."""
        for number, subject in enumerate(self._world.subjects):
            self.seen(number, mirrored[number], subject.state(self._world.end), self._world.end)

    def figures(self) -> dict[str, Any]:
        """Return all figures; times in hours unless named otherwise."""
        world = self._world
        active, watched = self._active()
        stale = _Staleness(self._episodes, world.down)
        delays = np.sort(np.array(self._delays or [0.0])) / HOUR
        down, up = world.down
        # queues: not during the first week, which is the first crawl, nor after a downtime
        steady = [n for when, n in self._queue if when > EPOCH + 7 * DAY and not _near(when, world)]
        after = [n for when, n in self._queue if up > down and up <= when < up + 7 * DAY]
        hosts = {}
        service_days = world.days - (up - down) / DAY
        for host, days in sorted(self._requests.items()):
            hosts[host] = {
                "mean": round(sum(days) / service_days),
                "peak": max(days),
                "per_s": round(sum(days) / service_days / DAY, 3),
            }
        return {
            "active": active,
            "fresh_percent": round(100 * (1 - stale.beyond(FRESH) / watched), 2),
            "stale_hours": {
                f"p{share}": round(stale.percentile(share / 100, watched) / HOUR, 1)
                for share in (50, 90, 95, 99)
            },
            "fresh_by_mirror": self._by_mirror(),
            "fresh_of_recent_percent": round(100 * (1 - stale.beyond(FRESH) / self._recent()), 2),
            "delay_hours": {f"p{one}": round(_at(delays, one), 1) for one in (50, 90, 95, 99)},
            "visits_a_day": round(self.visits / service_days),
            "deep_a_day": round(self.deep / service_days),
            "failed_a_day": round(self.failed / service_days, 1),
            "requests_a_day": hosts,
            "peak_queue": max(steady, default=0),
            "peak_queue_after_downtime": max(after, default=0),
            "first_crawl_hours": round(
                (_at(np.sort(self._first or [EPOCH]), 99) - EPOCH) / HOUR, 1
            ),
            "caught_up_hours": self._caught_up(),
        }

    def curve(self) -> list[tuple[float, float]]:
        """Return hours, and the percentage of active datasets that are not staler."""
        stale, (_, watched) = _Staleness(self._episodes, self._world.down), self._active()
        hours = [round(0.5 * 1.2**step, 2) for step in range(41)]
        return [(one, round(100 * (1 - stale.beyond(one * HOUR) / watched), 2)) for one in hours]

    def _active(self, archive: int | None = None) -> tuple[int, float]:
        """Return the number of active subjects, and their active seconds without downtime."""
        down, up = self._world.down
        count, seconds = 0, 0.0
        for subject in self._world.subjects:
            begin = subject.changes[0]
            if (begin == EPOCH and len(subject.changes) == 1) or begin >= self._world.end:
                continue
            if archive in (None, subject.archive):
                count += 1
                seconds += self._world.end - begin
                seconds -= max(0.0, up - max(begin, down))
        return count, max(seconds, 1.0)

    def _recent(self) -> float:
        """Return the seconds for which subjects had changed in the last 30 days."""
        down, up = self._world.down
        seconds = 0.0
        for subject in self._world.subjects:
            until = 0.0
            for when in subject.changes[subject.changes[0] == EPOCH :]:
                begin, end = max(when, until), min(when + RECENT, self._world.end)
                if end > begin:
                    seconds += end - begin - max(0.0, min(end, up) - max(begin, down))
                    until = end
        return max(seconds, 1.0)

    def _by_mirror(self) -> dict[str, float]:
        found = {}
        for position, archive in enumerate(ARCHIVES):
            own = [one for one in self._episodes if self._archive(one[0]) == position]
            beyond = _Staleness(own, self._world.down).beyond(FRESH)
            found[archive.name] = round(100 * (1 - beyond / self._active(position)[1]), 2)
        return found

    def _archive(self, number: int) -> int:
        return self._world.subjects[number].archive

    def _caught_up(self) -> float | None:
        """Return the hours from the end of the downtime until 95 % of active datasets are fresh."""
        down, up = self._world.down
        if up <= down or not self._episodes:
            return None
        _, begin, end = map(np.array, zip(*self._episodes, strict=True))
        count, _ = self._active()
        when = up
        while when < self._world.end:
            behind = np.count_nonzero((begin + FRESH < when) & (when < end))
            if behind <= 0.05 * count:
                return round((when - up) / HOUR, 2)
            when += HOUR / 4
        return None


class _Staleness:
    """Spans from the first unseen change until it was seen; ``down`` is not counted."""

    def __init__(self, episodes: list[tuple[int, float, float]], down: tuple[float, float]) -> None:
        self._begin: _Floats = np.array([one[1] for one in episodes], dtype=np.float64)
        self._end: _Floats = np.array([one[2] for one in episodes], dtype=np.float64)
        self._down = down

    def beyond(self, seconds: float) -> float:
        """Return the total seconds for which datasets were more than ``seconds`` stale."""
        begin = self._begin + seconds
        length = np.clip(self._end - begin, 0, None)
        down, up = self._down
        within = np.clip(np.minimum(self._end, up) - np.maximum(begin, down), 0, None)
        return float(np.sum(length - within))

    def percentile(self, share: float, watched: float) -> float:
        """Return the staleness in seconds that is not exceeded for that share of the time."""
        allowed = (1 - share) * watched
        low, high = 0.0, 400 * DAY
        if self.beyond(low) <= allowed:
            return low
        while high - low > 60:
            middle = (low + high) / 2
            if self.beyond(middle) > allowed:
                low = middle
            else:
                high = middle
        return high


def _near(when: float, world: World) -> bool:
    down, up = world.down
    return up > down and down <= when < up + 7 * DAY


def _at(values: Any, percent: float) -> float:
    return float(np.percentile(values, percent))
