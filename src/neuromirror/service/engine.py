"""The heart of a service: tick by tick it writes down what is over, and begins what is due.

Everything that must outlive it is in the schedule. A job that was under way when the service died
is still due, and is done again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import replace
from datetime import UTC, datetime

from neuromirror.crawl import FailureLog, Mirror, Recorder, Result
from neuromirror.crawl.failure_log import CONFIGURATION, SERVICE_TASKS, WORKERS
from neuromirror.index import Schedule, TaskRow
from neuromirror.model import DatasetHint, DatasetRef, NeuromirrorError
from neuromirror.service.jobs import ALL_MIRRORS, Job, JobContext, run_job
from neuromirror.service.leases import LEASE_SECONDS, Lease
from neuromirror.service.logs import log_event
from neuromirror.service.mirror_files import MirrorFiles
from neuromirror.service.running_jobs import JobResult, RunningJob, ServiceObserver, collect_result
from neuromirror.service.schedule_writer import SUPERDATASET_PREFIX, ScheduleWriter
from neuromirror.service.stale_leases import StaleLeases

_RENEW_SECONDS = LEASE_SECONDS / 3
_WRITE_SECONDS = 0.05
"""Seconds of a tick in which what may be much is written, piece by piece."""

_SET_BACK = 30.0
"""Seconds by which a clock must go back to have been set back; less is a correction."""

_REPAIR_SECONDS = 600.0
"""Seconds between two looks at all rows of the schedule."""

_CONNECTIONS = 16
"""Requests at one host at a time where a mirror's file says nothing, as a session has it."""

_PAUSE = 30.0
"""Seconds in which nothing is begun after workers could not be had."""


SUPERDATASET_WAIT = 3600.0
"""Seconds that superdatasets wait for the visits that are in progress or due."""


class Service:
    """Keeps the mirrors of ``files`` current, ``workers`` jobs at a time.

    ``owner`` is its name in leases; ``heard`` is told how each dataset fared; ``clock`` gives POSIX
    seconds. Superdatasets are written from the final states of a round: once nothing of their
    mirrors is in progress or due, or after ``superdataset_wait`` seconds. :meth:`tick` is for one
    thread
    at a time; the caller holds the lock of the store's one service.
    """

    def __init__(
        self,
        job_context: JobContext,
        files: MirrorFiles,
        schedule: Schedule,
        recorder: Recorder,
        executor: Executor,
        *,
        workers: int,
        owner: str,
        observer: ServiceObserver,
        stale_leases: StaleLeases,
        on_result: Callable[[Result], None] = lambda result: None,
        clock: Callable[[], float] = time.time,
        superdataset_wait: float = SUPERDATASET_WAIT,
    ) -> None:
        self._job_context = job_context
        self._files = files
        self._schedule = schedule
        self._schedule_writer = ScheduleWriter(schedule, recorder)
        self._log = FailureLog(recorder)
        self._executor = executor
        self._workers = workers
        self._owner = owner
        self._observer = observer
        self._stale_leases = stale_leases
        self._on_result = on_result
        self._clock = clock
        self._superdataset_wait = superdataset_wait
        self._running: dict[str, RunningJob] = {}
        self._finished: deque[RunningJob] = deque()
        self._pending_writes: deque[Iterator[None]] = deque()
        self._excluded_mirrors: set[str] = set()
        self._last_time = clock()
        self._last_renewal = self._last_lease_check = self._last_repair = time.monotonic()
        self._paused_until = 0.0
        self._closed = False
        self.worker_error = ""
        self._has_no_workers = False
        self._invalid_files: dict[str, str] = {}
        self._valid_files: set[str] = set()
        self.wakeup = threading.Event()

    # --- what comes from outside

    def start(self) -> None:
        """Takes the schedule over from the service before, and its mirrors."""
        now = self._clock()
        self._log.forget(SERVICE_TASKS)
        for name in self._stale_leases.end_orphaned(now):
            log_event("lease ended", "its owner is dead", dataset=name)
        for mirror in self._files.served_mirrors():
            self._schedule_writer.add_mirror(mirror, now)
        self._schedule_writer.make_released_due(now)
        self._update_excluded_mirrors()
        self._pending_writes.append(
            self._schedule_writer.repair_rows(self._files.served_mirrors(), now)
        )

    def reload_mirror_files(self) -> None:
        """Looks whether mirror files were changed; what is wrong is told, and nothing else done."""
        found = self._files.reload()
        for message in found.errors.values():
            log_event("mirror file wrong", message, level=logging.ERROR)
        self._invalid_files |= found.errors
        self._valid_files = (
            self._valid_files | {*found.valid, *found.removed}
        ) - found.errors.keys()
        for name in found.removed:
            log_event("mirror gone", "its file is gone: it is not looked at any more", mirror=name)
        now = self._clock()
        for name in found.changed:
            log_event(
                "mirror changed", "its file says something new: its list is read", mirror=name
            )
            self._schedule_writer.make_listing_due(self._files.mirrors[name], now)
        if found.removed or found.changed:
            self._update_excluded_mirrors()
            self._pending_writes.append(
                self._schedule_writer.repair_rows(self._files.served_mirrors(), now)
            )
            self.wakeup.set()
        for name in found.removed:
            self._log.forget_mirror(name)
        self._record_file_errors()

    def _record_file_errors(self) -> None:
        """Record which mirror files are wrong; what cannot be recorded now is tried again."""
        for name in list(self._valid_files):
            self._log.record_success(CONFIGURATION, name)
            self._invalid_files.pop(name, None)
            self._valid_files.discard(name)
        for name, message in self._invalid_files.items():
            self._log.record_failure(CONFIGURATION, message, name)

    def close(self) -> None:
        """From now on nothing is begun; what is under way is still written down."""
        self._closed = True

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way, nor to be written."""
        return not (self._running or self._finished or self._pending_writes)

    @property
    def running_count(self) -> int:
        """How many jobs are under way."""
        return len(self._running)

    def make_superdatasets_due(self) -> bool:
        """Makes due what waits for more to come of a mirror; gives whether anything does."""
        now = self._clock()
        late = self._pending_superdatasets(ALL_MIRRORS)
        self._schedule.put(replace(one, due=now) for one in late)
        return bool(late)

    def abandon(self) -> list[str]:
        """Gives back the leases of all that is under way, and gives its names; it stays due."""
        left = list(self._running.values())
        for running_job in left:
            running_job.future.cancel()
            self._schedule.release(running_job.job.lease.name, running_job.job.lease.token)
        self._running.clear()
        self._finished.clear()
        self._pending_writes.clear()
        return sorted(running_job.row.name for running_job in left)

    # --- the tick

    def tick(self) -> int:
        """Takes what is over and begins what is due; gives the number of jobs begun."""
        began = time.monotonic()
        self.wakeup.clear()
        now = self._read_clock()
        try:
            while self._finished:
                self._process_finished(now)
            self._continue_writes(began + _WRITE_SECONDS)
            self._maintain_leases(now, began)
            if self.worker_error and began >= self._paused_until:
                self.worker_error = ""
            return 0 if self._closed else self._start_due(now)
        finally:
            self._observer.tick_finished(time.monotonic() - began)

    def _read_clock(self) -> float:
        now, last = self._clock(), self._last_time
        if now < last - _SET_BACK:
            log_event("clock set back", f"by {last - now:.0f} s", level=logging.WARNING)
            self._schedule_writer.shift_back(last - now)
            for running_job in self._running.values():
                running_job.started_at -= last - now
            self._last_renewal = -LEASE_SECONDS
        self._last_time = now
        return now

    def _maintain_leases(self, now: float, instant: float) -> None:
        """Renews ours; looks now and then for those that nobody will ever give back."""
        if instant - self._last_renewal >= _RENEW_SECONDS:
            self._last_renewal = instant
            tokens = [(one.job.lease.name, one.job.lease.token) for one in self._running.values()]
            self._schedule.renew(tokens, now, LEASE_SECONDS)
        if instant - self._last_lease_check >= LEASE_SECONDS:
            self._last_lease_check = instant
            for name in self._stale_leases.end_overlong(now):
                log_event("lease ended", "it was of a clock that was ahead", dataset=name)
        if instant - self._last_repair >= _REPAIR_SECONDS:
            self._last_repair = instant
            self._pending_writes.append(
                self._schedule_writer.repair_rows(self._files.served_mirrors(), now)
            )

    def _continue_writes(self, until: float) -> None:
        """Takes a step at least, so that it comes to an end whatever else there is to do."""
        while self._pending_writes:
            try:
                next(self._pending_writes[0])
            except StopIteration:
                self._pending_writes.popleft()
            if time.monotonic() >= until:
                return

    # --- what is over

    def _process_finished(self, now: float) -> None:
        running_job = self._finished.popleft()
        try:
            job_result = collect_result(running_job)
            if self._running.get(running_job.row.name) is not running_job:
                return
            lease = running_job.job.lease
            if job_result.is_superseded or not self._schedule.holds(lease.name, lease.token):
                log_event("lease lost", "somebody else has the work", dataset=lease.name)
                self._release(running_job)
            elif running_job.job.kind == "list":
                self._pending_writes.append(self._record_listing(running_job, job_result, now))
            else:
                self._record_finished(running_job, job_result, now)
                self._release(running_job)
        except BaseException:
            # what cannot be written now (a disk is full) is written later, the others before it
            self._finished.append(running_job)
            raise
        for result in job_result.results:
            self._on_result(result)
        if job_result.error:
            self._on_result(Result(running_job.row.name, "error", job_result.error, "failed"))

    def _release(self, running_job: RunningJob) -> None:
        self._schedule.release(running_job.job.lease.name, running_job.job.lease.token)
        self._running.pop(running_job.row.name, None)

    def _record_finished(self, running_job: RunningJob, job_result: JobResult, now: float) -> None:
        if running_job.job.kind == "group":
            if running_job.mirror != ALL_MIRRORS.name:
                self._schedule_superdatasets(ALL_MIRRORS.name, now)
            outcome = self._schedule_writer.record_superdatasets(running_job, job_result, now)
            self._log_job(running_job, job_result, outcome, "grouped")
            return
        outcome = self._schedule_writer.record_visit(running_job, job_result, now)
        self._log_job(
            running_job, job_result, outcome, "visited", self._schedule_writer.visit_id(running_job)
        )
        if any(one.versions or one.status == "ok" for one in job_result.results):
            self._schedule_superdatasets(running_job.mirror, now)

    def _schedule_superdatasets(self, name: str, now: float) -> None:
        self._schedule_writer.schedule_superdatasets(name, now)
        pending = self._running.get(SUPERDATASET_PREFIX + name)
        if pending is not None:
            pending.is_outdated = True

    def _record_listing(
        self, running_job: RunningJob, job_result: JobResult, now: float
    ) -> Iterator[None]:
        try:
            yield from self._schedule_writer.record_listing(
                running_job, job_result, self._running, now
            )
            self._schedule_superdatasets(running_job.mirror, now)
        finally:
            self._release(running_job)
        failed = bool(job_result.error) or any(
            one.dataset == running_job.mirror for one in job_result.problems
        )
        outcome = "failed" if failed else "changed" if job_result.due else "unchanged"
        self._log_job(
            running_job, job_result, outcome, "listed", f"{len(job_result.due)} to be visited"
        )

    def _log_job(
        self,
        running_job: RunningJob,
        job_result: JobResult,
        outcome: str,
        event: str,
        visit: str = "",
    ) -> None:
        seconds = self._last_time - running_job.started_at
        kind = running_job.job.kind
        self._observer.job_finished(kind, running_job.mirror, outcome, seconds)
        for one in job_result.results:
            self._observer.requests_sent(running_job.mirror, one.traffic)
        reported = [*job_result.results] if kind == "visit" else job_result.problems
        message = job_result.error or "; ".join(one.message for one in reported)
        log_event(
            event,
            message,
            level=logging.WARNING if outcome == "failed" else logging.INFO,
            mirror=running_job.mirror,
            dataset=running_job.row.name if kind == "visit" else "",
            visit=visit,
            kind=kind,
            outcome=outcome,
            seconds=seconds,
        )

    # --- what is due

    def _start_due(self, now: float) -> int:
        started = 0
        for mirror in self._files.served_mirrors():
            started += self._start_named(mirror.name, mirror, "list", now)
        while more := self._start_visits(now):
            started += more
        # last, so that none begins before the visits that are due
        for mirror in (*self._files.served_mirrors(), ALL_MIRRORS):
            started += self._start_named(SUPERDATASET_PREFIX + mirror.name, mirror, "group", now)
        return started

    def _start_named(self, name: str, mirror: Mirror, kind: str, now: float) -> int:
        if name in self._running or not self._free_slots():
            return 0
        row = self._schedule.task(name)
        if row is None or row.due is None or row.due > now:
            return 0
        if (
            kind == "group"
            and now - row.due < self._superdataset_wait
            and self._has_pending_work(mirror, now)
        ):
            return 0
        return self._start_job(row, mirror, kind, now)

    def _has_pending_work(self, mirror: Mirror, now: float) -> bool:
        """Whether anything that a mirror's superdatasets hold is in progress or due.

        For the superdataset above all mirrors, anything of any mirror.
        """
        if mirror is ALL_MIRRORS:
            names = {one.name for one in self._files.served_mirrors()}
            if self._pending_superdatasets():
                return True
        else:
            names = {mirror.name}
        if any(one.mirror in names for one in self._running.values()):
            return True
        return not names.isdisjoint(self._schedule.waiting(now))

    def _pending_superdatasets(self, *more: Mirror) -> list[TaskRow]:
        """Return the group tasks, of mirrors and of ``more``, that are pending and did not fail."""
        rows = [
            self._schedule.task(SUPERDATASET_PREFIX + one.name)
            for one in (*self._files.served_mirrors(), *more)
        ]
        return [one for one in rows if one is not None and one.due is not None and not one.failures]

    def _start_visits(self, now: float) -> int:
        """Begins visits, the longest due first; what is left may be of mirrors that have enough."""
        visits = Counter(one.mirror for one in self._running.values() if one.job.kind == "visit")
        mirrors = self._files.mirrors
        most = {name: one.settings.schedule.workers for name, one in mirrors.items()}
        without = self._excluded_mirrors | {name for name in most if visits[name] >= most[name]}
        if not self._free_slots() or without.issuperset(most):
            return 0
        # the rows of mirrors themselves may be among them
        limit = self._free_slots() + len(mirrors)
        deep = [(row.deep_due, row) for row in self._schedule.deep_due(now, limit, without)]
        due = [(row.due, row) for row in self._schedule.due(now, limit, without)]
        started = 0
        for _, row in sorted(deep + due, key=lambda one: one[0] or 0.0):
            mirror = mirrors.get(row.mirror)
            if (
                mirror is None
                or not row.local_id
                or row.name in self._running
                or not self._free_slots()
            ):
                continue
            is_deep = row.deep_due is not None and row.deep_due <= now and self._has_deep_slot()
            is_due = row.due is not None and row.due <= now
            if (is_deep or is_due) and visits[row.mirror] < most[row.mirror]:
                more = self._start_job(row, mirror, "visit", now, deep=is_deep)
                visits[row.mirror] += more
                started += more
        return started

    def _free_slots(self) -> int:
        """Places for jobs; none while workers cannot be had."""
        return 0 if self.worker_error else max(0, self._workers - len(self._running))

    def _has_deep_slot(self) -> bool:
        """Deep visits, which cost the most, are a quarter of the jobs at the most."""
        return sum(one.job.deep for one in self._running.values()) < max(1, self._workers // 4)

    def _start_job(
        self, row: TaskRow, mirror: Mirror, kind: str, now: float, *, deep: bool = False
    ) -> int:
        """Gives a job to the executor; gives 1, or 0 where somebody else is at it already."""
        token = self._schedule.claim(row.name, self._owner, now, LEASE_SECONDS)
        if token is None:
            return 0
        lease = Lease(row.name, token)
        job = Job(
            kind, lease, self._with_shared_limits(mirror), row.local_id or None, _hint(row), deep
        )
        began = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            future = self._executor.submit(run_job, self._job_context, job)
        except (NeuromirrorError, OSError, RuntimeError) as error:
            # that no worker can be had is no fault of the dataset's
            self._schedule.release(lease.name, lease.token)
            self.worker_error, self._has_no_workers = f"no worker can be had: {error}", True
            self._paused_until = time.monotonic() + _PAUSE
            log_event("no workers", self.worker_error, level=logging.ERROR)
            self._log.record_failure(WORKERS, self.worker_error)
            return 0
        if self._has_no_workers:
            self._has_no_workers = False
            self._log.record_success(WORKERS)
        running_job = self._running[row.name] = RunningJob(row, job, now, began, future)
        future.add_done_callback(lambda _: self._on_job_finished(running_job))
        return 1

    def _on_job_finished(self, running_job: RunningJob) -> None:
        """Called in whatever thread a job ends in."""
        self._finished.append(running_job)
        self.wakeup.set()

    def _with_shared_limits(self, mirror: Mirror) -> Mirror:
        """The mirror for one of several jobs at a time: together they keep the limits of its file.

        Each has connections of its own, and knows nothing of the others.
        """
        settings = mirror.settings
        jobs = min(settings.schedule.workers, self._workers)
        if jobs == 1:
            return mirror
        most, pace = settings.net.connections_per_host, settings.net.requests_per_second
        if most is None:
            connections = settings.options.get("connections", 0)
            most = max(_CONNECTIONS, 2 * connections if isinstance(connections, int) else 0)
        net: dict[str, object] = {"connections_per_host": max(1, most // jobs)}
        if pace is not None:
            net["requests_per_second"] = pace / jobs
        shared = settings.model_copy(update={"net": settings.net.model_copy(update=net)})
        return replace(mirror, settings=shared)

    def _update_excluded_mirrors(self) -> None:
        """Tasks of mirrors that are not served, and chores, are left where they are."""
        self._excluded_mirrors = {row.mirror for row in self._schedule.tasks()} - set(
            self._files.mirrors
        )
        self._excluded_mirrors.add("")


def _hint(row: TaskRow) -> DatasetHint | None:
    """What the overview said of a dataset; None to ask again, where the schedule has not all."""
    if not row.local_id or (row.fingerprint is not None and not row.title):
        return None
    dataset = DatasetRef(row.mirror, row.local_id, row.source_uri)
    return DatasetHint(dataset, row.fingerprint, row.title)
