"""A service over a simulated world: what is due is begun as the engine begins it.

The longest due first, so many of a mirror at a time as its file says, so many in all, and deep
visits a quarter of those at the most (``Service._start_visits`` in src/neuromirror/service/). Rows
are written as ``ScheduleWriter`` writes them. simulation.engine has the engine itself do it,
which is the
same and takes a hundred times as long; a test compares the two.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from msgspec.structs import replace

from neuromirror.index import TaskRow
from neuromirror.service.scheduling_policy import (
    ScheduleBounds,
    mirror_row_after_listing,
    repair_row,
)
from simulation.figures import Measure
from simulation.policies import Policy
from simulation.upstream import SimulatedListing, SimulatedVisit, Upstream
from simulation.world import ARCHIVES, EPOCH, HOUR, World

_NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Limits:
    """Maximum of concurrent jobs, and of requests per second and host."""

    workers: int
    rate: float


@dataclass(frozen=True, slots=True)
class _Event:
    """An event at a time.

    ``what`` is list

    listed

    visited

    wake

    sample

    down

    up

    look; ``life`` identifies the run of the service that it belongs to.
    """

    what: str
    about: int = 0
    life: int = 0
    read: SimulatedListing | None = None
    visited: SimulatedVisit | None = None
    deep: bool = False


class Simulation:
    """One policy in one world; :meth:`run` returns the result."""

    def __init__(self, world: World, policy: Policy, limits: Limits, seed: int) -> None:
        self._world = world
        self._policy = policy
        self._workers = limits.workers
        self._most = [one.schedule.workers for one in ARCHIVES]
        self._upstream = Upstream(
            world, limits.rate, seed, uses_fingerprints=policy.uses_fingerprints
        )
        self._measure = self._upstream.measure
        self._bounds = [ScheduleBounds.from_settings(one.schedule) for one in ARCHIVES]
        self._mirrors = [TaskRow(one.name, one.name, due=EPOCH) for one in ARCHIVES]
        self._rows: list[TaskRow | None] = [None] * len(world.subjects)
        self._busy: set[int] = set()
        self._visits = [0] * len(ARCHIVES)
        self._deep = 0
        self._due: list[list[tuple[float, int]]] = [[] for _ in ARCHIVES]
        self._deep_due: list[list[tuple[float, int]]] = [[] for _ in ARCHIVES]
        self._events: list[tuple[float, int, _Event]] = []
        self._number = 0
        self._next_look = _NEVER
        self._running = True
        self._life = 0

    def run(self) -> Measure:
        """Run to the end of the world."""
        for position in range(len(ARCHIVES)):
            self._schedule(EPOCH, _Event("list", position))
        begin, end = self._world.down
        if end > begin:
            self._schedule(begin, _Event("down"))
            self._schedule(end, _Event("up"))
        for hour in range(int(self._world.days * 24)):
            self._schedule(EPOCH + hour * HOUR, _Event("sample"))
        while self._events and self._events[0][0] < self._world.end:
            now, _, event = heapq.heappop(self._events)
            self._handle(now, event)
            if self._running:
                self._begin_due(now)
        return self._upstream.over()

    def _schedule(self, when: float, event: _Event) -> None:
        self._number += 1
        heapq.heappush(self._events, (when, self._number, event))

    def _handle(self, now: float, event: _Event) -> None:
        if event.what == "sample":
            self._measure.sample(now)
        elif event.what == "down":
            self._running = False
            self._life += 1
            self._busy.clear()
            self._visits = [0] * len(ARCHIVES)
            self._deep = 0
        elif event.what == "up":
            self._start(now)
        elif event.what == "look":
            self._next_look = _NEVER
        elif event.life == self._life:  # only if this run of the service has not ended
            if event.what == "list":
                read = self._upstream.list(event.about, now)
                self._schedule(read.end, _Event("listed", life=self._life, read=read))
            elif event.what == "wake":
                self._repair(event.about, now)
            elif event.read is not None:
                self._record_listing(event.read, now)
            elif event.visited is not None:
                self._record_visit(event.visited, event.deep, now)

    def _start(self, now: float) -> None:
        self._running = True
        for position, row in enumerate(self._mirrors):
            self._schedule(max(now, row.due or now), _Event("list", position, self._life))
        for number, known in enumerate(self._rows):
            if known is not None:
                self._repair(number, now)

    def _repair(self, number: int, now: float) -> None:
        row = self._rows[number]
        assert row is not None
        self._put(number, repair_row(row, now, self._bounds_of(number)))

    # --- finished jobs

    def _record_listing(self, read: SimulatedListing, now: float) -> None:
        position = read.archive
        bounds = self._bounds[position]
        row = mirror_row_after_listing(
            self._mirrors[position], read.ok, now, now - read.since, bounds
        )
        self._mirrors[position] = row
        assert row.due is not None
        self._schedule(row.due, _Event("list", position, self._life))
        for number in read.news:
            task = self._upstream.task(number, read.since)
            self._put(number, self._policy.row_after_listing(self._rows[number], task, now, bounds))
        self._upstream.finish_listing(read)

    def _record_visit(self, visited: SimulatedVisit, deep: bool, now: float) -> None:
        number = visited.subject
        row = self._rows[number]
        assert row is not None
        self._busy.discard(number)
        self._visits[self._upstream.archive_of(number)] -= 1
        self._deep -= deep
        self._upstream.finish_visit(visited, now)
        took = now - visited.since
        new = self._policy.row_after_visit(row, visited.outcome, now, took, self._bounds_of(number))
        if visited.outcome != "failed" and not deep:
            new = replace(new, deep_due=row.deep_due or new.deep_due)
        if row.fingerprint != visited.fingerprint:
            new = replace(new, due=now, disabled=False)
        self._put(number, new)

    def _bounds_of(self, number: int) -> ScheduleBounds:
        return self._bounds[self._upstream.archive_of(number)]

    def _put(self, number: int, row: TaskRow) -> None:
        position = self._upstream.archive_of(number)
        self._rows[number] = row
        self._measure.due[number] = _NEVER if row.due is None or row.disabled else row.due
        if row.disabled:
            assert row.due is not None
            self._schedule(row.due, _Event("wake", number, self._life))
            return
        if row.due is not None:
            heapq.heappush(self._due[position], (row.due, number))
        if row.deep_due is not None:
            heapq.heappush(self._deep_due[position], (row.deep_due, number))

    # --- due tasks

    def _begin_due(self, now: float) -> None:
        while len(self._busy) < self._workers:
            soonest, number = min(self._firsts(), default=(_NEVER, 0))
            if soonest > now:
                if soonest < self._next_look:
                    self._next_look = soonest
                    self._schedule(soonest, _Event("look"))
                return
            self._begin(number, now)

    def _deep_is_free(self) -> bool:
        return self._deep < max(1, self._workers // 4)

    def _firsts(self) -> Iterator[tuple[float, int]]:
        """Yield when the first visits of mirrors with free slots are due."""
        deep_is_free = self._deep_is_free()
        for position, most in enumerate(self._most):
            if self._visits[position] < most:
                due, deep_due = self._due[position], self._deep_due[position]
                if due and (found := self._first(due, deep=False)):
                    yield found
                if deep_is_free and deep_due and (found := self._first(deep_due, deep=True)):
                    yield found

    def _first(self, heap: list[tuple[float, int]], *, deep: bool) -> tuple[float, int] | None:
        """Return the first valid entry of a heap that no job is processing."""
        while heap:
            when, number = heap[0]
            row = self._rows[number]
            if (
                row is not None
                and not row.disabled
                and number not in self._busy
                and (row.deep_due if deep else row.due) == when
            ):
                return heap[0]
            heapq.heappop(heap)
        return None

    def _begin(self, number: int, now: float) -> None:
        row = self._rows[number]
        assert row is not None
        deep = row.deep_due is not None and row.deep_due <= now and self._deep_is_free()
        visited = self._upstream.visit(number, row.fingerprint, now)
        self._busy.add(number)
        self._visits[self._upstream.archive_of(number)] += 1
        self._deep += deep
        self._measure.deep += deep
        self._schedule(visited.end, _Event("visited", life=self._life, visited=visited, deep=deep))
