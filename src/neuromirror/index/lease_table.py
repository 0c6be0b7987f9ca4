"""The leases of a schedule: one worker per task at a time."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from msgspec import Struct

from neuromirror.index.database_file import DatabaseFile


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
