"""When what is done next: arithmetic over the rows of the schedule, without a clock of its own.

Where upstream's overview tells that a dataset changed (its fingerprint), the dataset waits for
that. Where only a visit can tell, the time between two visits falls to a quarter after a change
and grows by a fifth after none, so that about one visit in nine of a dataset that goes on changing
finds something, and one that rests is left in peace in time: docs/scale.md compares. Every span is
spread by ten per cent either way, so that what was done at one time does not come back at one time.

``now`` is POSIX seconds everywhere, and may jump: what a clock that was ahead put off too far is
brought back by :func:`mended`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

from neuromirror.crawl import RELEASED, DatasetTask, Result, ScheduleSettings
from neuromirror.index import TaskRow

JobOutcome = Literal["changed", "unchanged", "waiting", "held", "failed", "gone"]

MAX_FAILURES = 3
"""So many in a row, and a dataset is disabled."""

_HOUR, _DAY = 3600.0, 86_400.0
_SHORTER, _LONGER = 1 / 4, 1.2
_SETTLING = 1.5
_FAILURE_BACKOFF = 12.0
"""How much longer is waited after the second failure than after the first."""
_LIST_LATEST = 4 * _HOUR
"""A list that cannot be read is tried again after so long at the latest: it is one request."""
_MAX_JITTER = 1.1


@dataclass(frozen=True, slots=True)
class ScheduleBounds:
    """A mirror's ``[schedule]`` in seconds; ``deep`` 0 is never.

    ``soon`` is when a dataset is looked at again that was left to settle, or failed once.
    """

    listing: float
    least: float
    most: float
    deep: float

    @classmethod
    def from_settings(cls, settings: ScheduleSettings) -> Self:
        """The bounds of a mirror's settings."""
        least = settings.min_hours * _HOUR
        return cls(
            listing=settings.list_minutes * 60,
            least=least,
            most=max(least, settings.max_days * _DAY),
            deep=settings.deep_days * _DAY,
        )

    @property
    def soon(self) -> float:
        """An hour, where ``least`` is six."""
        return self.least / 6


def classify_results(results: Sequence[Result]) -> JobOutcome:
    """How the visit of one dataset went; no results are a visit that found nothing to do.

    A visit that minted versions and failed at something else changed: it is worth coming again.
    """
    visits = {one.visit for one in results}
    if "not_found" in visits:
        return "gone"
    if any(one.status == "error" and not one.versions for one in results):
        return "failed"
    if "held" in visits:
        return "held"
    if any(one.versions or (one.visit == "full" and one.status == "ok") for one in results):
        return "changed"
    return "waiting" if "waiting" in visits else "unchanged"


def jitter(name: str, round: int) -> float:
    """A factor from 0.9 to 1.1: another one for each name and round, and the same each time."""
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
    """A dataset's row once a visit has ended that took ``seconds``.

    A visit that began when ``deep_due`` had come was a deep one. One that failed is made again
    sooner, and as deep. After three failures in a row the row is disabled; its ``due`` is then
    when it is tried once more (see :func:`mended`), whatever the overview says till then.
    """
    has_fingerprint = row.fingerprint is not None
    ended = replace(row, status=outcome, ended=now, seconds=seconds, message=message)
    if outcome == "failed":
        return _row_after_failure(ended, now, bounds)
    ended = replace(
        ended, failures=0, disabled=False, deep_due=_next_deep(row, now, seconds, bounds)
    )
    if outcome == "gone":
        return replace(ended, due=None, deep_due=None)
    if outcome == "waiting":
        longer = row.spacing * _SETTLING if row.status == "waiting" else 0.0
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
        due = _due_in(bounds.most, row, now)
        if row.deep_due is not None and row.deep_due > now:
            due = min(due, row.deep_due)
    else:
        due = _due_in(min(bounds.soon * _FAILURE_BACKOFF ** (failures - 1), bounds.most), row, now)
    # or a deep visit that failed would be due at once
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
    """Anywhere in the first period: those of a first crawl never come on one day."""
    return now + bounds.deep * (0.1 + 0.9 * _hash_fraction(name)) if bounds.deep else None


def _due_in(seconds: float, row: TaskRow, now: float) -> float:
    return now + seconds * jitter(row.name, int(now))


def _clamp(least: float, value: float, most: float) -> float:
    return max(least, min(value, most))


def row_after_listing(
    row: TaskRow | None, task: DatasetTask, now: float, bounds: ScheduleBounds
) -> TaskRow:
    """A dataset's row once the overview has been read; ``row`` None: it is new to the schedule.

    What the overview says anew, and what an operator released, is visited now, and a row that was
    disabled is enabled by it. What is to be visited although the overview says nothing new (files
    wait for a checksum, only a visit can tell) keeps its pace.
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
            # a schedule that was lost, or a first service on an old store: no stampede
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
    """Whether the overview says of a dataset what it did not say when that was put on the row."""
    hint, last = task.hint, task.last_visit
    if hint.title != row.title:
        return True
    if hint.fingerprint is None:
        return False
    if row.fingerprint is None:
        # an overview that begins to tell: all at once is no news, and each has its time already
        return row.due is None
    if hint.fingerprint != row.fingerprint:
        return True
    # it changed while it was being visited; a visit that failed is another matter
    seen = last is None or last.fingerprint == hint.fingerprint
    return not seen and row.status in ("changed", "unchanged")


def repair_row(row: TaskRow, now: float, bounds: ScheduleBounds) -> TaskRow:
    """The same row but where time has gone over it, to be asked for all rows now and then.

    A disabled dataset is enabled again for one try when the time for that has come. What lies
    further ahead than the bounds allow was put there by a clock that was ahead, or by bounds that
    were changed since, and is brought back.
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
    """A mirror's row once its list was read, or could not be; it is never disabled."""
    failures = 0 if ok else row.failures + 1
    latest = max(bounds.listing, _LIST_LATEST)
    # the exponent has its bound for the sake of an archive that is away for months
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
