"""The service's own engine with a simulated world: real schedule, real ticks, no workers.

Jobs go to an executor that only stores them; the simulation finishes them at the simulated time.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import statistics
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neuromirror.crawl import DatasetTask, Result, open_recorder
from neuromirror.crawl.recorder import lease_owner
from neuromirror.index import Schedule
from neuromirror.model import Traffic
from neuromirror.service.engine import Service
from neuromirror.service.jobs import Job, JobContext, JobReport
from neuromirror.service.mirror_files import MirrorFiles
from neuromirror.service.scheduling_policy import JobOutcome
from neuromirror.service.stale_leases import StaleLeases
from neuromirror.store import Store
from simulation.figures import Measure
from simulation.run import Limits
from simulation.upstream import SimulatedListing, SimulatedVisit, Upstream
from simulation.world import ARCHIVES, EPOCH, HOUR, World

_STEP = 60.0
"""Seconds between two ticks if no job finishes."""

_MIRROR = """source = "s3"
[options]
bucket = "simulated"
[schedule]
"""

_RESULTS: Mapping[JobOutcome, tuple[str, str]] = {
    "changed": ("ok", "full"),
    "unchanged": ("notneeded", "full"),
    "settling": ("notneeded", "waiting"),
    "failed": ("error", "failed"),
}


class _ManualExecutor(Executor):
    """Stores jobs, which the simulation finishes."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Job, Future[JobReport]]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[JobReport] = Future()
        self.jobs.append((args[1], future))
        return future


@dataclass
class TickObserver:
    """Durations of ticks (seconds, and CPU seconds as ``cpu``), and the number of finished jobs."""

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    jobs: int = 0

    def job_finished(self, kind: str, mirror: str, outcome: str, seconds: float) -> None:
        self.jobs += 1

    def requests_sent(self, mirror: str, traffic: Mapping[str, Traffic]) -> None:
        pass

    def housekeeping_finished(self, name: str, ok: bool, seconds: float) -> None:
        pass

    def tick_finished(self, seconds: float) -> None:
        self.seconds.append(seconds)


class SimulatedService:
    """A service in a world; :meth:`run` returns the result, ``ticks`` are its durations."""

    def __init__(self, world: World, limits: Limits, seed: int) -> None:
        self._world = world
        self._limits = limits
        self._upstream = Upstream(world, limits.rate, seed, uses_fingerprints=True)
        self._archive_numbers = {one.name: position for position, one in enumerate(ARCHIVES)}
        self._numbers = {one.ref.name: number for number, one in enumerate(world.subjects)}
        self._now = EPOCH
        self._over: list[
            tuple[float, int, Future[JobReport], SimulatedListing | SimulatedVisit | None]
        ] = []
        self._count = itertools.count()
        self.ticks = TickObserver()
        logging.getLogger("neuromirror").addHandler(logging.NullHandler())

    def run(self) -> Measure:
        """Run to the end of the world, without its downtime."""
        with self._service() as (service, schedule, kept):
            hours = iter(EPOCH + hour * HOUR for hour in range(int(self._world.days * 24)))
            hour = next(hours, self._world.end)
            while self._now < self._world.end:
                self._tick(service, kept)
                if self._now >= hour:
                    self._look(schedule)
                    hour = next(hours, self._world.end)
                self._now = min([self._now + _STEP, hour, *(one[0] for one in self._over[:1])])
                while self._over and self._over[0][0] <= self._now:
                    _, _, future, about = heapq.heappop(self._over)
                    future.set_result(self._report(about))
        return self._upstream.over()

    @contextmanager
    def _service(self) -> Iterator[tuple[Service, Schedule, _ManualExecutor]]:
        with tempfile.TemporaryDirectory(prefix="simulate-") as name, ExitStack() as stack:
            folder = Path(name)
            (folder / "mirrors").mkdir()
            for archive in ARCHIVES:
                settings = archive.schedule.model_dump()
                lines = "".join(f"{key} = {value}\n" for key, value in settings.items())
                path = folder / "mirrors" / f"{archive.name}.toml"
                path.write_text(_MIRROR + lines)
                assert tomllib.loads(path.read_text())["schedule"] == settings
            store = Store.open(folder / "store", create=True)
            recorder = stack.enter_context(open_recorder(store, store.index_path))
            schedule = stack.enter_context(Schedule.open(store.schedule_path))
            kept, own = _ManualExecutor(), lease_owner("simulate")
            service = Service(
                JobContext(store.root, store.index_path, None),
                MirrorFiles(folder / "mirrors", (), lambda mirror: None),
                schedule,
                recorder,
                kept,
                workers=self._limits.workers,
                owner=own,
                observer=self.ticks,
                stale_leases=StaleLeases(store, schedule, own),
                clock=lambda: self._now,
            )
            service.start()
            yield service, schedule, kept

    def _tick(self, service: Service, kept: _ManualExecutor) -> None:
        """Tick until nothing is left to do at this time."""
        while True:
            before = time.thread_time()
            begun = service.tick()
            self.ticks.cpu.append(time.thread_time() - before)
            for job, future in kept.jobs:
                self._begin(job, future)
            kept.jobs.clear()
            if not begun and not service._pending_writes:
                return

    def _begin(self, job: Job, future: Future[JobReport]) -> None:
        about: SimulatedListing | SimulatedVisit | None = None
        end = self._now
        if job.kind == "listing":
            about = self._upstream.list(self._archive_numbers[job.mirror.name], self._now)
            end = about.end
        elif job.kind == "visit":
            number = self._numbers[job.lease.name]
            fingerprint = None
            if self._upstream.uses_fingerprints(self._upstream.archive_of(number)):
                fingerprint = self._world.subjects[number].fingerprint(self._now)
            about = self._upstream.visit(number, fingerprint, self._now)
            self._upstream.measure.deep += job.deep
            end = about.end
        heapq.heappush(self._over, (end, next(self._count), future, about))

    def _report(self, about: SimulatedListing | SimulatedVisit | None) -> JobReport:
        if about is None:
            return JobReport()
        if isinstance(about, SimulatedVisit):
            self._upstream.finish_visit(about, self._now)
            name = self._world.subjects[about.subject].ref.name
            status, visit = _RESULTS[about.outcome]
            return JobReport([Result(name, status, "simulated", visit)])
        self._upstream.finish_listing(about)
        if not about.ok:
            mirror = ARCHIVES[about.archive].name
            return JobReport([Result(mirror, "error", "no answer", "failed")])
        return JobReport(due=list(self._tasks(about)))

    def _tasks(self, read: SimulatedListing) -> Iterator[DatasetTask]:
        """Yield the tasks that the planner derives from each listing."""
        for number, subject in enumerate(self._world.subjects):
            if subject.archive != read.archive or subject.changes[0] > read.since:
                continue
            task = self._upstream.task(number, read.since)
            fingerprint, last = task.hint.fingerprint, task.last_visit
            if (
                fingerprint is None
                or last is None
                or (last.status, last.fingerprint) != ("full", fingerprint)
            ):
                yield task

    def _look(self, schedule: Schedule) -> None:
        due = self._upstream.measure.due
        for row in schedule.tasks():
            if row.local_id:
                never = row.due is None or row.disabled
                due[self._numbers[row.name]] = float("inf") if never else row.due
        self._upstream.measure.sample(self._now)


def tick_line(world: World, limits: Limits, seed: int) -> dict[str, Any]:
    """Return durations of the ticks of a service with a whole world, from its first crawl on."""
    engine = SimulatedService(world, limits, seed)
    engine.run()
    ticks = sorted(engine.ticks.seconds)
    return {
        "datasets": len(world.subjects),
        "ticks": len(ticks),
        "jobs": engine.ticks.jobs,
        "median_ms": round(1000 * statistics.median(ticks), 2),
        "p99_ms": round(1000 * ticks[int(0.99 * len(ticks))], 2),
        "max_ms": round(1000 * ticks[-1], 2),
        "max_cpu_ms": round(1000 * max(engine.ticks.cpu), 2),
        "over_200_ms": sum(one > 0.2 for one in ticks),
    }
