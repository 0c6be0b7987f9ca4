"""When each task is due next, and the writing of the schedule after finished jobs.

If the mirror's list shows changes (a fingerprint per dataset), a dataset is visited when its
fingerprint changes. If only a visit can show them, the interval between visits falls to a quarter
after a change and grows by a fifth after a visit without one: about one visit in nine of an active
dataset finds a change, and an inactive one is visited less and less (compared in
docs/explanation/scale.md). Every interval is jittered by ±10 %, so that tasks do not synchronize.

``now`` is in POSIX seconds and may jump: :func:`repair_row` corrects times that a clock ahead of
time has set too late.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal, Self, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from neuromirror.config.mirror_files import ScheduleSettings
from neuromirror.crawl import (
    RELEASED,
    DatasetTask,
    FailureLog,
    Mirror,
    Recorder,
    Result,
    open_recorder,
    release_hold,
)
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
from neuromirror.service.jobs import ALL_MIRRORS, JobResult, RunningJob
from neuromirror.store import Store

# --- rules

JobOutcome = Literal["changed", "unchanged", "settling", "held", "failed", "removed"]

MAX_FAILURES = 3
"""Consecutive failures after which a dataset is disabled."""

_HOUR, _DAY = 3600.0, 86_400.0
_SHORTER, _LONGER = 1 / 4, 1.2
_SETTLING = 1.5
_FAILURE_BACKOFF = 12.0
"""Factor between the delays after the first and the second failure."""
_LIST_LATEST = 4 * _HOUR
"""Maximum delay before an unreadable list is retried; it costs one request."""
_MAX_JITTER = 1.1


class ScheduleBounds(Struct, frozen=True):
    """The intervals of a mirror's ``[schedule]`` settings, in seconds.

    ``listing`` is the interval between readings of the archive's list of datasets; ``least`` and
    ``most`` limit the interval between visits of a dataset; after ``deep`` seconds each dataset is
    visited even if the list shows no change (0: never). ``soon`` is the delay after a visit that
    failed once or let a dataset settle.
    """

    listing: float
    least: float
    most: float
    deep: float

    @classmethod
    def from_settings(cls, settings: ScheduleSettings) -> Self:
        """Return the bounds that a mirror's settings define."""
        least = settings.min_hours * _HOUR
        return cls(
            listing=settings.list_minutes * 60,
            least=least,
            most=max(least, settings.max_days * _DAY),
            deep=settings.deep_days * _DAY,
        )

    @property
    def soon(self) -> float:
        """A sixth of ``least``: one hour by default."""
        return self.least / 6


def classify_results(results: Sequence[Result]) -> JobOutcome:
    """Return the outcome of one dataset's visit: ``changed``, ``unchanged``, ``failed`` ….

    A visit without results counts as unchanged. A visit that minted versions and then failed counts
    as changed: the dataset is active.
    """
    visits = {result.visit for result in results}
    if "not_found" in visits:
        return "removed"
    if any(result.status == "error" and not result.versions for result in results):
        return "failed"
    if "held" in visits:
        return "held"
    if any(one.versions or (one.visit == "full" and one.status == "ok") for one in results):
        return "changed"
    return "settling" if "waiting" in visits else "unchanged"


def jitter(name: str, round: int) -> float:
    """Return a factor from 0.9 to 1.1 for an interval, so that tasks do not become due at one time.

    It is determined by the name of the task and ``round``, any number that differs from one call to
    the next.
    """
    return 0.9 + 0.2 * _hash_fraction(f"{name} {round}")


def _hash_fraction(text: str) -> float:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=7).digest()
    return int.from_bytes(digest, "big") / (1 << 56)


def row_after_visit(
    row: TaskRow,
    outcome: JobOutcome,
    now: float,
    seconds: float,
    bounds: ScheduleBounds,
    message: str = "",
) -> TaskRow:
    """Return a dataset's row after a visit that took ``seconds``.

    A visit that started after ``deep_due`` was a deep one. A failed visit is retried sooner, and is
    deep again. After three consecutive failures, the dataset is tried once a day (see
    :func:`repair_row`), or earlier if the mirror's list shows a change.

    Parameters
    ----------
    row
        The row before.
    outcome
        The outcome of the visit, from :func:`classify_results`.
    now
        The end of the visit, in POSIX seconds.
    seconds
        The duration of the visit.
    bounds
        The intervals of the mirror.
    message
        The message of the visit.
    """
    has_fingerprint = row.fingerprint is not None
    ended = replace(row, status=outcome, ended=now, seconds=seconds, message=message)
    if outcome == "failed":
        return _row_after_failure(ended, now, bounds)
    ended = replace(
        ended, failures=0, disabled=False, deep_due=_next_deep(row, now, seconds, bounds)
    )
    if outcome == "removed":
        return replace(ended, due=None, deep_due=None)
    if outcome == "settling":
        longer = row.spacing * _SETTLING if row.status == "settling" else 0.0
        spacing = _clamp(bounds.soon, longer, bounds.least)
        return replace(ended, spacing=spacing, due=_due_in(spacing, row, now))
    factor = _SHORTER if outcome == "changed" else _LONGER
    spacing = _clamp(bounds.least, row.spacing * factor, bounds.most)
    return replace(
        ended, spacing=spacing, due=None if has_fingerprint else _due_in(spacing, row, now)
    )


def _row_after_failure(row: TaskRow, now: float, bounds: ScheduleBounds) -> TaskRow:
    failures = row.failures + 1
    disabled = failures >= MAX_FAILURES
    if disabled:
        due = _due_in(min(_DAY, bounds.most), row, now)
        if row.deep_due is not None and row.deep_due > now:
            due = min(due, row.deep_due)
    else:
        due = _due_in(min(bounds.soon * _FAILURE_BACKOFF ** (failures - 1), bounds.most), row, now)
    # otherwise a failed deep visit would be due immediately
    deep_due = None if row.deep_due is None else max(row.deep_due, due)
    return replace(row, failures=failures, disabled=disabled, due=due, deep_due=deep_due)


def _next_deep(row: TaskRow, now: float, seconds: float, bounds: ScheduleBounds) -> float | None:
    if not bounds.deep:
        return None
    if row.deep_due is None:
        return _first_deep(row.name, now, bounds)
    if row.deep_due > now - seconds:
        return row.deep_due
    return now + bounds.deep * jitter(row.name, int(now))


def _first_deep(name: str, now: float, bounds: ScheduleBounds) -> float | None:
    """Return a time within the first period, so that the first deep visits are spread over it."""
    return now + bounds.deep * (0.1 + 0.9 * _hash_fraction(name)) if bounds.deep else None


def _due_in(seconds: float, row: TaskRow, now: float) -> float:
    return now + seconds * jitter(row.name, int(now))


def _clamp(least: float, value: float, most: float) -> float:
    return max(least, min(value, most))


def row_after_listing(
    row: TaskRow | None, task: DatasetTask, now: float, bounds: ScheduleBounds
) -> TaskRow:
    """Return a dataset's row after its mirror's list was read; ``row`` is None for a new dataset.

    A dataset with a new fingerprint or title, or one that an operator released, is visited now and
    enabled if it was disabled. A dataset that needs a visit for another reason (files without a
    checksum, a list without fingerprints) keeps its interval.

    Parameters
    ----------
    row
        The row before.
    task
        The decision of the plan about the dataset.
    now
        The time in POSIX seconds.
    bounds
        The intervals of the mirror.
    """
    hint = task.hint
    if row is None:
        return _new_row(task, now, bounds)
    row = repair_row(row, now, bounds)
    has_news = _has_news(row, task)
    row = replace(
        row, source_uri=hint.dataset.source_uri, fingerprint=hint.fingerprint, title=hint.title
    )
    if row.deep_due is None and task.action in ("visit", "skip"):
        row = replace(row, deep_due=_first_deep(row.name, now, bounds))
    if task.action in ("held", "unavailable"):
        return replace(row, due=None, failures=0, disabled=False)
    if has_news or task.reason == RELEASED:
        return replace(row, due=now, failures=0, disabled=False)
    if task.action == "skip" or row.due is not None:
        return row
    if row.ended is None:
        return replace(row, due=now)
    pace = row.spacing if row.status in ("changed", "unchanged") else bounds.soon
    return replace(row, due=max(now, min(row.ended, now) + pace))


def _new_row(task: DatasetTask, now: float, bounds: ScheduleBounds) -> TaskRow:
    dataset = task.hint.dataset
    due: float | None = None
    if task.action == "visit":
        due = now
        if (
            task.last_visit is not None
            and task.hint.fingerprint is None
            and task.reason != RELEASED
        ):
            # a lost schedule, or the first service on an old store: spread the visits
            due += bounds.least * _hash_fraction(dataset.name)
    deep_due = _first_deep(dataset.name, now, bounds)
    return TaskRow(
        name=dataset.name,
        mirror=dataset.mirror,
        local_id=dataset.local_id,
        source_uri=dataset.source_uri,
        fingerprint=task.hint.fingerprint,
        title=task.hint.title,
        due=due,
        deep_due=deep_due if task.action in ("visit", "skip") else None,
    )


def _has_news(row: TaskRow, task: DatasetTask) -> bool:
    """Whether the list shows a change since the row was written."""
    hint, last = task.hint, task.last_visit
    if hint.title != row.title:
        return True
    if hint.fingerprint is None:
        return False
    if row.fingerprint is None:
        # the list has fingerprints for the first time: that is no change
        return row.due is None
    if hint.fingerprint != row.fingerprint:
        return True
    # it changed during the visit; failed visits have their own delay
    seen = last is None or last.fingerprint == hint.fingerprint
    return not seen and row.status in ("changed", "unchanged")


def repair_row(row: TaskRow, now: float, bounds: ScheduleBounds) -> TaskRow:
    """Return the row with times that are plausible now; called for all rows periodically.

    A disabled dataset is enabled for one attempt once that is due. Times beyond the bounds, set by
    a wrong clock or under other settings, are moved to the bounds.
    """
    due, deep_due = row.due, row.deep_due
    if due is not None:
        latest = bounds.most if row.local_id else _list_latest(row, bounds)
        due = min(due, now + latest * _MAX_JITTER)
    if deep_due is not None:
        deep_due = min(deep_due, now + bounds.deep * _MAX_JITTER) if bounds.deep else None
    if row.disabled and due is not None and due <= now:
        row = replace(row, disabled=False, failures=MAX_FAILURES - 1)
    return (
        row
        if (due, deep_due) == (row.due, row.deep_due)
        else replace(row, due=due, deep_due=deep_due)
    )


def _list_latest(row: TaskRow, bounds: ScheduleBounds) -> float:
    """Return the maximum delay before a mirror's list is read again."""
    return max(bounds.listing, _LIST_LATEST) if row.failures else bounds.listing


def mirror_row_after_listing(
    row: TaskRow, ok: bool, now: float, seconds: float, bounds: ScheduleBounds, message: str = ""
) -> TaskRow:
    """Return the schedule row of a mirror after its list of datasets was requested.

    Failures in succession double the time to the next request, up to a limit; unlike a dataset, a
    mirror is never disabled.

    Parameters
    ----------
    row
        The row before.
    ok
        Whether the request succeeded.
    now
        The time in POSIX seconds.
    seconds
        The duration of the request.
    bounds
        The intervals of the mirror.
    message
        The error, if it failed.
    """
    row = replace(row, failures=0 if ok else row.failures + 1)
    # the exponent is bounded: an archive may be unavailable for months
    spacing = min(bounds.listing * 2.0 ** min(row.failures, 20), _list_latest(row, bounds))
    return replace(
        row,
        spacing=spacing,
        due=_due_in(spacing, row, now),
        disabled=False,
        status="unchanged" if ok else "failed",
        ended=now,
        seconds=seconds,
        message=message,
    )


# --- writing of the schedule

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
        own = [problem for problem in job_result.problems if problem.dataset == running_job.mirror]
        error = job_result.error or "; ".join(one.message for one in own)
        if job_result.error:
            # the job itself has recorded other failures
            self._log.record_failure(LIST, job_result.error, running_job.mirror)

        def is_visited(row: TaskRow) -> bool:
            """Whether it was visited since the listing started, or is being visited now."""
            return row.name in running or (
                row.ended is not None and row.ended >= running_job.started_at and not row.failures
            )

        for tasks in _batches(job_result.due):
            rows = []
            for task in tasks:
                row = self._schedule.task(task.hint.dataset.name)
                is_same = row is not None and row.fingerprint == task.hint.fingerprint
                if row is None or not (is_same and is_visited(row)):
                    rows.append((row, row_after_listing(row, task, now, bounds)))
            self._schedule.put(new for row, new in rows if new != row)
            yield
        others = [one for one in job_result.results if ":" in one.dataset]
        if others:
            last = self._recorder.ask(lambda index: index.crawl.last_visits(running_job.mirror))
            dataset = running_job.job.mirror.open().dataset
            yield
            for results in _batches(others):
                changes: list[tuple[TaskRow | None, TaskRow | None]] = []
                for result in results:
                    row = self._schedule.task(result.dataset)
                    if row is None or not is_visited(row):
                        local_id = result.dataset.partition(":")[2]
                        ref = partial(dataset, local_id)
                        new = _row_without_visit(row, result, ref, last.get(local_id), now, bounds)
                        changes.append((row, new))
                self._schedule.put(new for row, new in changes if new is not None and new != row)
                yield
        row = self._schedule.task(running_job.mirror) or running_job.row
        self._schedule.put(
            [
                mirror_row_after_listing(
                    row, not error, now, now - running_job.started_at, bounds, error
                )
            ]
        )

    # --- datasets

    def make_released_due(self, now: float) -> None:
        """Make datasets due whose hold was released since their last visit."""
        for name in self._recorder.ask(lambda index: index.crawl.released_datasets()):
            self._schedule.make_due(name, now)

    def record_visit(
        self, running_job: RunningJob, job_result: JobResult, now: float
    ) -> JobOutcome:
        """Record the outcome of a visit, and when the next one is due."""
        job, name = running_job.job, running_job.row.name
        bounds = ScheduleBounds.from_settings(job.mirror.settings.schedule)
        outcome: JobOutcome = "failed" if job_result.error else classify_results(job_result.results)
        message = job_result.error or "; ".join(result.message for result in job_result.results)
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
                row = next(iter(index.crawl.visits(running_job.row.name, 1)), None)
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
        error = job_result.error or "; ".join(problem.message for problem in job_result.problems)
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


def _row_without_visit(
    row: TaskRow | None,
    result: Result,
    dataset: Callable[[], DatasetRef],
    last: LastVisit | None,
    now: float,
    bounds: ScheduleBounds,
) -> TaskRow | None:
    """Return the new row of a dataset that needs no visit; None if it has none and needs none."""
    if row is not None and result.visit == "not_found":
        return row_after_visit(row, "removed", now, 0.0, bounds, result.message)
    if last is None or (result.status, result.message) != ("notneeded", "unchanged"):
        return None if row is None else replace(row, due=None)
    fingerprint = last.fingerprint or None
    if row is None:
        hint = DatasetHint(dataset(), fingerprint)
        return row_after_listing(None, DatasetTask(hint, "skip", result.message, last), now, bounds)
    # another program may have visited it since the row was written
    row = replace(row, fingerprint=fingerprint, due=None, failures=0, disabled=False)
    return repair_row(row, now, bounds)


def _batches(items: Sequence[_Item]) -> Iterator[list[_Item]]:
    """Yield the items in batches."""
    rest = iter(items)
    while batch := list(islice(rest, _BATCH_SIZE)):
        yield batch


# --- release of holds


def release_and_make_due(store: Store, index_path: Path, hold: str) -> str:
    """Release a hold and make its dataset due, for the running or the next service.

    Parameters
    ----------
    store, index_path
        The store and its index.
    hold
        The dataset, or the id of the hold or its first digits.

    Returns
    -------
    str
        The name of the dataset.

    Raises
    ------
    ConfigurationError
        If ``hold`` names no open hold, or several.
    """
    with open_recorder(store, index_path) as recorder:
        dataset = release_hold(recorder, hold)
    if store.schedule_path.exists():
        with Schedule.open(store.schedule_path) as schedule:
            schedule.make_due(dataset, time.time())
    return dataset
