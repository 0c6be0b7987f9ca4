"""How the index file is opened, checked and locked, and what SQLite's errors mean."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from neuromirror.index import schema
from neuromirror.index.damage import damage_error
from neuromirror.index.errors import (
    REBUILD_HINT,
    IndexBusyError,
    IndexMissingError,
    IndexUnusableError,
    QueryStoppedError,
)

READ_TIMEOUT = 30.0
"""Seconds that a statement waits for another connection."""

STOPPED_MESSAGE = "this takes too long here, or too long just now; ask for less, or try again later"

MIN_SQLITE_VERSION = (3, 37, 0)  # STRICT tables
_POLL_SECONDS = 0.1

_LIMITS = {
    # the longest text that a question makes is a list of blocks of paths
    sqlite3.SQLITE_LIMIT_LENGTH: 64 << 20,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 1,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
"""Of connections that only read."""


_DAMAGE_CODES = (
    0,  # Python's own: text that is not UTF-8
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_FORMAT,
    # statements are fixed: the schema that they need was changed
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_TOOBIG,
    sqlite3.SQLITE_INTERNAL,
)


@contextlib.contextmanager
def translate_errors(path: Path) -> Iterator[None]:
    """SQLite's errors as ours; bugs (a wrong statement, a broken constraint) stay as they are."""
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError):
        raise
    except (MemoryError, UnicodeDecodeError) as error:
        # a length that no row has, or a message of SQLite's with what stands in the schema
        raise damage_error(path, error) from error
    except sqlite3.DatabaseError as error:
        code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF  # without the extension
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise IndexBusyError(
                f"the index {path} is locked by another process; try again"
            ) from error
        if code == sqlite3.SQLITE_INTERRUPT:
            raise QueryStoppedError(STOPPED_MESSAGE) from error
        if code in _DAMAGE_CODES:
            raise damage_error(path, error) from error
        if code in (
            sqlite3.SQLITE_FULL,
            sqlite3.SQLITE_IOERR,
            sqlite3.SQLITE_READONLY,
            sqlite3.SQLITE_CANTOPEN,
            sqlite3.SQLITE_PERM,
            sqlite3.SQLITE_AUTH,
        ):
            raise IndexUnusableError(
                f"the index {path} cannot be read or written ({error}); see to the space and "
                "permissions of its folder, then run the command again"
            ) from error
        raise


class ReadConnection(sqlite3.Connection):
    """A connection that only reads.

    An ``immutable`` one sees no change of its file: see :func:`identity`.
    """

    is_immutable = False


def file_identity(path: Path) -> tuple[int, ...]:
    """Return a value that differs when a connection to a database has to be opened again.

    The file is told by the first two numbers. An ``immutable`` connection is stale as well when one
    of the others differs, that is after any write.
    """
    numbers: list[int] = []
    for name in (path, path.with_name(path.name + "-wal")):
        with contextlib.suppress(FileNotFoundError):
            found = name.stat()
            if name == path or found.st_size:
                numbers += [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns]
    return tuple(numbers)


def is_stale(connection: sqlite3.Connection, path: Path, opened: tuple[int, ...]) -> bool:
    """Return whether a connection sees an old state for good; ``opened`` is from before opening."""
    immutable = isinstance(connection, ReadConnection) and connection.is_immutable
    compared = None if immutable else 2
    return file_identity(path)[:compared] != opened[:compared]


def open_writer(path: Path, lock_wait: float | None) -> sqlite3.Connection:
    """A connection that may write; makes the file or migrates an older one.

    That takes the writing lock; ``lock_wait`` is None for a caller that holds it already.
    """
    _check_sqlite_version()
    if not path.parent.is_dir():
        raise IndexUnusableError(f"the folder of the index {path} does not exist; create it first")
    with translate_errors(path):
        locked = lock_wait is None or not _needs_migration(path)
        with contextlib.nullcontext() if locked else write_lock(path, lock_wait or 0):
            connection = _connect(path, "rwc")
            try:
                _migrate(connection, path)
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")
                connection.execute("PRAGMA foreign_keys = ON")
                connection.execute("PRAGMA cache_size = -65536")
                # one huge version makes one huge log; give the space back afterwards
                connection.execute(f"PRAGMA journal_size_limit = {64 << 20}")
            except BaseException:
                connection.close()
                raise
        return connection


def open_scratch(path: Path) -> sqlite3.Connection:
    """A new file for a rebuild: without a log, since a rebuild that dies is thrown away."""
    _check_sqlite_version()
    with translate_errors(path):
        connection = _connect(path, "rwc")
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "locking_mode = EXCLUSIVE"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("PRAGMA cache_size = -131072")
        connection.execute("PRAGMA foreign_keys = ON")
        schema.migrate(connection)
        return connection


def open_reader(path: Path, factory: type[ReadConnection] = ReadConnection) -> ReadConnection:
    """A connection that only reads; works in a folder that cannot be written, too."""
    _check_sqlite_version()
    if not path.is_file():
        raise IndexMissingError(
            f"there is no index at {path}; run `neuromirror sync` to make a mirror, or "
            "`neuromirror rebuild-index` if the store is there and only its index is gone"
        )
    with translate_errors(path):
        connection = _connect_reader(path, factory)
        try:
            try:
                connection.execute("PRAGMA schema_version")
            except sqlite3.OperationalError as error:
                log = path.with_name(path.name + "-wal")
                code = error.sqlite_errorcode & 0xFF
                denied = code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
                if not denied or (log.exists() and log.stat().st_size):
                    raise
                # This reader may not make the log's files, and nobody has them open now. Should
                # a writer come while it reads, it may see both old and new pages: such a reader
                # should be short-lived, or look at `identity` before each question.
                connection.close()
                connection = _connect_reader(path, factory, immutable=True)
            if _read_schema_number(connection, path) != schema.SCHEMA:
                raise IndexUnusableError(
                    f"the index {path} is of an older release; `neuromirror sync` brings it up to "
                    f"date, or {REBUILD_HINT}"
                )
            connection.execute("PRAGMA query_only = ON")
        except BaseException:
            connection.close()
            raise
        return connection


@contextlib.contextmanager
def write_lock(path: Path, wait: float) -> Iterator[None]:
    """The one writer's lock, ``<index>.lock``; raises IndexBusyError after ``wait`` seconds."""
    name = path.with_name(path.name + ".lock")
    try:
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise IndexUnusableError(
            f"the index {path} cannot be written: {name.name}: {error.strerror}; "
            "see to the permissions of its folder"
        ) from error
    try:
        _flock(descriptor, path, wait)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _flock(descriptor: int, path: Path, wait: float) -> None:
    deadline = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
                continue
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise IndexBusyError(
                f"the index {path} has been written by another process (id {holder}) for more "
                f"than {wait:g} seconds; wait for it to end, then run the command again"
            ) from None


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"file:{quote(str(path.absolute()))}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=READ_TIMEOUT, isolation_level=None)


def _connect_reader(
    path: Path, factory: type[ReadConnection], *, immutable: bool = False
) -> ReadConnection:
    uri = f"file:{quote(str(path.absolute()))}?mode=ro{'&immutable=1' if immutable else ''}"
    made = sqlite3.connect(
        uri, uri=True, timeout=READ_TIMEOUT, isolation_level=None, factory=factory
    )
    made.is_immutable = immutable
    for limit, most in _LIMITS.items():
        made.setlimit(limit, most)
    return made


def _needs_migration(path: Path) -> bool:
    if not path.exists():
        return True
    connection = _connect(path, "rw")
    try:
        return _read_schema_number(connection, path) != schema.SCHEMA
    finally:
        connection.close()


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    if _read_schema_number(connection, path) != schema.SCHEMA:
        schema.migrate(connection)


def _read_schema_number(connection: sqlite3.Connection, path: Path) -> int:
    """The file's schema number, 0 for an empty one; raises IndexUnusableError."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    if application != schema.APPLICATION_ID:
        # a first migration that was killed may have left its own bookkeeping table
        if application or any("_sqlite_migrations" not in name for name in tables):
            raise IndexUnusableError(
                f"{path} is a database, but not an index of neuromirror; name another file with "
                "--index, or move this one away"
            )
        return 0
    if version > schema.SCHEMA:
        raise IndexUnusableError(
            f"the index {path} was made by a newer neuromirror (schema {version}, this one knows "
            f"{schema.SCHEMA}); install that release, or {REBUILD_HINT}"
        )
    if version and "progress" not in tables:
        raise IndexUnusableError(f"the index {path} lacks its tables; {REBUILD_HINT}")
    return int(version)


def _check_sqlite_version() -> None:
    if sqlite3.sqlite_version_info < MIN_SQLITE_VERSION:
        needed = ".".join(map(str, MIN_SQLITE_VERSION))
        raise IndexUnusableError(
            f"Python is linked with SQLite {sqlite3.sqlite_version}; the index needs {needed}"
        )
