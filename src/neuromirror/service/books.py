"""What a service writes of jobs that are over: when each task is due next, and how it fared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from typing import TypeVar

from neuromirror.crawl import FailureLog, Mirror, Recorder, Result, Task
from neuromirror.crawl.failures import LIST, SUPERDATASETS
from neuromirror.index import Index, LastVisit, Schedule, TaskRow, UnknownDataset, UnknownMirror
from neuromirror.model import DatasetHint, DatasetRef, VisitEnded
from neuromirror.service.errands import Errand, Fared
from neuromirror.service.jobs import TOP
from neuromirror.service.policy import (
    Bounds,
    Outcome,
    after,
    after_list,
    listed,
    mended,
    outcome_of,
)

GROUP = "group "
"""What the name of the task begins with that brings on a mirror's super-datasets; the mirror's
name follows, or that of the one above all mirrors. No dataset has such a name, and neither has a
mirror."""

GROUP_SECONDS = 60.0
"""The super-datasets of a mirror are brought on at most this often."""

_GROUP_SOONEST, _GROUP_LATEST = 5.0, 3600.0
_AT_A_TIME = 250
"""Rows that are written in one go: some ten milliseconds."""

_Item = TypeVar("_Item", Result, Task, str)


class Books:
    """Writes the schedule; one thread uses it.

    What may be much comes as an iterator: each step takes some ten milliseconds, and the caller
    does something else between two.
    """

    def __init__(self, schedule: Schedule, recorder: Recorder) -> None:
        self._schedule = schedule
        self._recorder = recorder
        self._log = FailureLog(recorder)

    # --- mirrors

    def introduce(self, mirror: Mirror, now: float) -> None:
        """Makes sure that a mirror's list is read some time."""
        if self._schedule.task(mirror.name) is None:
            self._schedule.put([TaskRow(mirror.name, mirror.name, due=now)])

    def changed(self, mirror: Mirror, now: float) -> None:
        """A mirror's file says something else: its list is read again now."""
        row = self._schedule.task(mirror.name) or TaskRow(mirror.name, mirror.name)
        self._schedule.put([replace(row, due=now, failures=0, disabled=False)])

    def list_ended(
        self, errand: Errand, how: Fared, busy: Mapping[str, Errand], now: float
    ) -> Iterator[None]:
        """Writes what an overview said; the mirror's own row last, so that none of it is lost.

        ``busy`` are the jobs under way by name, as they are at each step.
        """
        bounds = Bounds.of(errand.job.mirror.settings.schedule)
        own = [one for one in how.problems if one.dataset == errand.mirror]
        broken = how.broken or "; ".join(one.message for one in own)
        if how.broken:
            # other failures the job has recorded itself
            self._log.failed(LIST, how.broken, errand.mirror)
        for tasks in _pieces(how.due):
            self._put_listed(tasks, errand, busy, now, bounds)
            yield
        others = [one for one in how.results if ":" in one.dataset]
        if others:
            last = self._recorder.ask(lambda index: index.hints(errand.mirror))
            standing = _Standing(errand.job.mirror.open().dataset, last, bounds)
            yield
            for results in _pieces(others):
                self._put_standing(results, standing, errand, busy, now)
                yield
        row = self._schedule.task(errand.mirror) or errand.row
        self._schedule.put([after_list(row, not broken, now, now - errand.since, bounds, broken)])

    def _put_listed(
        self,
        tasks: Iterable[Task],
        errand: Errand,
        busy: Mapping[str, Errand],
        now: float,
        bounds: Bounds,
    ) -> None:
        rows = []
        for task in tasks:
            name, fingerprint = task.hint.dataset.name, task.hint.fingerprint
            row = self._schedule.task(name)
            if row is not None and row.fingerprint == fingerprint and _since(errand, row, busy):
                continue
            new = listed(row, task, now, bounds)
            if new != row:
                rows.append(new)
        self._schedule.put(rows)

    def _put_standing(
        self,
        results: Iterable[Result],
        standing: _Standing,
        errand: Errand,
        busy: Mapping[str, Errand],
        now: float,
    ) -> None:
        """Of datasets that are not to be visited: no longer due, or new to the schedule."""
        rows = []
        for result in results:
            row = self._schedule.task(result.dataset)
            if row is not None and _since(errand, row, busy):
                continue
            new = standing.row(row, result, now)
            if new is not None and new != row:
                rows.append(new)
        self._schedule.put(rows)

    # --- datasets

    def make_released_due(self, now: float) -> None:
        """Makes datasets due that were not visited since a hold on them was released."""
        for name in self._recorder.ask(lambda index: index.released()):
            self._schedule.make_due(name, now)

    def visit_ended(self, errand: Errand, how: Fared, now: float) -> Outcome:
        """Writes how a visit went, and when the next one is due."""
        job, name = errand.job, errand.row.name
        bounds = Bounds.of(job.mirror.settings.schedule)
        outcome: Outcome = "failed" if how.broken else outcome_of(how.results)
        message = how.broken or "; ".join(one.message for one in how.results)
        if how.broken and not errand.told:
            self._record_failure(errand, how.broken)
            errand.told = True
        row = self._schedule.task(name) or errand.row
        new = after(row, outcome, now, now - errand.since, bounds, message)
        if outcome not in ("failed", "gone") and not job.deep:
            new = replace(new, deep_due=row.deep_due or new.deep_due)
        made_due = row.due != errand.row.due and errand.since <= (row.due or 0.0) <= now
        if made_due or row.fingerprint != errand.row.fingerprint:
            # released meanwhile, or the overview was read, and says yet another thing
            new = replace(new, due=now, disabled=False)
        self._schedule.put([new])
        return outcome

    def _record_failure(self, errand: Errand, message: str) -> None:
        """A worker that died could not say so itself."""
        row = errand.row
        dataset = DatasetRef(row.mirror, row.local_id, row.source_uri)
        self._recorder.record(
            VisitEnded(
                visit=f"{errand.began}-{dataset.dataset_id[:8]}",
                mirror=row.mirror,
                local_id=row.local_id,
                source_uri=row.source_uri,
                title=row.title,
                started=errand.began,
                ended=datetime.now(UTC).isoformat(timespec="seconds"),
                status="failed",
                fingerprint=row.fingerprint or "",
                pending=0,
                message=message,
            )
        )

    def visit_id(self, errand: Errand) -> str:
        """The journal's name of a visit that is over; empty where it was not worth an entry."""

        def last(index: Index) -> str:
            try:
                row = next(iter(index.visits(errand.row.name, 1)), None)
            except (UnknownDataset, UnknownMirror):
                return ""
            return row.visit if row is not None and row.ended >= errand.began else ""

        return self._recorder.ask(last)

    # --- super-datasets

    def to_be_grouped(self, mirror: str, now: float) -> None:
        """Make the group task of a mirror, or of all of them, due soon."""
        name = GROUP + mirror
        row = self._schedule.task(name) or TaskRow(name)
        if row.due is None:
            earliest = 0.0 if row.ended is None else min(row.ended, now) + GROUP_SECONDS
            due = max(earliest, now + _GROUP_SOONEST)
            self._schedule.put([replace(row, due=due)])

    def group_ended(self, errand: Errand, how: Fared, now: float) -> Outcome:
        """Writes how it went; it is due again where datasets changed meanwhile, or it failed."""
        row = errand.row
        broken = how.broken or "; ".join(one.message for one in how.problems)
        if how.broken:
            mirror = "" if errand.mirror == TOP.name else errand.mirror
            self._log.failed(SUPERDATASETS, how.broken, mirror)
        failures = row.failures + 1 if broken else 0
        due = now + GROUP_SECONDS if errand.again else None
        if broken:
            due = now + min(GROUP_SECONDS * 2.0 ** min(failures, 20), _GROUP_LATEST)
        outcome: Outcome = "failed" if broken else "changed"
        self._schedule.put(
            [
                replace(
                    row,
                    due=due,
                    failures=failures,
                    status=outcome,
                    ended=now,
                    seconds=now - errand.since,
                    message=broken,
                )
            ]
        )
        return outcome

    # --- time

    def mend(self, mirrors: Iterable[Mirror], now: float) -> Iterator[None]:
        """Puts rows right that time, another clock or new settings have gone over."""
        for mirror in mirrors:
            bounds = Bounds.of(mirror.settings.schedule)
            wrong = [
                row.name
                for row in self._schedule.tasks(mirror.name)
                if mended(row, now, bounds) is not row
            ]
            yield
            for names in _pieces(wrong):
                rows = map(self._schedule.task, names)
                self._schedule.put([mended(row, now, bounds) for row in rows if row is not None])
                yield

    def set_back(self, seconds: float) -> None:
        """The clock was set back: all that is to come comes as much earlier."""
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


def _since(errand: Errand, row: TaskRow, busy: Mapping[str, Errand]) -> bool:
    """Whether a dataset was visited since its mirror's list began to be read, or is right now."""
    return row.name in busy or (
        row.ended is not None and row.ended >= errand.since and not row.failures
    )


@dataclass(frozen=True, slots=True)
class _Standing:
    """Datasets that are not to be visited; ``last`` are their last visits by local id."""

    refer: Callable[[str], DatasetRef]
    last: Mapping[str, LastVisit]
    bounds: Bounds

    def row(self, row: TaskRow | None, result: Result, now: float) -> TaskRow | None:
        """What becomes of a dataset's row; None: it has none, and needs none."""
        local_id = result.dataset.partition(":")[2]
        last = self.last.get(local_id)
        if row is not None and result.visit == "not_found":
            return after(row, "gone", now, 0.0, self.bounds, result.message)
        if last is None or (result.status, result.message) != ("notneeded", "unchanged"):
            return None if row is None else replace(row, due=None)
        told = last.fingerprint or None
        if row is None:
            hint = DatasetHint(self.refer(local_id), told)
            return listed(None, Task(hint, "skip", result.message, last), now, self.bounds)
        # where another program has visited it, that is news to the row
        row = replace(row, fingerprint=told, due=None, failures=0, disabled=False)
        return mended(row, now, self.bounds)


def _pieces(items: Sequence[_Item]) -> Iterator[list[_Item]]:
    """Yields the items, not too many at a time."""
    rest = iter(items)
    while piece := list(islice(rest, _AT_A_TIME)):
        yield piece
