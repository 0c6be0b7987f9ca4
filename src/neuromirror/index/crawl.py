"""Queries on visits, holds, events, failures and the status of mirrors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from neuromirror.index.connection import UnknownHoldError
from neuromirror.index.locations import LocationQueries
from neuromirror.index.reader import CURRENT, Queries, Reader
from neuromirror.index.rows import EventRow, FailureRow, HoldRow, LastVisit, MirrorStatus, VisitRow
from neuromirror.model import UNREADABLE, load_traffic

_HOLDS = """
SELECT h.hold, m.name || ':' || d.local_id, h.upstream, h.state, h.reason, h.files_removed,
    h.files_before, h.placed_at, h.outcome, h.ended_at, h.released_by
FROM holds h JOIN datasets d ON d.id = h.dataset JOIN mirrors m ON m.id = d.mirror
"""

_STATUS = f"""
SELECT m.name, m.source, m.uri, count(d.id), count(d.newest_version),
    (SELECT count(*) FROM versions v JOIN datasets e ON e.id = v.dataset
     WHERE e.mirror = m.id AND e.withdrawn = ''),
    coalesce(sum(n.files), 0), CAST(total(n.bytes) AS INTEGER), m.first_contents, max(t.ended_at),
    max(d.last_full_visit), coalesce(sum(t.status IN ('failed', 'partial')), 0),
    (SELECT count(*) FROM holds h JOIN datasets e ON e.id = h.dataset
     WHERE e.mirror = m.id AND e.withdrawn = '' AND h.outcome IS NULL),
    (SELECT count(*) FROM events x WHERE x.kind = 'incident' AND x.mirror = m.id),
    coalesce(sum(d.within <> ''), 0), coalesce(sum(t.status = 'waiting'), 0),
    (SELECT count(DISTINCT a.dataset) FROM attributes a JOIN datasets e ON e.id = a.dataset
     WHERE a.name = '{UNREADABLE}' AND e.mirror = m.id AND e.withdrawn = ''),
    coalesce(sum(t.status = 'not_found'), 0), m.capabilities
FROM mirrors m LEFT JOIN datasets d ON d.mirror = m.id AND d.withdrawn = ''
LEFT JOIN versions n ON n.id = {CURRENT} LEFT JOIN visits t ON t.id = d.last_visit
GROUP BY m.id ORDER BY m.name
"""


_FAILED_VISITS = """
SELECT 'visit', m.name, d.local_id, t.message,
    (SELECT min(x.ended_at) FROM visits x WHERE x.dataset = d.id AND x.id > coalesce(
        (SELECT max(y.id) FROM visits y
         WHERE y.dataset = d.id AND y.status NOT IN ('failed', 'partial')), 0)),
    t.ended_at
FROM datasets d JOIN mirrors m ON m.id = d.mirror JOIN visits t ON t.id = d.last_visit
WHERE t.status IN ('failed', 'partial') AND d.withdrawn = ''
ORDER BY m.name, d.local_id
"""

_FAILED_TASKS = """
SELECT f.task, f.mirror, f.local_id, f.message, f.first_at, f.last_at FROM failures f
WHERE NOT EXISTS (SELECT 1 FROM datasets d JOIN mirrors m ON m.id = d.mirror
    WHERE m.name = f.mirror AND d.local_id = f.local_id AND d.withdrawn <> '')
AND (?1 IS NULL OR f.task = ?1) AND (?2 IS NULL OR f.mirror = ?2)
ORDER BY f.mirror, f.task, f.local_id
"""


class CrawlQueries(Queries):
    """Queries on visits, holds, events, failures and the status of mirrors."""

    def __init__(self, db: Reader, locations: LocationQueries) -> None:
        super().__init__(db)
        self._locations = locations

    def last_visits(self, mirror: str) -> dict[str, LastVisit]:
        """Return the last visit of each dataset of a mirror by local id; empty for a new mirror."""
        rows = self._db.rows(
            "SELECT d.local_id, t.fingerprint, t.status, t.pending, t.ended_at FROM datasets d "
            "JOIN mirrors m ON m.id = d.mirror JOIN visits t ON t.id = d.last_visit "
            "WHERE m.name = ? ORDER BY d.local_id",
            (mirror,),
        )
        return {local_id: LastVisit(*rest) for local_id, *rest in rows}

    def visits(self, dataset: str, limit: int = 20) -> Iterator[VisitRow]:
        """Yield the last visits of a dataset, newest first.

        Parameters
        ----------
        dataset
            ``<mirror>:<local id>``.
        limit
            Maximum number of visits.

        Returns
        -------
        Iterator[VisitRow]
            A visit.
        """
        rows = self._db.rows(
            "SELECT visit, started_at, ended_at, status, fingerprint, pending, message, traffic "
            "FROM visits WHERE dataset = ? ORDER BY id DESC LIMIT ?",
            (self._db.dataset_number(dataset), limit),
        )
        return (_visit(dataset, row) for row in rows)

    def open_holds(self, dataset: str | None = None) -> Iterator[HoldRow]:
        """Yield the open holds of one dataset or of all, oldest first.

        Parameters
        ----------
        dataset
            ``<mirror>:<local id>``; None for all.

        Returns
        -------
        Iterator[HoldRow]
            A hold.
        """
        number = None if dataset is None else self._db.dataset_number(dataset)
        return self._holds(
            "WHERE h.outcome IS NULL AND d.withdrawn = '' AND (? IS NULL OR h.dataset = ?) "
            "ORDER BY h.id",
            (number, number),
        )

    def hold(self, hold: str) -> HoldRow:
        """Return a hold by its id, the newest if the id repeats.

        Raises :class:`UnknownHoldError`.
        """
        found = next(self._holds("WHERE h.hold = ? ORDER BY h.id DESC LIMIT 1", (hold,)), None)
        if found is None:
            waiting = [row.hold for row in self.open_holds()]
            known = f"open holds: {', '.join(waiting[:10])}" if waiting else "no hold is open"
            raise UnknownHoldError(f"hold {hold!r} does not exist; {known} (`neuromirror holds`)")
        return found

    def released_states(self, dataset: str) -> set[tuple[str, str]]:
        """Return (upstream label, state) of the released listings of a dataset.

        Empty for an unknown dataset.
        """
        mirror, _, local_id = dataset.partition(":")
        rows = self._holds(
            "WHERE h.outcome = 'released' AND m.name = ? AND d.local_id = ?", (mirror, local_id)
        )
        return {(row.upstream, row.state) for row in rows}

    def events(
        self,
        dataset: str | None = None,
        kind: str | None = None,
        limit: int | None = None,
        *,
        mirror: str | None = None,
        before: int | None = None,
    ) -> Iterator[EventRow]:
        """Yield events, newest first, optionally of one dataset, kind or mirror.

        Parameters
        ----------
        dataset, kind, mirror : str, optional
            Filters.
        limit : int, optional
            The maximum number of events.
        before : int, optional
            The id of the last event of the previous page.
        """
        number = None if dataset is None else self._db.dataset_number(dataset)
        mirror_number = None if mirror is None else self._db.mirror_number(mirror)
        clauses = {
            "e.dataset = ?": number,
            "e.kind = ?": kind,
            "e.mirror = ?": mirror_number,
            "e.id < ?": before,
        }
        conditions = {clause: value for clause, value in clauses.items() if value is not None}
        # of a withdrawn dataset, show only that it was withdrawn
        shown = "(coalesce(d.withdrawn, '') = '' OR e.kind = 'takedown')"
        rows = self._db.rows(
            "SELECT e.id, m.name, d.local_id, e.kind, e.message, e.at, e.data FROM events e "
            "JOIN mirrors m ON m.id = e.mirror LEFT JOIN datasets d ON d.id = e.dataset "
            f"WHERE {' AND '.join([shown, *conditions])} ORDER BY e.id DESC LIMIT ?",
            (*conditions.values(), -1 if limit is None else limit),
        )
        return map(_event, rows)

    def event_kinds(self) -> dict[str, int]:
        """Return the number of events by kind, sorted by kind."""
        return dict(
            self._db.rows(
                "SELECT e.kind, count(*) FROM events e LEFT JOIN datasets d ON d.id = e.dataset "
                "WHERE coalesce(d.withdrawn, '') = '' OR e.kind = 'takedown' "
                "GROUP BY e.kind ORDER BY e.kind"
            )
        )

    def failed_tasks(self, task: str | None = None, mirror: str | None = None) -> list[FailureRow]:
        """Return the tasks whose last run failed, by mirror, those of the store first.

        Parameters
        ----------
        task
            Return only the failures of this task.
        mirror
            Return only the failures of this mirror; empty for the tasks of the store.

        Returns
        -------
        list[FailureRow]
            The failures.
        """
        return [_failure(row) for row in self._db.rows(_FAILED_TASKS, (task, mirror))]

    def failures(self) -> list[FailureRow]:
        """Return all current failures: of tasks, visits, and locations that lost contents."""
        visits = map(_failure, self._db.rows(_FAILED_VISITS))
        return sorted(
            [*self.failed_tasks(), *visits, *self._locations.failures()],
            key=lambda failure: (failure.mirror, failure.task, failure.dataset or ""),
        )

    def has_failures(self, mirror: str | None = None) -> bool:
        """Return whether the last listing of a mirror or the last visit of a dataset failed.

        With ``mirror``, only this mirror and its datasets count.
        """
        row = self._db.row(
            "SELECT 1 FROM datasets d JOIN mirrors m ON m.id = d.mirror "
            "JOIN visits t ON t.id = d.last_visit WHERE t.status IN ('failed', 'partial') "
            "AND d.withdrawn = '' AND (?1 IS NULL OR m.name = ?1) UNION ALL "
            "SELECT 1 FROM failures WHERE task = 'list' AND (?1 IS NULL OR mirror = ?1) LIMIT 1",
            (mirror,),
        )
        return row is not None

    def released_datasets(self) -> frozenset[str]:
        """Return the names of datasets not visited since a hold on them was released."""
        return frozenset(
            name
            for (name,) in self._db.rows(
                "SELECT DISTINCT m.name || ':' || d.local_id FROM holds h "
                "JOIN datasets d ON d.id = h.dataset JOIN mirrors m ON m.id = d.mirror "
                "WHERE h.outcome = 'released' AND h.visit_at_release IS d.last_visit "
                "AND d.withdrawn = ''"
            )
        )

    def mirrors(self) -> Iterator[MirrorStatus]:
        """Yield the status of each mirror, by name.

        Returns
        -------
        Iterator[MirrorStatus]
            The status of a mirror.
        """
        return map(_status, self._db.rows(_STATUS))

    def capabilities(self, mirror: str) -> dict[str, str]:
        """Return the detected capabilities of a mirror's upstream; empty if never probed."""
        row = self._db.row("SELECT capabilities FROM mirrors WHERE name = ?", (mirror,))
        found: dict[str, str] = json.loads(row[0]) if row else {}
        return found

    def _holds(self, clause: str, parameters: tuple[Any, ...]) -> Iterator[HoldRow]:
        return (HoldRow(*row) for row in self._db.rows(_HOLDS + clause, parameters))


def _failure(row: tuple[Any, ...]) -> FailureRow:
    task, mirror, local_id, message, since, at = row
    dataset = f"{mirror}:{local_id}" if local_id else None
    return FailureRow(task, mirror, dataset, message, since, at)


def _visit(dataset: str, row: tuple[Any, ...]) -> VisitRow:
    values: tuple[Any, ...] = (*row[:-1], load_traffic(json.loads(row[-1])))
    return VisitRow(dataset, *values)


def _status(row: tuple[Any, ...]) -> MirrorStatus:
    counts: tuple[Any, ...] = (*row[:-1], json.loads(row[-1]))
    return MirrorStatus(*counts)


def _event(row: tuple[Any, ...]) -> EventRow:
    number, mirror, local_id, kind, message, at, data = row
    dataset = None if local_id is None else f"{mirror}:{local_id}"
    return EventRow(number, mirror, dataset, kind, message, at, json.loads(data))
