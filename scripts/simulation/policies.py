"""The compared policies: the service's own, and others that use the same rows."""

from __future__ import annotations

from typing import Protocol

from msgspec.structs import replace

from neuromirror.crawl import DatasetTask
from neuromirror.index import TaskRow
from neuromirror.service import scheduling_policy
from neuromirror.service.scheduling_policy import JobOutcome, ScheduleBounds, jitter

_DAY = 86_400.0


class Policy(Protocol):
    """A scheduling policy; see :mod:`neuromirror.service.scheduling_policy`.

    ``uses_fingerprints`` is whether upstream's overview is used, if it reports changes.
    """

    name: str
    uses_fingerprints: bool

    def row_after_listing(
        self, row: TaskRow | None, task: DatasetTask, now: float, bounds: ScheduleBounds
    ) -> TaskRow:
        """Return the row of a dataset after the overview was read."""
        ...

    def row_after_visit(
        self, row: TaskRow, outcome: JobOutcome, now: float, seconds: float, bounds: ScheduleBounds
    ) -> TaskRow:
        """Return the row of a dataset after a visit."""
        ...


class ServicePolicy:
    """The service's own policy; without ``uses_fingerprints`` no overview reports changes."""

    def __init__(self, *, uses_fingerprints: bool = True) -> None:
        self.uses_fingerprints = uses_fingerprints
        self.name = "neuromirror" if uses_fingerprints else "neuromirror, no overview"

    def row_after_listing(
        self, row: TaskRow | None, task: DatasetTask, now: float, bounds: ScheduleBounds
    ) -> TaskRow:
        return scheduling_policy.row_after_listing(row, task, now, bounds)

    def row_after_visit(
        self, row: TaskRow, outcome: JobOutcome, now: float, seconds: float, bounds: ScheduleBounds
    ) -> TaskRow:
        return scheduling_policy.row_after_visit(row, outcome, now, seconds, bounds)


class Fixed:
    """Visit every dataset once per day."""

    name = "fixed, 24 h"
    uses_fingerprints = False

    def row_after_listing(
        self, row: TaskRow | None, task: DatasetTask, now: float, bounds: ScheduleBounds
    ) -> TaskRow:
        return row or _new(task, now)

    def row_after_visit(
        self, row: TaskRow, outcome: JobOutcome, now: float, seconds: float, bounds: ScheduleBounds
    ) -> TaskRow:
        due = now + _DAY * jitter(row.name, int(now))
        return replace(row, due=due, status=outcome, ended=now)


class Exponential:
    """The policy of Software Heritage's recurring tasks: half the time after a change, else twice.

    Within the mirror's bounds, starting with a day; after a failure an hour, three times (its
    ``num_retries`` and ``retry_delay``), and then as after a visit without changes.
    """

    name = "exponential"
    uses_fingerprints = False

    def row_after_listing(
        self, row: TaskRow | None, task: DatasetTask, now: float, bounds: ScheduleBounds
    ) -> TaskRow:
        return row or replace(_new(task, now), spacing=_DAY)

    def row_after_visit(
        self, row: TaskRow, outcome: JobOutcome, now: float, seconds: float, bounds: ScheduleBounds
    ) -> TaskRow:
        if outcome == "failed" and row.failures < 3:
            due = now + 3600 * jitter(row.name, int(now))
            return replace(row, due=due, failures=row.failures + 1, status=outcome, ended=now)
        spacing = row.spacing * (0.5 if outcome in ("changed", "settling") else 2.0)
        spacing = max(bounds.least, min(spacing, bounds.most))
        due = now + spacing * jitter(row.name, int(now))
        return replace(row, due=due, spacing=spacing, failures=0, status=outcome, ended=now)


def _new(task: DatasetTask, now: float) -> TaskRow:
    dataset = task.hint.dataset
    return TaskRow(dataset.name, dataset.mirror, dataset.local_id, dataset.source_uri, due=now)


POLICIES: tuple[Policy, ...] = (
    Fixed(),
    Exponential(),
    ServicePolicy(uses_fingerprints=False),
    ServicePolicy(),
)
