"""The service engine: each tick records finished jobs and starts those that are due.

All state that must survive a crash is in the schedule. A job that was running when the service
died is still due, and runs again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from neuromirror.config.mirror_files import (
    builtin_mirror_files,
    find_mirror,
    list_mirror_files,
    load_mirror,
)
from neuromirror.crawl import FailureLog, Mirror, Recorder, Result
from neuromirror.crawl.recorder import CONFIGURATION, LEASE_SECONDS, SERVICE_TASKS, WORKERS, Lease
from neuromirror.index import Schedule, TaskRow
from neuromirror.model import ConfigurationError, NeuromirrorError
from neuromirror.service.jobs import (
    ALL_MIRRORS,
    JobContext,
    JobResult,
    RunningJob,
    collect_result,
    job_of_task,
    run_job,
)
from neuromirror.service.logs import log_event
from neuromirror.service.scheduling import SUPERDATASET_PREFIX, ScheduleWriter

if TYPE_CHECKING:
    from neuromirror.service.metrics import Metrics

# --- mirror files, reloaded when they change


class MirrorFiles:
    """The last valid content of the mirror files, and the errors in them.

    ``names`` are the mirrors to serve; if empty, all mirrors of the folder, also those added later.
    A named mirror without a file in the folder at the start is the built-in one, until the folder
    gets a file for it. A file that is removed later never falls back to the built-in one.
    ``check`` raises ConfigurationError for a mirror that cannot be served. Raises
    ConfigurationError if a file is invalid at the start.

    ``mirrors`` are the mirrors by name, ``errors`` messages about files that are invalid now, by
    mirror; by an empty name for the folder itself.
    """

    def __init__(self, folder: Path, names: Sequence[str], check: Callable[[Mirror], None]) -> None:
        self._folder = folder
        self._names = frozenset(names)
        self._check = check
        builtin = builtin_mirror_files()
        self._builtin = {name: builtin[name] for name in names if name in builtin}
        loaded = {name: load_mirror(path) for name, path in self._list().items()}
        for name in names:
            find_mirror(loaded, name)
        self.mirrors = {name: one for name, one in loaded.items() if self._serves(name)}
        for mirror in self.mirrors.values():
            check(mirror)
        self.errors: dict[str, str] = {}

    def served_mirrors(self) -> list[Mirror]:
        """Return the current mirrors; thread-safe."""
        return list(self.mirrors.values())

    def reload(self) -> tuple[list[str], list[str]]:
        """Read the files; return the names of new and changed mirrors, and of removed ones.

        A mirror whose file is invalid keeps its last valid content.
        """
        try:
            paths = self._list()
        except ConfigurationError as error:
            self.errors = {**self.errors, "": str(error)}
            return [], []
        removed = [name for name in self.mirrors if name not in paths]
        for name in removed:
            del self.mirrors[name]
        changed, self.errors = [], {}
        for name, path in paths.items():
            if not self._serves(name):
                continue
            try:
                mirror = load_mirror(path)
                if self.mirrors.get(name) != mirror:
                    self._check(mirror)
                    self.mirrors[name] = mirror
                    changed.append(name)
            except ConfigurationError as error:
                self.errors[name] = str(error)
        return changed, removed

    def _list(self) -> dict[str, Path]:
        """Return the paths of the local files and of the built-in ones that are served."""
        if self._names and self._names <= self._builtin.keys() and not self._folder.exists():
            return dict(self._builtin)
        local = {path.stem: path for path in list_mirror_files(self._folder)}
        self._builtin = {name: path for name, path in self._builtin.items() if name not in local}
        return {**self._builtin, **local}

    def _serves(self, name: str) -> bool:
        return not self._names or name in self._names


# --- the engine

_RENEW_SECONDS = LEASE_SECONDS / 3
_WRITE_SECONDS = 0.05
"""Time per tick for long writes, which are done in steps."""

_SET_BACK = 30.0
"""A clock that goes back by more was set back; less is a normal correction."""

_REPAIR_SECONDS = 600.0
"""Seconds between two repairs of all rows of the schedule."""

_CHECK_SECONDS = 5.0
"""Seconds between two checks whether this machine can work."""

SUPERDATASET_WAIT = 3600.0
"""Seconds that superdatasets wait for the visits that are in progress or due."""


class Service:
    """The engine of the service: starts the jobs that are due, and records the finished ones.

    Superdatasets are updated once no visit of their mirrors is in progress or due. One thread at a
    time calls :meth:`tick`; the caller holds the service lock of the store.

    Parameters
    ----------
    job_context
        The paths that jobs need.
    files
        The mirrors to keep current.
    schedule, recorder
        The schedule, and the recorder of the store.
    executor
        Runs the jobs.
    workers
        Maximum number of jobs at a time.
    owner
        The name of the service in leases.
    observer
        Is called for each finished job.
    on_result
        Called with the result of each dataset.
    problems
        Returns what prevents this machine from working; no job starts meanwhile.
    clock
        Returns POSIX seconds.
    superdataset_wait
        Seconds after which superdatasets are updated even if visits are in progress.
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
        observer: Metrics,
        on_result: Callable[[Result], None] = lambda result: None,
        problems: Callable[[], list[str]] = list,
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
        self._on_result = on_result
        self._problems = problems
        self._clock = clock
        self._superdataset_wait = superdataset_wait
        self._running: dict[str, RunningJob] = {}
        self._finished: deque[RunningJob] = deque()
        self._pending_writes: deque[Iterator[None]] = deque()
        self._excluded_mirrors: set[str] = set()
        self._last_time = clock()
        self._last_renewal = self._last_lease_check = self._last_repair = time.monotonic()
        self._next_check = 0.0
        self._closed = False
        self.pause_reason = ""
        self._recorded_pause: str | None = ""
        self._has_no_workers = False
        self._excused: set[str] = set()
        self.wakeup = threading.Event()

    # --- control

    def start(self) -> None:
        """Take over the schedule: add new mirrors, make releases due.

        The leases of a service that was killed expire.
        """
        now = self._clock()
        self._log.forget(lambda row: row.task in SERVICE_TASKS)
        self._schedule.leases.limit(now + LEASE_SECONDS)
        names = [one.name for one in self._files.served_mirrors()]
        new = [name for name in names if self._schedule.task(name) is None]
        self._schedule.put([TaskRow(name, name, due=now) for name in new])
        self._schedule_writer.make_released_due(now)
        self._update_excluded_mirrors()
        self._repair_rows(now)

    def reload_mirror_files(self) -> None:
        """Apply changed mirror files; log invalid ones, and keep their last valid content."""
        known = self._files.errors
        changed, removed = self._files.reload()
        errors = self._files.errors
        for name, message in errors.items():
            if known.get(name) != message:
                log_event("mirror file invalid", message, level=logging.ERROR)
        for name in removed:
            log_event(
                "mirror removed",
                "its configuration file was removed: the mirror is no longer updated",
                mirror=name,
            )
        now = self._clock()
        for name in changed:
            log_event(
                "mirror changed",
                "its configuration file changed: the list of datasets is read now",
                mirror=name,
            )
            row = self._schedule.task(name) or TaskRow(name, name)
            self._schedule.put([replace(row, due=now, failures=0, disabled=False)])
        if removed or changed:
            self._update_excluded_mirrors()
            self._repair_rows(now)
            self.wakeup.set()
        self._log.forget(
            lambda row: (
                row.mirror in removed or (row.task == CONFIGURATION and row.mirror not in errors)
            )
        )
        for name, message in errors.items():
            self._log.record_failure(CONFIGURATION, message, name)

    def close(self) -> None:
        """Start no more jobs; finished jobs are still recorded."""
        self._closed = True

    @property
    def is_idle(self) -> bool:
        """Whether no job is running and no result remains to be recorded."""
        return not (self._running or self._finished or self._pending_writes)

    @property
    def running_count(self) -> int:
        """Number of running jobs."""
        return len(self._running)

    def make_superdatasets_due(self) -> bool:
        """Make pending superdataset updates due now; return whether there are any."""
        now = self._clock()
        late = self._pending_superdatasets(ALL_MIRRORS)
        self._schedule.put(replace(one, due=now) for one in late)
        return bool(late)

    def abandon(self) -> list[str]:
        """Release the leases of all running jobs, which stay due; return their names."""
        left = list(self._running.values())
        for running_job in left:
            running_job.future.cancel()
        self._schedule.leases.release_all((one.job.lease.name, one.job.lease.token) for one in left)
        self._running.clear()
        self._finished.clear()
        self._pending_writes.clear()
        return sorted(running_job.row.name for running_job in left)

    # --- the tick

    def tick(self) -> int:
        """Record finished jobs and start due ones; return the number of started jobs."""
        began = time.monotonic()
        self.wakeup.clear()
        now = self._read_clock()
        try:
            # first, because the rest fails on a full disk
            if began >= self._next_check:
                self._check_readiness()
            while self._finished:
                self._process_finished(now)
            self._continue_writes(began + _WRITE_SECONDS)
            self._maintain_leases(now, began)
            started = 0 if self._closed else self._start_due(now)
            self._record_pause()
            return started
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
        """Renew the leases of running jobs; periodically limit those that a wrong clock made."""
        if instant - self._last_renewal >= _RENEW_SECONDS:
            self._last_renewal = instant
            tokens = [(one.job.lease.name, one.job.lease.token) for one in self._running.values()]
            self._schedule.leases.renew(tokens, now, LEASE_SECONDS)
        if instant - self._last_lease_check >= LEASE_SECONDS:
            self._last_lease_check = instant
            self._schedule.leases.limit(now + LEASE_SECONDS)
        if instant - self._last_repair >= _REPAIR_SECONDS:
            self._last_repair = instant
            self._repair_rows(now)

    def _repair_rows(self, now: float) -> None:
        repairs = self._schedule_writer.repair_rows(self._files.served_mirrors(), now)
        self._pending_writes.append(repairs)

    def _continue_writes(self, until: float) -> None:
        """Continue long writes until a time, by at least one step so that they always finish."""
        while self._pending_writes:
            try:
                next(self._pending_writes[0])
            except StopIteration:
                self._pending_writes.popleft()
            if time.monotonic() >= until:
                return

    # --- pauses

    def _check_readiness(self) -> None:
        """Start no jobs while this machine cannot work; those that are due wait."""
        problems = self._problems()
        self._pause(f"no jobs are started: {'; '.join(problems)}" if problems else "")

    def _pause(self, reason: str) -> None:
        """Start no jobs until the next check, or continue if there is no reason."""
        self._next_check = time.monotonic() + _CHECK_SECONDS
        if reason and reason not in (self.pause_reason, self._recorded_pause):
            log_event("paused", reason, level=logging.ERROR)
        self.pause_reason = reason

    def _record_pause(self) -> None:
        """Record a pause or its end; retried at the next tick if that fails."""
        if self.pause_reason == self._recorded_pause or (
            self._has_no_workers and not self.pause_reason
        ):
            return
        # part of the record may be written before an error
        self._recorded_pause = None
        with suppress(NeuromirrorError, OSError):
            if self.pause_reason:
                self._log.record_failure(WORKERS, self.pause_reason)
            else:
                self._log.record_success(WORKERS)
            self._recorded_pause = self.pause_reason

    def _is_excused(self, name: str, job_result: JobResult) -> bool:
        """Whether a failed job runs again at once, because the failure is not its own.

        A job that also loses its next worker, or fills the disk again, may be the cause itself.
        """
        if job_result.failed:
            self._check_readiness()
            if self.pause_reason or (job_result.is_local_fault and name not in self._excused):
                return True
        self._excused.discard(name)
        return False

    # --- finished jobs

    def _process_finished(self, now: float) -> None:
        running_job = self._finished.popleft()
        try:
            job_result = collect_result(running_job)
            if self._running.get(running_job.row.name) is not running_job:
                return
            lease = running_job.job.lease
            if job_result.is_superseded or not self._schedule.leases.holds(lease.name, lease.token):
                log_event(
                    "lease lost", "another worker has taken over the task", dataset=lease.name
                )
                self._release(running_job)
            elif self._is_excused(running_job.row.name, job_result):
                self._release(running_job)
                self._excused.add(running_job.row.name)
                self._log_job(running_job, job_result, "failed", "repeated")
            elif running_job.job.kind == "listing":
                self._pending_writes.append(self._record_listing(running_job, job_result, now))
            else:
                self._record_finished(running_job, job_result, now)
                self._release(running_job)
        except BaseException:
            # retried later, after the other jobs: the disk may be full
            self._finished.append(running_job)
            raise
        for result in job_result.results:
            self._on_result(result)
        if job_result.error:
            self._on_result(Result(running_job.row.name, "error", job_result.error, "failed"))

    def _release(self, running_job: RunningJob) -> None:
        self._schedule.leases.release(running_job.job.lease.name, running_job.job.lease.token)
        self._running.pop(running_job.row.name, None)

    def _record_finished(self, running_job: RunningJob, job_result: JobResult, now: float) -> None:
        if running_job.job.kind == "superdatasets":
            if running_job.mirror != ALL_MIRRORS.name:
                self._schedule_superdatasets(ALL_MIRRORS.name, now)
            outcome = self._schedule_writer.record_superdatasets(running_job, job_result, now)
            self._log_job(running_job, job_result, outcome, "superdatasets updated")
            return
        outcome = self._schedule_writer.record_visit(running_job, job_result, now)
        self._log_job(
            running_job, job_result, outcome, "visited", self._schedule_writer.visit_id(running_job)
        )
        if any(result.versions or result.status == "ok" for result in job_result.results):
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
            problem.dataset == running_job.mirror for problem in job_result.problems
        )
        outcome = "failed" if failed else "changed" if job_result.due else "unchanged"
        due = self._schedule.waiting(now).get(running_job.mirror, 0)
        message = f"{due} to be visited" if due else ""
        self._log_job(running_job, job_result, outcome, "listed", message=message)

    def _log_job(
        self,
        running_job: RunningJob,
        job_result: JobResult,
        outcome: str,
        event: str,
        visit: str = "",
        message: str = "",
    ) -> None:
        seconds = self._last_time - running_job.started_at
        kind = running_job.job.kind
        self._observer.job_finished(kind, running_job.mirror, outcome, seconds)
        for result in job_result.results:
            self._observer.requests_sent(running_job.mirror, result.traffic)
        reported = [*job_result.results] if kind == "visit" else job_result.problems
        message = job_result.error or "; ".join(one.message for one in reported) or message
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

    # --- due tasks

    def _start_due(self, now: float) -> int:
        started = 0
        for mirror in self._files.served_mirrors():
            started += self._start_named(mirror.name, mirror, "listing", now)
        while more := self._start_visits(now):
            started += more
        # last, so that none starts before the visits that are due
        for mirror in (*self._files.served_mirrors(), ALL_MIRRORS):
            started += self._start_named(
                SUPERDATASET_PREFIX + mirror.name, mirror, "superdatasets", now
            )
        return started

    def _start_named(self, name: str, mirror: Mirror, kind: str, now: float) -> int:
        if name in self._running or not self._free_slots():
            return 0
        row = self._schedule.task(name)
        if row is None or row.due is None or row.due > now:
            return 0
        if (
            kind == "superdatasets"
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
        """Return superdataset tasks, of mirrors and ``more``, that are pending and did not fail."""
        rows = [
            self._schedule.task(SUPERDATASET_PREFIX + one.name)
            for one in (*self._files.served_mirrors(), *more)
        ]
        return [row for row in rows if row is not None and row.due is not None and not row.failures]

    def _start_visits(self, now: float) -> int:
        """Start visits, the longest due first, within the limit of workers per mirror."""
        visits = Counter(one.mirror for one in self._running.values() if one.job.kind == "visit")
        mirrors = self._files.mirrors
        most = {name: one.settings.schedule.workers for name, one in mirrors.items()}
        without = self._excluded_mirrors | {name for name in most if visits[name] >= most[name]}
        if not self._free_slots() or without.issuperset(most):
            return 0
        # the result may include rows of mirrors
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
        """Return the number of jobs that can be started; 0 during a pause."""
        return 0 if self.pause_reason else max(0, self._workers - len(self._running))

    def _has_deep_slot(self) -> bool:
        """Whether another deep visit may start: at most a quarter of the jobs are deep."""
        return sum(one.job.deep for one in self._running.values()) < max(1, self._workers // 4)

    def _start_job(
        self, row: TaskRow, mirror: Mirror, kind: str, now: float, *, deep: bool = False
    ) -> int:
        """Submit a job; return 1, or 0 if another worker holds the lease."""
        token = self._schedule.leases.claim(row.name, self._owner, now, LEASE_SECONDS)
        if token is None:
            return 0
        lease = Lease(row.name, token)
        job = job_of_task(row, kind, lease, mirror, self._workers, deep=deep)
        began = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            future = self._executor.submit(run_job, self._job_context, job)
        except (NeuromirrorError, OSError, RuntimeError) as error:
            # a missing worker is not a failure of the dataset
            self._schedule.leases.release(lease.name, lease.token)
            self._has_no_workers = True
            self._pause(f"no worker is available: {error}")
            return 0
        self._has_no_workers = False
        running_job = self._running[row.name] = RunningJob(row, job, now, began, future)
        future.add_done_callback(lambda _: self._on_job_finished(running_job))
        return 1

    def _on_job_finished(self, running_job: RunningJob) -> None:
        """Queue a finished job; called in any thread."""
        self._finished.append(running_job)
        self.wakeup.set()

    def _update_excluded_mirrors(self) -> None:
        """Exclude tasks of mirrors that are not served, and housekeeping tasks."""
        self._excluded_mirrors = {row.mirror for row in self._schedule.tasks()} - set(
            self._files.mirrors
        )
        self._excluded_mirrors.add("")
