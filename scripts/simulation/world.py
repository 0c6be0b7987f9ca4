"""The simulated world: archives with datasets that change, fail and appear, drawn from a seed.

It does not depend on a policy, so that all policies run in the same world.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field

from neuromirror.crawl import ScheduleSettings
from neuromirror.model import DatasetRef
from simulation.costs import COSTS, Cost

HOUR, DAY = 3600.0, 86_400.0
EPOCH = 1_800_000_000.0
"""Start of a simulation in POSIX seconds."""

ACTIVE = 0.12
"""Share of datasets that continue to change after their first week."""

SLOWEST, FASTEST, TAIL = 0.003, 4.0, 0.5
"""Changes per day of such a dataset: a Pareto distribution between these, with this exponent."""

FIRST_WEEK = 1.5
"""Mean number of changes per day in the first week; each dataset has its own (exponential)."""

ARRIVING = 0.2
"""Share of datasets that appear during the simulated time."""

UNLISTED = 0.01
"""Share of changes that an overview should report but does not."""

FAILING = 0.01
"""Share of visits that fail for a transient reason."""

SPELLS, SPELL_HOURS, SPELL_SIGMA = 0.3, 6.0, 1.5
"""Periods per dataset and year in which every visit fails; median length, log-normal."""

OUTAGES, OUTAGE_HOURS = 6, 3.0
"""Outages per host and year, and their mean duration (exponential)."""

SETTLE = HOUR
"""``settle_minutes``: minutes without a change before a new dataset is mirrored."""


@dataclass(frozen=True, slots=True)
class SimulatedArchive:
    """One mirror: a share of all datasets, with or without an overview, at a host.

    ``files`` are the median and the sigma of the log-normal number of files of a dataset.
    """

    name: str
    share: float
    has_fingerprints: bool
    host: str
    cost: Cost
    files: tuple[float, float]
    schedule: ScheduleSettings
    settles: bool = False


# A list that takes many requests and rarely changes is read once per day; a deep visit of a volume
# without checksums would read all of it, so there is none.
_VOLUMES = ScheduleSettings(list_minutes=1440, deep_days=0)

ARCHIVES = (
    SimulatedArchive(
        "dandi", 0.1, True, "api.dandiarchive.org", COSTS["dandi"], (60, 2.0), ScheduleSettings()
    ),
    SimulatedArchive(
        *("aind-docdb", 0.4, True, "aind-open-data.s3", COSTS["docdb"], (2000, 1.8)),
        ScheduleSettings(),
        settles=True,
    ),
    SimulatedArchive(
        *("aind", 0.4, False, "aind-open-data.s3", COSTS["s3"], (2000, 1.8)),
        ScheduleSettings(),
        settles=True,
    ),
    SimulatedArchive("bossdb", 0.05, False, "api.bossdb.io", COSTS["boss"], (1500, 1.5), _VOLUMES),
    SimulatedArchive(
        *("bossdb-bucket", 0.05, False, "bossdb-open-data.s3", COSTS["precomputed"]),
        *((20_000, 1.8), _VOLUMES),
        settles=True,
    ),
)
"""Of ten thousand: a thousand dandisets, eight thousand assets, a thousand volumes."""


@dataclass(slots=True)
class SimulatedDataset:
    """A dataset upstream; ``changes`` are times, the first is that of its appearance.

    ``listed_changes`` are those that the overview reports. ``spells`` are the periods in which
    every visit fails.
    """

    ref: DatasetRef
    archive: int
    files: int
    changes: list[float]
    listed_changes: list[float]
    spells: list[tuple[float, float]] = field(default_factory=list)

    def state(self, when: float) -> int:
        """Return the number of changes so far."""
        return bisect_right(self.changes, when)

    def fingerprint(self, when: float) -> str:
        """Return what the overview reports."""
        return str(bisect_right(self.listed_changes, when))

    def fails(self, when: float) -> bool:
        """Return whether visits fail at a time."""
        return any(begin <= when < end for begin, end in self.spells)


@dataclass(slots=True)
class World:
    """All archives, for ``days`` from :data:`EPOCH` on.

    ``down`` is the period without a service; ``outages`` are those of each host.
    """

    days: float
    subjects: list[SimulatedDataset]
    down: tuple[float, float]
    outages: dict[str, list[tuple[float, float]]]

    @property
    def end(self) -> float:
        """The end of the simulated time."""
        return EPOCH + self.days * DAY

    def is_reachable(self, host: str, when: float) -> bool:
        """Return whether a host replies."""
        found = self.outages[host]
        position = bisect_left(found, (when, math.inf)) - 1
        return position < 0 or when >= found[position][1]


def draw(seed: int, datasets: int, days: float, down_days: float) -> World:
    """Return a random world; ``down_days`` of downtime start in the middle."""
    chance = random.Random(seed)
    end = EPOCH + days * DAY
    subjects = []
    for position, archive in enumerate(ARCHIVES):
        for number in range(round(archive.share * datasets)):
            local_id = f"{number:06}"
            ref = DatasetRef(archive.name, local_id, f"s3://{archive.name}/{local_id}")
            subjects.append(_subject(chance, ref, position, archive, days))
    middle = EPOCH + days * DAY / 2
    hosts = sorted({archive.host for archive in ARCHIVES})
    outages = {host: _outages(chance, days, end) for host in hosts}
    return World(days, subjects, (middle, middle + down_days * DAY), outages)


def _subject(
    chance: random.Random, ref: DatasetRef, position: int, archive: SimulatedArchive, days: float
) -> SimulatedDataset:
    end = EPOCH + days * DAY
    median, sigma = archive.files
    files = max(1, round(chance.lognormvariate(math.log(median), sigma)))
    arrives = chance.random() < ARRIVING
    born = EPOCH + days * DAY * chance.random() if arrives else EPOCH
    changes = [born]
    if arrives:
        _poisson(
            chance, changes, chance.expovariate(1 / FIRST_WEEK), born, min(end, born + 7 * DAY)
        )
    if chance.random() < ACTIVE:
        rate = min(FASTEST, SLOWEST * (1 - chance.random()) ** (-1 / TAIL))
        _poisson(chance, changes, rate, born + 7 * DAY if arrives else born, end)
    listed_changes = [changes[0], *(one for one in changes[1:] if chance.random() >= UNLISTED)]
    spells = []
    for _ in range(_count(chance, SPELLS * days / 365)):
        begin = EPOCH + days * DAY * chance.random()
        length = chance.lognormvariate(math.log(SPELL_HOURS), SPELL_SIGMA) * HOUR
        spells.append((begin, begin + length))
    return SimulatedDataset(ref, position, files, changes, listed_changes, sorted(spells))


def _poisson(
    chance: random.Random, changes: list[float], rate: float, begin: float, end: float
) -> None:
    """Yield the times of ``rate`` changes per day."""
    when = begin + chance.expovariate(rate) * DAY
    while when < end:
        changes.append(when)
        when += chance.expovariate(rate) * DAY


def _count(chance: random.Random, mean: float) -> int:
    """Return a number from the Poisson distribution, for small means."""
    number, product = 0, chance.random()
    while product > math.exp(-mean):
        number += 1
        product *= chance.random()
    return number


def _outages(chance: random.Random, days: float, end: float) -> list[tuple[float, float]]:
    """Yield the outages, one after the other."""
    found: list[tuple[float, float]] = []
    when = EPOCH
    while True:
        when += chance.expovariate(OUTAGES / 365) * DAY
        length = chance.expovariate(1 / OUTAGE_HOURS) * HOUR
        if when >= end:
            return found
        found.append((when, when + length))
        when += length
