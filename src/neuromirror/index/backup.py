"""Copy SQLite databases while they are in use, check the copies, and restore them.

A copy is one file without a log, in the state the database had at one moment. SQLite's online
backup (https://www.sqlite.org/backup.html) reads it in one transaction and does not block writers.
"""

from __future__ import annotations

import re
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from neuromirror.index import ledger, schedule, schema
from neuromirror.index.connection import (
    MIN_SQLITE_VERSION,
    REBUILD_HINT,
    IndexMissingError,
    IndexUnusableError,
    connect,
    damage_error,
    fsync_path,
    translate_errors,
    write_lock,
)
from neuromirror.index.database import LOCK_WAIT, Index, replace_index_file

if TYPE_CHECKING:
    from neuromirror.store import Store

_STEPS = 100_000
"""Steps of SQLite's virtual machine (some milliseconds) between checks of the time limit."""

_DATABASE_KINDS = {
    schema.APPLICATION_ID: "index",
    schedule.APPLICATION_ID: "schedule",
    ledger.APPLICATION_ID: "ledger",
}


def copy_database(source: Path, target: Path) -> None:
    """Copy an index, a schedule or a ledger to a new file and sync it to disk.

    Parameters
    ----------
    source : Path
        The database, which may be in use.
    target : Path
        The copy; must not exist.

    Raises
    ------
    IndexMissingError
        If the source does not exist.
    IndexUnusableError
        If the source is another kind of file, is damaged, or does not fit on the disk.
    """
    if not source.is_file():
        raise IndexMissingError(f"{source} does not exist")
    _check_regular(source)
    with translate_errors(source), closing(connect(source, "ro")) as reading:
        (application,) = reading.execute("PRAGMA application_id").fetchone()
        if application not in _DATABASE_KINDS:
            raise IndexUnusableError(f"{source} is an SQLite database, but not of neuromirror")
        with closing(connect(target, "rwc")) as writing:
            # in one step: a copy made in several restarts with every write to its source
            reading.backup(writing)
            writing.execute("PRAGMA journal_mode = DELETE")
    fsync_path(target)


def read_position(path: Path) -> int:
    """Return how many bytes of the journal an index, or a copy of one, has applied.

    Raises IndexUnusableError if the path is not a regular file or not an index.
    """
    _check_regular(path)
    with translate_errors(path), closing(connect(path, "ro")) as connection:
        if connection.execute("PRAGMA application_id").fetchone()[0] != schema.APPLICATION_ID:
            raise IndexUnusableError(f"{path} is not an index of neuromirror")
        row = connection.execute("SELECT position FROM progress").fetchone()
    if row is None:
        raise IndexUnusableError(
            f"the index {path} lacks its position in the journal; {REBUILD_HINT}"
        )
    return int(row[0])


def integrity_errors(path: Path, *, deep: bool = False) -> list[str]:
    """Return the errors that SQLite finds in a database; empty if it is intact.

    Parameters
    ----------
    path : Path
        The database. If it cannot be read, that is one of the errors.
    deep : bool
        Also compare tables with their indexes, which takes several times as long.
    """
    check = "integrity_check" if deep else "quick_check"
    try:
        with closing(connect(path, "ro")) as connection:
            return [text for (text,) in connection.execute(f"PRAGMA {check}(20)") if text != "ok"]
    except sqlite3.DatabaseError as error:
        return [str(error)]


def raise_if_damaged(path: Path, error: Exception) -> None:
    """Raise IndexDamagedError if SQLite finds errors in the database; return otherwise.

    To be called after an unexpected error (such as a TypeError) that damaged rows may have caused.

    Parameters
    ----------
    path
        The database file, which is checked.
    error
        The error that occurred, which becomes the cause.

    Raises
    ------
    IndexDamagedError
        The database is damaged.
    """
    if integrity_errors(path):
        raise damage_error(path, error) from error


def integrity_errors_by_table(
    path: Path, after: str, seconds: float
) -> Iterator[tuple[str, list[str] | None]]:
    """Check a database table by table, within a time limit.

    Parameters
    ----------
    path : Path
        The database.
    after : str
        Skip the tables up to this name, the last one checked before; an empty text checks all.
    seconds : float
        The time limit.

    Yields
    ------
    tuple of str and (list of str or None)
        The table and its errors; None, as the last item, for a table that exceeded the time limit.
    """
    until = time.monotonic() + seconds
    connection = connect(path, "ro")
    try:
        connection.set_progress_handler(lambda: int(time.monotonic() > until), _STEPS)
        tables = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0 AND name > ? "
            "ORDER BY name",
            (after,),
        ).fetchall()
        for (table,) in tables:
            quoted = table.replace('"', '""')
            try:
                rows = connection.execute(f'PRAGMA quick_check("{quoted}")').fetchall()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
                    raise
                yield table, None
                return
            yield table, [text for (text,) in rows if text != "ok"]
    except sqlite3.DatabaseError as error:
        yield after, [str(error)]
    finally:
        connection.close()


def restore_copy(path: Path, source: Path, store: Store) -> int:
    """Replace an index by a copy in one step, and apply the rest of the journal.

    Readers that have the old index open keep it. The copy is not modified.

    Parameters
    ----------
    path : Path
        The index.
    source : Path
        The copy.
    store : Store
        The store.

    Returns
    -------
    int
        The number of journal entries that the copy lacked.

    Raises
    ------
    IndexUnusableError
        If the copy is damaged, has another schema version, or other tables than an index.
    """
    draft = path.with_name(path.name + ".restore")
    if not path.parent.is_dir():
        raise IndexUnusableError(f"the folder of the index {path} does not exist; create it first")
    with write_lock(path, LOCK_WAIT), translate_errors(draft):
        draft.unlink(missing_ok=True)
        try:
            copy_database(source, draft)
            if errors := integrity_errors(draft):
                raise IndexUnusableError(
                    f"{source} is damaged ({errors[0]}); use another, or {REBUILD_HINT}"
                )
            _check_schema(draft, source)
            replace_index_file(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    with Index.open(path) as index:
        return index.catch_up(store)


def _check_regular(path: Path) -> None:
    """Raise IndexUnusableError if a database or its log is a pipe or other special file."""
    for ending in ("", "-journal", "-wal", "-shm"):
        file = path.with_name(path.name + ending)
        try:
            mode = file.stat().st_mode
        except FileNotFoundError:
            continue
        if not stat.S_ISREG(mode):
            raise IndexUnusableError(
                f"{file} is not a regular file; use another copy, or {REBUILD_HINT}"
            )


def _check_schema(copy: Path, source: Path) -> None:
    """Check that a copy has the tables of an index and nothing else.

    A trigger or view in it would take effect on every later write or query. Raises
    IndexUnusableError naming the ``source``.
    """
    with closing(connect(copy, "rw")) as connection, closing(sqlite3.connect(":memory:")) as new:
        connection.execute("PRAGMA trusted_schema = OFF")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version != schema.SCHEMA:
            raise IndexUnusableError(
                f"{source} has schema {version}, this release needs schema {schema.SCHEMA}; "
                f"use another copy, or {REBUILD_HINT}"
            )
        new.isolation_level = None
        schema.create_tables(new)
        different = {name for _, name, *_ in _schema_of(connection) ^ _schema_of(new)}
    if different:
        raise IndexUnusableError(
            f"{source} has other tables than an index has ({', '.join(sorted(different)[:3])}); "
            f"use another copy, or {REBUILD_HINT}"
        )


def _schema_of(connection: sqlite3.Connection) -> set[tuple[str, str, str, str]]:
    """Return kind, name, table and SQL of everything in a schema but SQLite's statistics."""
    rows = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()
    return {
        # the quotes and spaces are those of a release of sqlite-utils
        (str(kind), str(name), str(table), re.sub(r"[\s\"]+", "", str(sql)))
        for kind, name, table, sql in rows
        if not str(name).startswith("sqlite_stat")
    }


def missing_sqlite_features() -> tuple[str, str]:
    """Return the version of Python's SQLite, and why the index cannot use it ('' if it can).

    The reason completes a sentence: ``is older than 3.37.0``, ``has no full-text search (FTS5)``.
    """
    if sqlite3.sqlite_version_info < MIN_SQLITE_VERSION:
        return sqlite3.sqlite_version, f"is older than {'.'.join(map(str, MIN_SQLITE_VERSION))}"
    try:
        with closing(sqlite3.connect(":memory:")) as connection:
            connection.execute("CREATE VIRTUAL TABLE probe USING fts5 (text)")
    except sqlite3.OperationalError:
        return sqlite3.sqlite_version, "has no full-text search (FTS5)"
    return sqlite3.sqlite_version, ""
