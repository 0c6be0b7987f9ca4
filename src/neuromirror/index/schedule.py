"""The schedule of a service: tasks and leases, in a file next to the index.

It is separate from the index, whose rows are a function of the journal alone. Losing it costs time
but no data: every mirror is listed again, and due tasks are determined again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, Self

from msgspec import Struct

from neuromirror.index.connection import DatabaseFile, DatabaseFormat, OpenDatabase


class LeaseRow(Struct, frozen=True):
    """The right of one worker to run a task.

    Attributes
    ----------
    name
        The name of the task.
    token
        Higher than that of every earlier lease of the name, which distinguishes a worker presumed
        dead from its successor.
    owner
        The worker.
    until
        The end of the lease, in POSIX seconds.
    """

    name: str
    token: int
    owner: str
    until: float


class LeaseTable:
    """The leases of a schedule. Each method is one transaction.

    Parameters
    ----------
    file
        The schedule.
    """

    def __init__(self, file: DatabaseFile) -> None:
        self._file = file

    def claim(self, name: str, owner: str, now: float, seconds: float) -> int | None:
        """Return the token of a new lease; None while another worker holds one.

        Parameters
        ----------
        name
            The name of the task.
        owner
            The worker, for messages.
        now
            The current time, in POSIX seconds.
        seconds
            The duration of the lease.

        Returns
        -------
        int | None
            The token, which is higher than that of every earlier lease of the name.
        """
        with self._file.writing() as db:
            row = db.execute("SELECT token, expires FROM leases WHERE name = ?", (name,)).fetchone()
            if row is not None and row[1] is not None and row[1] > now:
                return None
            token = 1 if row is None else int(row[0]) + 1
            db.execute(
                "INSERT OR REPLACE INTO leases VALUES (?, ?, ?, ?)",
                (name, token, owner, now + seconds),
            )
            return token

    def renew(self, tokens: Iterable[tuple[str, int]], now: float, seconds: float) -> None:
        """Extend leases by name and token; leases taken by another worker are unchanged.

        Parameters
        ----------
        tokens
            Name and token of each lease.
        now
            The current time, in POSIX seconds.
        seconds
            The duration of the lease from now on.
        """
        with self._file.writing() as db:
            db.executemany(
                "UPDATE leases SET expires = ? "
                "WHERE name = ? AND token = ? AND expires IS NOT NULL",
                ((now + seconds, name, token) for name, token in tokens),
            )

    def limit(self, until: float) -> None:
        """Let no lease end later than at a time; a wrong clock may have made it too long."""
        with self._file.writing() as db:
            db.execute("UPDATE leases SET expires = ? WHERE expires > ?", (until, until))

    def holds(self, name: str, token: int) -> bool:
        """Return whether a token belongs to the last lease of a name, and was not released.

        The token is also valid after the lease expired, as long as no other worker took the lease.

        Parameters
        ----------
        name
            The name of the task.
        token
            The token of a lease.

        Returns
        -------
        bool
            Whether the worker with this token may publish.
        """
        with self._file.reading() as db:
            return _is_held(db, name, token)

    @contextmanager
    def holding(self, name: str, token: int) -> Iterator[bool]:
        """Keep all leases unchanged during a block.

        Parameters
        ----------
        name
            The name of the task.
        token
            The token of a lease.

        Yields
        ------
        bool
            The result of :meth:`holds`.
        """
        with self._file.writing() as db:
            yield _is_held(db, name, token)

    def release(self, name: str, token: int) -> None:
        """Release a lease, if it is still the last of its name.

        Parameters
        ----------
        name
            The name of the task.
        token
            The token of the lease.
        """
        self.release_all([(name, token)])

    def release_all(self, tokens: Iterable[tuple[str, int]]) -> None:
        """Release leases in one transaction; see :meth:`release`.

        Parameters
        ----------
        tokens
            Name and token of each lease.
        """
        with self._file.writing() as db:
            db.executemany("UPDATE leases SET expires = NULL WHERE name = ? AND token = ?", tokens)

    def in_force(self, now: float) -> list[LeaseRow]:
        """Return the leases that are in force, by name.

        Parameters
        ----------
        now
            The current time, in POSIX seconds.

        Returns
        -------
        list[LeaseRow]
            The leases.
        """
        with self._file.reading() as db:
            rows = db.execute(
                "SELECT name, token, owner, expires FROM leases WHERE expires > ? ORDER BY name",
                (now,),
            )
            return [LeaseRow(*row) for row in rows]

    def find(self, name: str, now: float) -> LeaseRow | None:
        """Return the lease of a name that is in force, or None.

        Parameters
        ----------
        name
            The name of the task.
        now
            The current time, in POSIX seconds.

        Returns
        -------
        LeaseRow | None
            The lease.
        """
        return next((one for one in self.in_force(now) if one.name == name), None)


def _is_held(db: sqlite3.Connection, name: str, token: int) -> bool:
    row = db.execute("SELECT token, expires FROM leases WHERE name = ?", (name,)).fetchone()
    return row is not None and row[0] == token and row[1] is not None


APPLICATION_ID = 0x6E6D7363  # "nmsc"
SCHEMA = 2

_TABLES = """
CREATE TABLE IF NOT EXISTS tasks (
    name TEXT PRIMARY KEY,
    mirror TEXT NOT NULL,
    local_id TEXT NOT NULL,
    source_uri TEXT NOT NULL,
    fingerprint TEXT,
    title TEXT NOT NULL,
    due REAL,
    spacing REAL NOT NULL,
    failures INTEGER NOT NULL,
    disabled INTEGER NOT NULL,
    deep_due REAL,
    status TEXT NOT NULL,
    ended REAL,
    seconds REAL NOT NULL,
    message TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS tasks_due ON tasks (due) WHERE disabled = 0;
CREATE INDEX IF NOT EXISTS tasks_deep ON tasks (deep_due) WHERE disabled = 0;
CREATE INDEX IF NOT EXISTS tasks_mirror ON tasks (mirror);

-- Tokens of one name never repeat: the row stays when the lease ends.
CREATE TABLE IF NOT EXISTS leases (
    name TEXT PRIMARY KEY,
    token INTEGER NOT NULL,
    owner TEXT NOT NULL,
    expires REAL  -- POSIX seconds; null: released
) STRICT, WITHOUT ROWID;
"""

_FORMAT: Final = DatabaseFormat(
    kind="schedule",
    application_id=APPLICATION_ID,
    schema=SCHEMA,
    tables=_TABLES,
    synchronous="NORMAL",
    replacement="remove the file, it is re-created",
)


class TaskRow(Struct, frozen=True):
    """A recurring task; times are POSIX seconds, spans seconds.

    Attributes
    ----------
    name
        The name of a dataset, of a mirror (``local_id`` is empty: the list of its datasets is due)
        or, if ``mirror`` is empty, of a housekeeping task.
    mirror, local_id, source_uri
        The mirror, and the dataset's id and URI at upstream.
    fingerprint, title
        From the listing of datasets (:class:`~neuromirror.model.DatasetHint`).
    due
        The time of the next run; None until upstream's listing of datasets reports a change.
    spacing
        The time to the next visit.
    failures
        The number of successive failures.
    disabled
        Whether the task is not run any more.
    deep_due
        The time at which the dataset is visited regardless of the listing of datasets.
    status, ended, seconds, message
        Result, end, duration and message of the last run.
    """

    name: str
    mirror: str = ""
    local_id: str = ""
    source_uri: str = ""
    fingerprint: str | None = None
    title: str = ""
    due: float | None = None
    spacing: float = 0.0
    failures: int = 0
    disabled: bool = False
    deep_due: float | None = None
    status: str = ""
    ended: float | None = None
    seconds: float = 0.0
    message: str = ""


_COLUMNS = ", ".join(TaskRow.__struct_fields__)
_MARKS = ", ".join("?" for _ in TaskRow.__struct_fields__)
_values = attrgetter(*TaskRow.__struct_fields__)
_FREE = (
    "NOT EXISTS (SELECT 1 FROM leases l WHERE l.name = t.name AND l.expires IS NOT NULL "
    "AND l.expires > ?)"
)


class Schedule(OpenDatabase):
    """The tasks and leases of a store, for many threads and processes of one machine.

    Each method is one transaction.

    Attributes
    ----------
    path
        The file.
    leases
        The leases.
    """

    def __init__(self, file: DatabaseFile) -> None:
        super().__init__(file)
        self.leases = LeaseTable(self._file)

    @classmethod
    def open(cls, path: Path, *, readonly: bool = False) -> Self:
        """Open the file, or create it.

        Parameters
        ----------
        path
            The file of the schedule.
        readonly
            Whether to open an existing file for reading only, also without the right to write.

        Returns
        -------
        Self
            The schedule; close it after use.

        Raises
        ------
        IndexUnusableError
            The file is not a schedule or has another schema version.
        """
        return cls(DatabaseFile.open(path, _FORMAT, readonly=readonly))

    def tasks(self, mirror: str | None = None) -> list[TaskRow]:
        """Return the tasks of one mirror or of all, by name.

        Parameters
        ----------
        mirror
            The name of the mirror; None for all tasks.

        Returns
        -------
        list[TaskRow]
            The tasks.
        """
        return self._tasks("? IS NULL OR mirror = ?", (mirror, mirror), "ORDER BY name")

    def task(self, name: str) -> TaskRow | None:
        """Return the task with a name, or None.

        Parameters
        ----------
        name
            The name of the task.

        Returns
        -------
        TaskRow | None
            The task.
        """
        found = self._tasks("name = ?", (name,), "")
        return found[0] if found else None

    def put(self, rows: Iterable[TaskRow]) -> None:
        """Insert tasks, replacing those with the same names.

        Parameters
        ----------
        rows
            The tasks.
        """
        with self._file.writing() as db:
            db.executemany(f"INSERT OR REPLACE INTO tasks VALUES ({_MARKS})", map(_values, rows))

    def make_due(self, name: str, now: float) -> None:
        """Make a task due now and enable it; a task in progress becomes due once more.

        Does nothing if there is no such task, or it is due already.

        Parameters
        ----------
        name
            The name of the task.
        now
            The current time, in POSIX seconds.
        """
        with self._file.writing() as db:
            db.execute(
                "UPDATE tasks SET due = ?, failures = 0, disabled = 0 WHERE name = ? "
                "AND (disabled OR due IS NULL OR due > ? OR EXISTS "
                "(SELECT 1 FROM leases l WHERE l.name = tasks.name AND l.expires > ?))",
                (now, name, now, now),
            )

    def drop(self, names: Iterable[str]) -> None:
        """Remove tasks; the tokens of their leases stay.

        Parameters
        ----------
        names
            Names of tasks.
        """
        with self._file.writing() as db:
            db.executemany("DELETE FROM tasks WHERE name = ?", ((name,) for name in names))

    def due(self, now: float, limit: int, excluded_mirrors: Iterable[str] = ()) -> list[TaskRow]:
        """Return due tasks without a lease, longest due first.

        Parameters
        ----------
        now : float
            The current time.
        limit : int
            The maximum number of tasks.
        excluded_mirrors : iterable of str
            Mirrors whose tasks are omitted.

        Returns
        -------
        list[TaskRow]
            The tasks.
        """
        return self._due("due", now, limit, excluded_mirrors)

    def deep_due(
        self, now: float, limit: int, excluded_mirrors: Iterable[str] = ()
    ) -> list[TaskRow]:
        """Return tasks due regardless of upstream's listing of datasets, as :meth:`due` does.

        Parameters
        ----------
        now, limit, excluded_mirrors
            As for :meth:`due`.

        Returns
        -------
        list[TaskRow]
            The tasks.
        """
        return self._due("deep_due", now, limit, excluded_mirrors)

    def waiting(self, now: float) -> dict[str, int]:
        """Return the number of due tasks without a lease, by mirror.

        Parameters
        ----------
        now
            The current time, in POSIX seconds.

        Returns
        -------
        dict[str, int]
            The number by the name of the mirror.
        """
        with self._file.reading() as db:
            return dict(
                db.execute(
                    "SELECT mirror, count(*) FROM tasks t WHERE disabled = 0 AND due <= ? "
                    f"AND {_FREE} GROUP BY mirror",
                    (now, now),
                )
            )

    def _due(
        self, column: str, now: float, limit: int, excluded_mirrors: Iterable[str]
    ) -> list[TaskRow]:
        excluded = list(excluded_mirrors)
        marks = ", ".join("?" for _ in excluded)
        return self._tasks(
            f"disabled = 0 AND {column} <= ? AND mirror NOT IN ({marks}) AND {_FREE}",
            (now, *excluded, now, limit),
            f"ORDER BY {column} LIMIT ?",
        )

    def _tasks(self, where: str, parameters: tuple[object, ...], rest: str) -> list[TaskRow]:
        with self._file.reading() as db:
            rows = db.execute(
                f"SELECT {_COLUMNS} FROM tasks t WHERE {where} {rest}", parameters
            ).fetchall()
        return [_task(row) for row in rows]


def _task(row: tuple[Any, ...]) -> TaskRow:
    values = list(row)
    values[9] = bool(row[9])
    return TaskRow(*values)
