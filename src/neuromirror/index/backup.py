"""Copies of SQLite's files taken while they are in use, looked over, and put back.

A copy is one file, without a log beside it, of what the database was at one moment: SQLite's online
backup (https://www.sqlite.org/backup.html) reads it in one transaction, and a writer goes on.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from neuromirror.index import schedule, schema
from neuromirror.index.connection import (
    MIN_SQLITE_VERSION,
    READ_TIMEOUT,
    translate_errors,
    write_lock,
)
from neuromirror.index.damage import damage_error
from neuromirror.index.database import LOCK_WAIT, Index, replace_index_file
from neuromirror.index.errors import REBUILD_HINT, IndexMissingError, IndexUnusableError
from neuromirror.index.replay import Journal

_STEPS = 100_000
"""Steps of SQLite's machine (some milliseconds) after which it looks at the clock."""

_DATABASE_KINDS = {schema.APPLICATION_ID: "index", schedule.APPLICATION_ID: "schedule"}


def copy_database(source: Path, target: Path) -> None:
    """Copies an index or a schedule as it is now to a file that is not there yet, and to disk.

    Raises IndexMissingError, and IndexUnusableError for what is neither, is corrupt, or does not
    fit.
    """
    if not source.is_file():
        raise IndexMissingError(f"there is no database at {source}")
    _check_regular(source)
    with translate_errors(source):
        reading = _connect(source, "ro")
        try:
            (application,) = reading.execute("PRAGMA application_id").fetchone()
            if application not in _DATABASE_KINDS:
                raise IndexUnusableError(f"{source} is a database, but not one of neuromirror")
            writing = _connect(target, "rwc")
            try:
                # all in one: a copy made piece by piece begins anew with each write to its source
                reading.backup(writing)
                writing.execute("PRAGMA journal_mode = DELETE")
            finally:
                writing.close()
        finally:
            reading.close()
    descriptor = os.open(target, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_position(path: Path) -> int:
    """The bytes of the journal that an index, or a copy of one, has applied.

    Raises IndexUnusableError for what is no regular file.
    """
    _check_regular(path)
    with translate_errors(path):
        connection = _connect(path, "ro")
        try:
            if connection.execute("PRAGMA application_id").fetchone()[0] != schema.APPLICATION_ID:
                raise IndexUnusableError(f"{path} is not an index of neuromirror")
            row = connection.execute("SELECT position FROM progress").fetchone()
        finally:
            connection.close()
    if row is None:
        raise IndexUnusableError(f"the index {path} does not say how much it has of the journal")
    return int(row[0])


def integrity_errors(path: Path, *, deep: bool = False) -> list[str]:
    """What SQLite finds wrong with a database as a whole; empty where it is sound.

    By its pages, or ``deep``, which takes some times as long, by the agreement of tables with
    their indexes too. What cannot be read at all is a flaw.
    """
    check = "integrity_check" if deep else "quick_check"
    try:
        connection = _connect(path, "ro")
        try:
            return [text for (text,) in connection.execute(f"PRAGMA {check}(20)") if text != "ok"]
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        return [str(error)]


def raise_if_damaged(path: Path, error: Exception) -> None:
    """Raise IndexDamagedError for an error that a value of a wrong type led to, where it has
    such."""
    if integrity_errors(path):
        raise damage_error(path, error) from error


def integrity_errors_by_table(
    path: Path, after: str, seconds: float
) -> Iterator[tuple[str, list[str] | None]]:
    """As :func:`flaws`, a table at a time, from the one that comes ``after`` a name.

    Yields the table and its flaws: None where it took longer than what was left of ``seconds``,
    which ends it.
    """
    until = time.monotonic() + seconds
    connection = _connect(path, "ro")
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


def restore_copy(path: Path, source: Path, journal: Journal, lock_wait: float = LOCK_WAIT) -> int:
    """Puts a copy of an index in the index's place, in one step, and brings it up to date.

    Gives the number of entries that the copy lacked. The copy itself stays. Readers that have the
    old index open keep it, as in :func:`neuromirror.index.rebuild`. Raises IndexUnusableError for
    a copy
    that is damaged, or whose tables are not those of an index.
    """
    draft = path.with_name(path.name + ".restore")
    if not path.parent.is_dir():
        raise IndexUnusableError(f"the folder of the index {path} does not exist; create it first")
    with write_lock(path, lock_wait), translate_errors(draft):
        draft.unlink(missing_ok=True)
        try:
            copy_database(source, draft)
            if wrong := integrity_errors(draft):
                raise IndexUnusableError(
                    f"{source} is damaged ({wrong[0]}); use another, or {REBUILD_HINT}"
                )
            _check_schema(draft, source)
            replace_index_file(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    with Index.open(path, lock_wait=lock_wait) as index:
        return index.catch_up(journal)


def _check_regular(path: Path) -> None:
    """Raise IndexUnusableError where a database, or a log beside it, would keep SQLite waiting."""
    for ending in ("", "-journal", "-wal", "-shm"):
        place = path.with_name(path.name + ending)
        try:
            mode = place.stat().st_mode
        except FileNotFoundError:
            continue
        if not stat.S_ISREG(mode):
            raise IndexUnusableError(
                f"{place} is no regular file; use another copy, or {REBUILD_HINT}"
            )


def _check_schema(copy: Path, source: Path) -> None:
    """Check that a copy has the tables of an index and nothing else.

    A trigger or view in it would take effect on every later write or query. Raises
    IndexUnusableError naming the ``source``.
    """
    with closing(_connect(copy, "rw")) as connection, closing(sqlite3.connect(":memory:")) as new:
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
    """Kind, name, table and SQL of all in a schema, but for SQLite's own statistics."""
    rows = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()
    return {
        (str(kind), str(name), str(table), str(sql))
        for kind, name, table, sql in rows
        if not str(name).startswith("sqlite_stat")
    }


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"file:{quote(str(path.absolute()))}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=READ_TIMEOUT, isolation_level=None)


def missing_sqlite_features() -> tuple[str, str]:
    """The version of Python's SQLite, and in words what it lacks that the index needs."""
    if sqlite3.sqlite_version_info < MIN_SQLITE_VERSION:
        return sqlite3.sqlite_version, f"is older than {'.'.join(map(str, MIN_SQLITE_VERSION))}"
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute("CREATE VIRTUAL TABLE words USING fts5 (word)")
    except sqlite3.OperationalError:
        return sqlite3.sqlite_version, "has no full-text search (FTS5)"
    finally:
        connection.close()
    return sqlite3.sqlite_version, ""
