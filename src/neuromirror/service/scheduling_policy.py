"""Scheduling policy: pure functions from a row of the schedule to the next one.

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
from collections.abc import Sequence
from typing import Literal, Self

from msgspec import Struct
from msgspec.structs import replace

from neuromirror.crawl import RELEASED, DatasetTask, Result, ScheduleSettings
from neuromirror.index import TaskRow

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
    visits = {one.visit for one in results}
    if "not_found" in visits:
        return "removed"
    if any(one.status == "error" and not one.versions for one in results):
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
        latest = bounds.most if row.local_id else max(bounds.listing, _LIST_LATEST)
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
    failures = 0 if ok else row.failures + 1
    latest = max(bounds.listing, _LIST_LATEST)
    # the exponent is bounded: an archive may be unavailable for months
    spacing = min(bounds.listing * 2.0 ** min(failures, 20), latest)
    return replace(
        row,
        spacing=spacing,
        due=_due_in(spacing, row, now),
        failures=failures,
        disabled=False,
        status="unchanged" if ok else "failed",
        ended=now,
        seconds=seconds,
        message=message,
    )
