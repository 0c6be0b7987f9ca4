"""Connections to the SQLite files of a store: opening, errors, transactions, replaced files.

There is one class of errors per cause.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, NoReturn, Self
from urllib.parse import quote

from msgspec import Struct

from neuromirror.index import schema
from neuromirror.model import ConfigurationError, NeuromirrorError

REBUILD_HINT = "run `neuromirror rebuild-index`: it is rebuilt from the store, no data is lost"


class IndexUnusableError(NeuromirrorError):
    """The index file is damaged, not writable, or of another schema version or kind."""


class IndexMissingError(IndexUnusableError):
    """The index file does not exist."""


class IndexDamagedError(IndexUnusableError):
    """The content of the index file is damaged."""


class IndexBusyError(NeuromirrorError):
    """Another process has held the index's write lock for too long."""


class QueryStoppedError(NeuromirrorError):
    """A query was stopped: it exceeded its time limit, or its client disconnected."""


class JournalDamagedError(NeuromirrorError):
    """The store's journal, or the records of a version, are damaged or inconsistent."""


class UnknownMirrorError(ConfigurationError):
    """No mirror of the requested name is in the index."""


class UnknownDatasetError(ConfigurationError):
    """No dataset of the requested name is in the index."""


class DatasetWithdrawnError(UnknownDatasetError):
    """The operator withdrew the requested dataset; the index shows only its tombstone."""


class UnknownVersionError(ConfigurationError):
    """The dataset has no version with the requested label, commit or state digest."""


class UnknownFileError(ConfigurationError):
    """The version has no file at the requested path."""


class UnknownAttributeError(ConfigurationError):
    """No dataset has an attribute of this name."""


class FilesNotIndexedError(NeuromirrorError):
    """The files of the requested version are not in the index but only in the store's records.

    The setting ``index_entries`` of its mirror excludes them.
    """


class UnknownHoldError(ConfigurationError):
    """No hold has the requested id."""


class AmbiguousNameError(ConfigurationError):
    """A shortened commit id or state matches more than one version."""


class MalformedQueryError(ConfigurationError):
    """A user's query is invalid.

    It is not a checksum or key, has no or too many search terms, or names an unknown facet or
    order.
    """


def damage_error(path: Path, error: BaseException) -> IndexDamagedError:
    """Return the IndexDamagedError for an index at a path, with an error that reading it caused.

    The message names the path and asks the operator to rebuild the index.
    """
    return IndexDamagedError(
        f"the index {path} is damaged ({type(error).__name__}: {error}); {REBUILD_HINT}"
    )


READ_TIMEOUT = 30.0
"""Seconds that a statement waits for another connection."""

STOPPED_MESSAGE = "the query exceeded its time limit; narrow it, or try again later"

MIN_SQLITE_VERSION = (3, 37, 0)  # STRICT tables
_POLL_SECONDS = 0.1

_LIMITS = {
    # the longest value of any query is a list of path blocks
    sqlite3.SQLITE_LIMIT_LENGTH: 64 << 20,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 1,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
"""Limits of read-only connections."""

_DAMAGE_CODES = (
    0,  # raised by Python itself: text that is not UTF-8
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_FORMAT,
    # the statements are constant, so an error in one means that the schema was modified
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_TOOBIG,
    sqlite3.SQLITE_INTERNAL,
)


DATABASE_ERRORS: Final = (sqlite3.Error, MemoryError, UnicodeDecodeError)
"""What reading or writing a database may raise."""
_DEFECTS: Final = (sqlite3.IntegrityError, sqlite3.ProgrammingError)


@contextlib.contextmanager
def translate_errors(path: Path) -> Iterator[None]:
    """Translate SQLite's errors into errors of the index; errors that are bugs pass unchanged.

    Parameters
    ----------
    path : Path
        The index file, for the messages.

    Raises
    ------
    IndexBusyError
        If another process holds a lock.
    QueryStoppedError
        If a progress handler interrupted the query.
    IndexDamagedError
        If the file is damaged.
    IndexUnusableError
        If the file cannot be read or written.
    """
    try:
        yield
    except DATABASE_ERRORS as error:
        raise_translated(error, path)


def raise_translated(error: BaseException, path: Path) -> NoReturn:
    """Raise the error of :func:`translate_errors` for one of :data:`DATABASE_ERRORS`.

    For queries, of which pages make hundreds: a context manager takes longer than a short one.
    """
    if isinstance(error, (MemoryError, UnicodeDecodeError)):
        # an impossible length in a row, or an SQLite message that quotes a damaged schema
        raise damage_error(path, error) from error
    if not isinstance(error, sqlite3.DatabaseError) or isinstance(error, _DEFECTS):
        raise error
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF  # the primary code
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        raise IndexBusyError(
            f"the index {path} is locked by another process; try again later"
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
            f"the index {path} cannot be read or written ({error}); check free space and "
            "permissions of its folder, then run the command again"
        ) from error
    raise error


class ReadConnection(sqlite3.Connection):
    """A read-only connection.

    If its attribute ``is_immutable`` is true, it was opened with SQLite's ``immutable=1`` and never
    sees changes of its file: compare :func:`file_identity` before queries.
    """

    is_immutable = False


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Run the block in a transaction, which an exception rolls back."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def file_identity(path: Path) -> tuple[int, ...]:
    """Return numbers that identify the state of a database file and its write-ahead log.

    The first two (device, inode) identify the file: if they change, it was replaced, and every
    connection to it must be opened again. The others change with every write: only a connection
    with :attr:`ReadConnection.is_immutable`, which never sees writes, must be opened again.

    Parameters
    ----------
    path
        The database file. If it is missing, the result is empty.

    Returns
    -------
    tuple[int, ...]
        Device, inode, size and modification time of the file, and of its log if there is one.
    """
    numbers: list[int] = []
    for name in (path, path.with_name(path.name + "-wal")):
        with contextlib.suppress(FileNotFoundError):
            found = name.stat()
            if name == path or found.st_size:
                numbers += [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns]
    return tuple(numbers)


def is_stale(connection: sqlite3.Connection, path: Path, opened: tuple[int, ...]) -> bool:
    """Return whether a connection must be opened again to see the current state of the index.

    That is so if the file was replaced, or if it changed and the connection is immutable.

    Parameters
    ----------
    connection : sqlite3.Connection
        An open connection.
    path : Path
        The file it was opened from.
    opened : tuple of int
        The result of :func:`file_identity` from just before the connection was opened.
    """
    immutable = isinstance(connection, ReadConnection) and connection.is_immutable
    compared = None if immutable else 2
    return file_identity(path)[:compared] != opened[:compared]


def open_writer(path: Path, lock_wait: float | None) -> sqlite3.Connection:
    """Open a connection that may write; create the file with its tables if it does not exist.

    Parameters
    ----------
    path : Path
        The index file.
    lock_wait : float or None
        Maximum seconds to wait for the write lock, which is needed only to create the tables; None
        if the caller already holds it.

    Raises
    ------
    IndexUnusableError
        If the file is not an index, has another schema version or cannot be written.
    IndexBusyError
        If another process holds the lock for longer.
    """
    _check_sqlite_version()
    if not path.parent.is_dir():
        raise IndexUnusableError(f"the folder of the index {path} does not exist; create it first")
    with translate_errors(path):
        locked = lock_wait is None or not _lacks_tables(path)
        with contextlib.nullcontext() if locked else write_lock(path, lock_wait or 0):
            connection = connect(path, "rwc")
            try:
                if not _has_tables(connection, path):
                    schema.create_tables(connection)
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")
                connection.execute("PRAGMA foreign_keys = ON")
                connection.execute("PRAGMA cache_size = -65536")
                # a huge version makes a huge log; release the space afterwards
                connection.execute(f"PRAGMA journal_size_limit = {64 << 20}")
            except BaseException:
                connection.close()
                raise
        return connection


def open_scratch(path: Path) -> sqlite3.Connection:
    """Create a new index file for a rebuild, with its tables, and open it for writing.

    It has no rollback journal and is not synced: a failed rebuild is discarded and repeated.
    """
    _check_sqlite_version()
    with translate_errors(path):
        connection = connect(path, "rwc")
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "locking_mode = EXCLUSIVE"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("PRAGMA cache_size = -131072")
        connection.execute("PRAGMA foreign_keys = ON")
        schema.create_tables(connection)
        return connection


def open_reader(path: Path) -> ReadConnection:
    """Open a read-only connection, also in a folder that is not writable.

    Parameters
    ----------
    path : Path
        The index file.

    Raises
    ------
    IndexMissingError
        If the file does not exist.
    IndexUnusableError
        If the file is not an index or has another schema version.
    """
    _check_sqlite_version()
    if not path.is_file():
        raise IndexMissingError(
            f"there is no index at {path}; run `neuromirror sync` to create a mirror, or "
            "`neuromirror rebuild-index` if only the index of an existing store is missing"
        )
    with translate_errors(path):
        connection = _connect_reader(path)
        try:
            if not _has_tables(connection, path):
                raise IndexUnusableError(f"the index {path} is empty; {REBUILD_HINT}")
            connection.execute("PRAGMA query_only = ON")
        except BaseException:
            connection.close()
            raise
        return connection


@contextlib.contextmanager
def write_lock(path: Path, wait: float) -> Iterator[None]:
    """Hold the lock of the single writer, ``<index>.lock``.

    Parameters
    ----------
    path : Path
        The index file.
    wait : float
        Seconds to wait for another writer.

    Raises
    ------
    IndexBusyError
        If another process holds the lock for longer.
    IndexUnusableError
        If the lock file cannot be created.
    """
    name = path.with_name(path.name + ".lock")
    try:
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise IndexUnusableError(
            f"the index {path} cannot be written: {name.name}: {error.strerror}; "
            "check the permissions of its folder"
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
                f"process {holder} has been writing the index {path} for more than {wait:g} "
                "seconds; wait until it has finished, then run the command again"
            ) from None


def connect(path: Path, mode: str, **options: Any) -> sqlite3.Connection:
    """Open a database with a mode of SQLite's URIs: ``ro``, ``rw`` or ``rwc``."""
    uri = f"file:{quote(str(path.absolute()))}?mode={mode}"
    opened: sqlite3.Connection = sqlite3.connect(
        uri, uri=True, timeout=READ_TIMEOUT, isolation_level=None, **options
    )
    return opened


def fsync_path(path: Path) -> None:
    """Fsync a file's content, or a folder's entries."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _connect_reader(path: Path, *, immutable: bool = False, **options: Any) -> ReadConnection:
    """Open a read-only connection, also in a folder that is not writable."""
    mode = "ro&immutable=1" if immutable else "ro"
    made = connect(path, mode, factory=ReadConnection, **options)
    assert isinstance(made, ReadConnection)
    made.is_immutable = immutable
    for limit, most in _LIMITS.items():
        made.setlimit(limit, most)
    try:
        made.execute("PRAGMA schema_version")
    except sqlite3.OperationalError as error:
        made.close()
        log = path.with_name(path.name + "-wal")
        denied = error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
        if immutable or not denied or (log.exists() and log.stat().st_size):
            raise
        # This reader may not create the log's files, and no process has them open. If a writer
        # starts while it reads, it may see a mixture of old and new pages: such a reader should be
        # short-lived, or compare `file_identity` before each query.
        return _connect_reader(path, immutable=True, **options)
    except BaseException:
        made.close()
        raise
    return made


def _lacks_tables(path: Path) -> bool:
    """Return whether the file does not exist or is empty; raises IndexUnusableError."""
    if not path.exists():
        return True
    with contextlib.closing(connect(path, "rw")) as connection:
        return not _has_tables(connection, path)


def _has_tables(connection: sqlite3.Connection, path: Path) -> bool:
    """Return whether a database is an index of this schema version; False if it is empty.

    Raises IndexUnusableError for any other database.
    """
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    if application != schema.APPLICATION_ID:
        if application or tables:
            raise IndexUnusableError(
                f"{path} is an SQLite database, but not an index of neuromirror; choose another "
                "file with --index, or move this one away"
            )
        return False
    if version != schema.SCHEMA:
        raise IndexUnusableError(
            f"the index {path} has schema {version}, this release needs schema {schema.SCHEMA}; "
            f"{REBUILD_HINT}"
        )
    if "progress" not in tables:
        raise IndexUnusableError(f"the index {path} lacks its tables; {REBUILD_HINT}")
    return True


def _check_sqlite_version() -> None:
    if sqlite3.sqlite_version_info < MIN_SQLITE_VERSION:
        needed = ".".join(map(str, MIN_SQLITE_VERSION))
        raise IndexUnusableError(
            f"Python is linked with SQLite {sqlite3.sqlite_version}; the index needs {needed}"
        )


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
    def open(cls, path: Path, format: DatabaseFormat, *, readonly: bool = False) -> Self:
        """Open a file, or create it.

        Parameters
        ----------
        path
            The file; its folder must exist.
        format
            The format of the database.
        readonly
            Whether to open an existing file for reading only.

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
            connection = (
                _connect_reader(path, check_same_thread=False)
                if readonly
                else connect(path, "rwc", check_same_thread=False)
            )
            try:
                is_new = _is_new(connection, path, format)
                if not readonly:
                    _prepare(connection, format, is_new=is_new)
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


def _is_new(connection: sqlite3.Connection, path: Path, format: DatabaseFormat) -> bool:
    """Return whether a database has no format yet; raise IndexUnusableError for another one."""
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
    return not application


def _prepare(connection: sqlite3.Connection, format: DatabaseFormat, *, is_new: bool) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {format.synchronous}")
    connection.execute("PRAGMA foreign_keys = ON")
    if is_new:
        connection.executescript(
            f"BEGIN IMMEDIATE; {format.tables} PRAGMA application_id = {format.application_id}; "
            f"PRAGMA user_version = {format.schema}; COMMIT;"
        )
