"""What a service is to do next, and who is at it: tasks and leases, in a file beside the index.

It is no part of the index, whose rows are a function of the journal alone. Losing it costs time
and no data: every mirror is listed again, and what is due is found anew.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from neuromirror.index.connection import READ_TIMEOUT, translate_errors
from neuromirror.index.errors import IndexUnusableError

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

-- A token is never given twice for one name: its row stays when the lease is over.
CREATE TABLE IF NOT EXISTS leases (
    name TEXT PRIMARY KEY,
    token INTEGER NOT NULL,
    owner TEXT NOT NULL,
    expires REAL  -- POSIX seconds; null: released
) STRICT, WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class TaskRow:
    """Something to be done again and again; times are POSIX seconds, spans seconds.

    ``name`` is a dataset's, a mirror's (then ``local_id`` is empty: its list is to be read) or,
    with an empty ``mirror``, that of a chore of the service. ``due`` None: nothing is to be done
    until upstream's overview says otherwise; ``deep_due``: when it is to be visited whatever that
    says.
    ``spacing`` is the time to the next visit, ``failures`` how many there were in a row,
    ``status``, ``ended``, ``seconds`` and ``message`` how the last one went. ``fingerprint`` and
    ``title`` are what the overview said (:class:`~neuromirror.model.DatasetHint`).
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


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """Who works on ``name``, and until when (POSIX seconds) if it is not renewed.

    ``token`` is higher than that of every lease of the name before: a worker that was thought dead
    is told from the one that took its place.
    """

    name: str
    token: int
    owner: str
    until: float


_COLUMNS = ", ".join(one.name for one in fields(TaskRow))
_MARKS = ", ".join("?" for _ in fields(TaskRow))
_values = attrgetter(*(one.name for one in fields(TaskRow)))
_FREE = (
    "NOT EXISTS (SELECT 1 FROM leases l WHERE l.name = t.name AND l.expires IS NOT NULL "
    "AND l.expires > ?)"
)


class Schedule:
    """The tasks and leases of one store, for many threads, and for many processes of one machine.

    Each method is one transaction.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._db = connection
        self._lock = threading.RLock()

    @classmethod
    def open(cls, path: Path) -> Self:
        """Opens the file, or makes it; raises IndexUnusableError for one that is not of this
        kind."""
        with translate_errors(path):
            uri = f"file:{quote(str(path.absolute()))}?mode=rwc"
            connection = sqlite3.connect(
                uri, uri=True, timeout=READ_TIMEOUT, isolation_level=None, check_same_thread=False
            )
            try:
                _prepare(connection, path)
            except BaseException:
                connection.close()
                raise
        return cls(path, connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._db.close()

    # --- tasks

    def tasks(self, mirror: str | None = None) -> list[TaskRow]:
        """All tasks by name, or those of one mirror."""
        return self._tasks("? IS NULL OR mirror = ?", (mirror, mirror), "ORDER BY name")

    def task(self, name: str) -> TaskRow | None:
        """The task of a name."""
        found = self._tasks("name = ?", (name,), "")
        return found[0] if found else None

    def put(self, rows: Iterable[TaskRow]) -> None:
        """Adds tasks, or puts them in the place of those that have their names."""
        with self._writing() as db:
            db.executemany(f"INSERT OR REPLACE INTO tasks VALUES ({_MARKS})", map(_values, rows))

    def make_due(self, name: str, now: float) -> None:
        """Make a task due now, and enable it; a task that is in progress is due once more.

        Nothing happens where there is none of that name, or it is due already.
        """
        with self._writing() as db:
            db.execute(
                "UPDATE tasks SET due = ?, failures = 0, disabled = 0 WHERE name = ? "
                "AND (disabled OR due IS NULL OR due > ? OR EXISTS "
                "(SELECT 1 FROM leases l WHERE l.name = tasks.name AND l.expires > ?))",
                (now, name, now, now),
            )

    def drop(self, names: Iterable[str]) -> None:
        """Forgets tasks; their leases' tokens stay."""
        with self._writing() as db:
            db.executemany("DELETE FROM tasks WHERE name = ?", ((name,) for name in names))

    def due(self, now: float, limit: int, excluded_mirrors: Iterable[str] = ()) -> list[TaskRow]:
        """Tasks whose time has come and that nobody is at, the longest due first.

        Those of the mirrors ``without`` are left out.
        """
        return self._due("due", now, limit, excluded_mirrors)

    def deep_due(
        self, now: float, limit: int, excluded_mirrors: Iterable[str] = ()
    ) -> list[TaskRow]:
        """As :meth:`due`, for visits that do not trust the overview."""
        return self._due("deep_due", now, limit, excluded_mirrors)

    def waiting(self, now: float) -> dict[str, int]:
        """How many tasks of each mirror are due and have nobody at them."""
        with self._reading() as db:
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
        left_out = list(excluded_mirrors)
        marks = ", ".join("?" for _ in left_out)
        return self._tasks(
            f"disabled = 0 AND {column} <= ? AND mirror NOT IN ({marks}) AND {_FREE}",
            (now, *left_out, now, limit),
            f"ORDER BY {column} LIMIT ?",
        )

    def _tasks(self, where: str, parameters: tuple[object, ...], rest: str) -> list[TaskRow]:
        with self._reading() as db:
            rows = db.execute(
                f"SELECT {_COLUMNS} FROM tasks t WHERE {where} {rest}", parameters
            ).fetchall()
        return [_task(row) for row in rows]

    # --- leases

    def claim(self, name: str, owner: str, now: float, seconds: float) -> int | None:
        """The token of a new lease; None while somebody else has one."""
        with self._writing() as db:
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
        """Prolongs leases by name and token; one that somebody else has meanwhile is left alone."""
        with self._writing() as db:
            db.executemany(
                "UPDATE leases SET expires = ? "
                "WHERE name = ? AND token = ? AND expires IS NOT NULL",
                ((now + seconds, name, token) for name, token in tokens),
            )

    def holds(self, name: str, token: int) -> bool:
        """Whether the token is of the last lease of the name, and was not given back.

        That its time is over is no matter as long as nobody else has taken the work.
        """
        with self._reading() as db:
            row = db.execute("SELECT token, expires FROM leases WHERE name = ?", (name,)).fetchone()
        return row is not None and row[0] == token and row[1] is not None

    def release(self, name: str, token: int) -> None:
        """Ends a lease, if it is still the last one of the name."""
        with self._writing() as db:
            db.execute(
                "UPDATE leases SET expires = NULL WHERE name = ? AND token = ?", (name, token)
            )

    def leases(self, now: float) -> list[LeaseRow]:
        """The leases that hold, by name."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT name, token, owner, expires FROM leases WHERE expires > ? ORDER BY name",
                (now,),
            )
            return [LeaseRow(*row) for row in rows]

    def lease(self, name: str, now: float) -> LeaseRow | None:
        """The lease of a name that holds."""
        return next((one for one in self.leases(now) if one.name == name), None)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock, translate_errors(self.path):
            yield self._db

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock, translate_errors(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise


def _task(row: tuple[Any, ...]) -> TaskRow:
    values = list(row)
    values[9] = bool(row[9])
    return TaskRow(*values)


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application not in (0, APPLICATION_ID):
        raise IndexUnusableError(f"{path} is an SQLite database, but not a schedule of neuromirror")
    if application and version != SCHEMA:
        raise IndexUnusableError(
            f"the schedule {path} has schema {version}, this release needs schema {SCHEMA}; "
            "remove the file, it is re-created"
        )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    if not application:
        connection.executescript(
            f"BEGIN IMMEDIATE; {_TABLES} PRAGMA application_id = {APPLICATION_ID}; "
            f"PRAGMA user_version = {SCHEMA}; COMMIT;"
        )
