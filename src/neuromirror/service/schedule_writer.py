"""Writing of the schedule: results of finished jobs, and when each task is due next."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from neuromirror.crawl import DatasetTask, FailureLog, Mirror, Recorder, Result
from neuromirror.crawl.recorder import LIST, SUPERDATASETS
from neuromirror.index import (
    CrawlIndex,
    LastVisit,
    Schedule,
    TaskRow,
    UnknownDatasetError,
    UnknownMirrorError,
)
from neuromirror.model import DatasetHint, DatasetRef, VisitEnded
from neuromirror.service.jobs import ALL_MIRRORS
from neuromirror.service.running_jobs import JobResult, RunningJob
from neuromirror.service.scheduling_policy import (
    JobOutcome,
    ScheduleBounds,
    classify_results,
    mirror_row_after_listing,
    repair_row,
    row_after_listing,
    row_after_visit,
)

SUPERDATASET_PREFIX = "superdatasets "
"""Prefix of the names of superdataset tasks.

The name of the mirror follows, or that of the superdataset above all mirrors. Names of datasets
and mirrors contain no space, so that they cannot collide.
"""

SUPERDATASET_SECONDS = 60.0
"""Minimum time between two updates of a mirror's superdatasets."""

_SUPERDATASET_MIN_DELAY, _SUPERDATASET_MAX_DELAY = 5.0, 3600.0
_BATCH_SIZE = 250
"""Rows per transaction: about ten milliseconds."""

_Item = TypeVar("_Item", Result, DatasetTask, str)


class ScheduleWriter:
    """Writes to the schedule the results of finished jobs, and when each task is due next.

    It is not thread-safe. Long writes are generators: each step takes about ten milliseconds, so
    that the caller can do other work in between.
    """

    def __init__(self, schedule: Schedule, recorder: Recorder) -> None:
        self._schedule = schedule
        self._recorder = recorder
        self._log = FailureLog(recorder)

    # --- mirrors

    def add_mirror(self, mirror: Mirror, now: float) -> None:
        """Add a mirror's task, due now, unless the schedule has it."""
        if self._schedule.task(mirror.name) is None:
            self._schedule.put([TaskRow(mirror.name, mirror.name, due=now)])

    def make_listing_due(self, mirror: Mirror, now: float) -> None:
        """Make a mirror's list due now, because its file changed."""
        row = self._schedule.task(mirror.name) or TaskRow(mirror.name, mirror.name)
        self._schedule.put([replace(row, due=now, failures=0, disabled=False)])

    def record_listing(
        self,
        running_job: RunningJob,
        job_result: JobResult,
        running: Mapping[str, RunningJob],
        now: float,
    ) -> Iterator[None]:
        """Record a listing step by step; the mirror's own row last, so that a crash loses nothing.

        ``running`` are the running jobs by name, current at each step.
        """
        bounds = ScheduleBounds.from_settings(running_job.job.mirror.settings.schedule)
        own = [one for one in job_result.problems if one.dataset == running_job.mirror]
        error = job_result.error or "; ".join(one.message for one in own)
        if job_result.error:
            # the job itself has recorded other failures
            self._log.record_failure(LIST, job_result.error, running_job.mirror)
        for tasks in _batches(job_result.due):
            self._update_listed(tasks, running_job, running, now, bounds)
            yield
        others = [one for one in job_result.results if ":" in one.dataset]
        if others:
            last = self._recorder.ask(lambda index: index.last_visits(running_job.mirror))
            unvisited = _UnvisitedDatasets(running_job.job.mirror.open().dataset, last, bounds)
            yield
            for results in _batches(others):
                self._update_unvisited(results, unvisited, running_job, running, now)
                yield
        row = self._schedule.task(running_job.mirror) or running_job.row
        self._schedule.put(
            [
                mirror_row_after_listing(
                    row, not error, now, now - running_job.started_at, bounds, error
                )
            ]
        )

    def _update_listed(
        self,
        tasks: Iterable[DatasetTask],
        running_job: RunningJob,
        running: Mapping[str, RunningJob],
        now: float,
        bounds: ScheduleBounds,
    ) -> None:
        rows = []
        for task in tasks:
            name, fingerprint = task.hint.dataset.name, task.hint.fingerprint
            row = self._schedule.task(name)
            if (
                row is not None
                and row.fingerprint == fingerprint
                and _was_visited_since(running_job, row, running)
            ):
                continue
            new = row_after_listing(row, task, now, bounds)
            if new != row:
                rows.append(new)
        self._schedule.put(rows)

    def _update_unvisited(
        self,
        results: Iterable[Result],
        unvisited: _UnvisitedDatasets,
        running_job: RunningJob,
        running: Mapping[str, RunningJob],
        now: float,
    ) -> None:
        """Update the rows of datasets that need no visit, or add them."""
        rows = []
        for result in results:
            row = self._schedule.task(result.dataset)
            if row is not None and _was_visited_since(running_job, row, running):
                continue
            new = unvisited.updated_row(row, result, now)
            if new is not None and new != row:
                rows.append(new)
        self._schedule.put(rows)

    # --- datasets

    def make_released_due(self, now: float) -> None:
        """Make datasets due whose hold was released since their last visit."""
        for name in self._recorder.ask(lambda index: index.released_datasets()):
            self._schedule.make_due(name, now)

    def record_visit(
        self, running_job: RunningJob, job_result: JobResult, now: float
    ) -> JobOutcome:
        """Record the outcome of a visit, and when the next one is due."""
        job, name = running_job.job, running_job.row.name
        bounds = ScheduleBounds.from_settings(job.mirror.settings.schedule)
        outcome: JobOutcome = "failed" if job_result.error else classify_results(job_result.results)
        message = job_result.error or "; ".join(one.message for one in job_result.results)
        if job_result.error and not running_job.is_recorded:
            self._record_failure(running_job, job_result.error)
            running_job.is_recorded = True
        row = self._schedule.task(name) or running_job.row
        new = row_after_visit(row, outcome, now, now - running_job.started_at, bounds, message)
        if outcome not in ("failed", "removed") and not job.deep:
            new = replace(new, deep_due=row.deep_due or new.deep_due)
        made_due = (
            row.due != running_job.row.due and running_job.started_at <= (row.due or 0.0) <= now
        )
        if made_due or row.fingerprint != running_job.row.fingerprint:
            # released in the meantime, or the list was read again and has another fingerprint
            new = replace(new, due=now, disabled=False)
        self._schedule.put([new])
        return outcome

    def _record_failure(self, running_job: RunningJob, message: str) -> None:
        """Record the failure of a worker that died and could not do so."""
        row = running_job.row
        dataset = DatasetRef(row.mirror, row.local_id, row.source_uri)
        self._recorder.record(
            VisitEnded(
                visit=f"{running_job.started_iso}-{dataset.dataset_id[:8]}",
                mirror=row.mirror,
                local_id=row.local_id,
                source_uri=row.source_uri,
                title=row.title,
                started=running_job.started_iso,
                ended=datetime.now(UTC).isoformat(timespec="seconds"),
                status="failed",
                fingerprint=row.fingerprint or "",
                pending=0,
                message=message,
            )
        )

    def visit_id(self, running_job: RunningJob) -> str:
        """Return the journal's id of a finished visit; empty if it was not journaled."""

        def last(index: CrawlIndex) -> str:
            try:
                row = next(iter(index.visits(running_job.row.name, 1)), None)
            except (UnknownDatasetError, UnknownMirrorError):
                return ""
            return row.visit if row is not None and row.ended >= running_job.started_iso else ""

        return self._recorder.ask(last)

    # --- superdatasets

    def schedule_superdatasets(self, mirror: str, now: float) -> None:
        """Make the superdataset task of a mirror, or of all mirrors, due soon."""
        name = SUPERDATASET_PREFIX + mirror
        row = self._schedule.task(name) or TaskRow(name)
        if row.due is None:
            earliest = 0.0 if row.ended is None else min(row.ended, now) + SUPERDATASET_SECONDS
            due = max(earliest, now + _SUPERDATASET_MIN_DELAY)
            self._schedule.put([replace(row, due=due)])

    def record_superdatasets(
        self, running_job: RunningJob, job_result: JobResult, now: float
    ) -> JobOutcome:
        """Record an update of superdatasets; due again if it failed or datasets changed since."""
        row = running_job.row
        error = job_result.error or "; ".join(one.message for one in job_result.problems)
        if job_result.error:
            mirror = "" if running_job.mirror == ALL_MIRRORS.name else running_job.mirror
            self._log.record_failure(SUPERDATASETS, job_result.error, mirror)
        failures = row.failures + 1 if error else 0
        due = now + SUPERDATASET_SECONDS if running_job.is_outdated else None
        if error:
            due = now + min(
                SUPERDATASET_SECONDS * 2.0 ** min(failures, 20), _SUPERDATASET_MAX_DELAY
            )
        outcome: JobOutcome = "failed" if error else "changed"
        self._schedule.put(
            [
                replace(
                    row,
                    due=due,
                    failures=failures,
                    status=outcome,
                    ended=now,
                    seconds=now - running_job.started_at,
                    message=error,
                )
            ]
        )
        return outcome

    # --- time

    def repair_rows(self, mirrors: Iterable[Mirror], now: float) -> Iterator[None]:
        """Repair rows that a wrong clock or changed settings have left with wrong times."""
        for mirror in mirrors:
            bounds = ScheduleBounds.from_settings(mirror.settings.schedule)
            wrong = [
                row.name
                for row in self._schedule.tasks(mirror.name)
                if repair_row(row, now, bounds) is not row
            ]
            yield
            for names in _batches(wrong):
                rows = map(self._schedule.task, names)
                self._schedule.put(
                    [repair_row(row, now, bounds) for row in rows if row is not None]
                )
                yield

    def shift_back(self, seconds: float) -> None:
        """Move all times back by as much as the clock was set back."""
        self._schedule.put(
            [
                replace(
                    row,
                    due=None if row.due is None else row.due - seconds,
                    deep_due=None if row.deep_due is None else row.deep_due - seconds,
                    ended=None if row.ended is None else row.ended - seconds,
                )
                for row in self._schedule.tasks()
            ]
        )


def _was_visited_since(
    running_job: RunningJob, row: TaskRow, running: Mapping[str, RunningJob]
) -> bool:
    """Whether a dataset was visited since the listing started, or is being visited now."""
    return row.name in running or (
        row.ended is not None and row.ended >= running_job.started_at and not row.failures
    )


class _UnvisitedDatasets(Struct, frozen=True):
    """Datasets that need no visit; ``last_visits`` are by local id."""

    dataset_ref: Callable[[str], DatasetRef]
    last_visits: Mapping[str, LastVisit]
    bounds: ScheduleBounds

    def updated_row(
        self, updated_row: TaskRow | None, result: Result, now: float
    ) -> TaskRow | None:
        """Return the new row of a dataset; None if it has no row and needs none."""
        local_id = result.dataset.partition(":")[2]
        last_visits = self.last_visits.get(local_id)
        if updated_row is not None and result.visit == "not_found":
            return row_after_visit(updated_row, "removed", now, 0.0, self.bounds, result.message)
        if last_visits is None or (result.status, result.message) != ("notneeded", "unchanged"):
            return None if updated_row is None else replace(updated_row, due=None)
        fingerprint = last_visits.fingerprint or None
        if updated_row is None:
            hint = DatasetHint(self.dataset_ref(local_id), fingerprint)
            return row_after_listing(
                None, DatasetTask(hint, "skip", result.message, last_visits), now, self.bounds
            )
        # another program may have visited it since the row was written
        updated_row = replace(
            updated_row, fingerprint=fingerprint, due=None, failures=0, disabled=False
        )
        return repair_row(updated_row, now, self.bounds)


def _batches(items: Sequence[_Item]) -> Iterator[list[_Item]]:
    """Yield the items in batches."""
    rest = iter(items)
    while batch := list(islice(rest, _BATCH_SIZE)):
        yield batch
