"""The policies that are compared: the service's own, and others over the same rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from neuromirror.crawl import Task
from neuromirror.index import TaskRow
from neuromirror.service import policy
from neuromirror.service.policy import Bounds, Outcome, spread

_DAY = 86_400.0


class Policy(Protocol):
    """When what is done; see :mod:`neuromirror.service.policy`, which ``after`` is of.

    ``believes``: upstream's overview decides, where it tells.
    """

    name: str
    believes: bool

    def listed(self, row: TaskRow | None, task: Task, now: float, bounds: Bounds) -> TaskRow:
        """A row once the overview was read."""
        ...

    def after(
        self, row: TaskRow, outcome: Outcome, now: float, seconds: float, bounds: Bounds
    ) -> TaskRow:
        """A row once a visit is over."""
        ...


class Ours:
    """The service's own; not ``believes``: as if no overview ever told."""

    def __init__(self, *, believes: bool = True) -> None:
        self.believes = believes
        self.name = "neuromirror" if believes else "neuromirror, no overview"

    def listed(self, row: TaskRow | None, task: Task, now: float, bounds: Bounds) -> TaskRow:
        return policy.listed(row, task, now, bounds)

    def after(
        self, row: TaskRow, outcome: Outcome, now: float, seconds: float, bounds: Bounds
    ) -> TaskRow:
        return policy.after(row, outcome, now, seconds, bounds)


class Fixed:
    """Every dataset once a day, whatever is said or found."""

    name = "fixed, 24 h"
    believes = False

    def listed(self, row: TaskRow | None, task: Task, now: float, bounds: Bounds) -> TaskRow:
        return row or _new(task, now)

    def after(
        self, row: TaskRow, outcome: Outcome, now: float, seconds: float, bounds: Bounds
    ) -> TaskRow:
        due = now + _DAY * spread(row.name, int(now))
        return replace(row, due=due, status=outcome, ended=now)


class Exponential:
    """As Software Heritage's recurring tasks: half the time after a change, twice after none.

    Within the mirror's bounds, beginning with a day; after a failure an hour, three times (its
    ``num_retries`` and ``retry_delay``), and then as after nothing new.
    """

    name = "exponential"
    believes = False

    def listed(self, row: TaskRow | None, task: Task, now: float, bounds: Bounds) -> TaskRow:
        return row or replace(_new(task, now), spacing=_DAY)

    def after(
        self, row: TaskRow, outcome: Outcome, now: float, seconds: float, bounds: Bounds
    ) -> TaskRow:
        if outcome == "failed" and row.failures < 3:
            due = now + 3600 * spread(row.name, int(now))
            return replace(row, due=due, failures=row.failures + 1, status=outcome, ended=now)
        spacing = row.spacing * (0.5 if outcome in ("changed", "waiting") else 2.0)
        spacing = max(bounds.least, min(spacing, bounds.most))
        due = now + spacing * spread(row.name, int(now))
        return replace(row, due=due, spacing=spacing, failures=0, status=outcome, ended=now)


def _new(task: Task, now: float) -> TaskRow:
    dataset = task.hint.dataset
    return TaskRow(dataset.name, dataset.mirror, dataset.local_id, dataset.source_uri, due=now)


POLICIES: tuple[Policy, ...] = (Fixed(), Exponential(), Ours(believes=False), Ours())
