"""Databases that several threads and processes write: the schedule and the ledger."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Self

from msgspec import Struct

from neuromirror.index.connection import connect, transaction, translate_errors
from neuromirror.index.errors import IndexUnusableError


class DatabaseFormat(Struct, frozen=True):
    """The format of a kind of database.

    Attributes
    ----------
    kind
        Its name, for messages.
    application_id
        The number with which SQLite marks its files.
    schema
        The version of its tables.
    tables
        The statements that create them.
    synchronous
        Whether a crash of the machine may lose the last transactions (``NORMAL``).
    replacement
        How to replace a file with another schema, for messages.
    """

    kind: str
    application_id: int
    schema: int
    tables: str
    synchronous: Literal["FULL", "NORMAL"]
    replacement: str


class DatabaseFile:
    """A connection to a database; several threads may share it.

    A lock gives the connection to one thread at a time.

    Attributes
    ----------
    path
        The file.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._db = connection
        self._lock = threading.RLock()

    @classmethod
    def open(cls, path: Path, format: DatabaseFormat) -> Self:
        """Open a file, or create it.

        Parameters
        ----------
        path
            The file; its folder must exist.
        format
            The format of the database.

        Returns
        -------
        Self
            The connection; close it after use.

        Raises
        ------
        IndexUnusableError
            The file is something else, or has another schema.
        """
        with translate_errors(path):
            connection = connect(path, "rwc", check_same_thread=False)
            try:
                _prepare(connection, path, format)
            except BaseException:
                connection.close()
                raise
        return cls(path, connection)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection to this thread only."""
        with self._lock, translate_errors(self.path):
            yield self._db

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection in a transaction, which an exception rolls back."""
        with self.reading() as db, transaction(db):
            yield db


class OpenDatabase:
    """A database that is used through named methods; a context manager that closes it.

    Attributes
    ----------
    path
        The file.
    """

    def __init__(self, file: DatabaseFile) -> None:
        self.path = file.path
        self._file = file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _prepare(connection: sqlite3.Connection, path: Path, format: DatabaseFormat) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application not in (0, format.application_id):
        raise IndexUnusableError(
            f"{path} is an SQLite database, but not a {format.kind} of neuromirror"
        )
    if application and version != format.schema:
        raise IndexUnusableError(
            f"the {format.kind} {path} has schema {version}, this release needs schema "
            f"{format.schema}; {format.replacement}"
        )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {format.synchronous}")
    connection.execute("PRAGMA foreign_keys = ON")
    if not application:
        connection.executescript(
            f"BEGIN IMMEDIATE; {format.tables} PRAGMA application_id = {format.application_id}; "
            f"PRAGMA user_version = {format.schema}; COMMIT;"
        )
