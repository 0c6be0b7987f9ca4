"""Read-only connections for SQL statements of anonymous clients.

Only reading the tables of the index is allowed, by a list of actions and functions. Steps and
memory of each statement are limited, except within single SQLite functions, which no limit
interrupts (``instr`` of two long texts): the process that runs them needs limits of its own.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from neuromirror.index.connection import (
    ReadConnection,
    file_identity,
    is_stale,
    open_reader,
    translate_errors,
)
from neuromirror.index.errors import REBUILD_HINT, IndexBusyError, IndexDamagedError
from neuromirror.index.query_base import HAS_ROWS

MAX_VALUE_BYTES = 1 << 20
"""Maximum size of a text or blob, and of a row."""
MAX_RESULT_BYTES = 8 << 20
"""Maximum size of all rows of a result."""
MAX_STEPS = 100_000_000
"""Steps of SQLite's virtual machine, some seconds."""
MAX_HEAP_BYTES = 128 << 20
"""Memory limit of SQLite in this process."""

_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: MAX_VALUE_BYTES,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 65_536,
    sqlite3.SQLITE_LIMIT_COLUMN: 200,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 20,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 50_000,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 50,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 200,
    sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER: 2_000,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 1,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}

_FUNCTIONS = """
char concat concat_ws format glob group_concat hex instr length like lower ltrim match octet_length
printf quote replace rtrim string_agg substr substring trim unicode upper
abs avg ceil ceiling count exp floor ln log log10 log2 max min mod pow power round sign sqrt sum
total trunc
date datetime julianday strftime time timediff unixepoch
coalesce if ifnull iif likelihood likely nullif typeof unlikely
cume_dist dense_rank first_value lag last_value lead nth_value ntile percent_rank rank row_number
bm25 escape_fts highlight snippet
-> ->> json json_array json_array_length json_each json_extract json_group_array json_group_object
json_object json_quote json_tree json_type json_valid
"""
"""Allowed functions, for text, numbers, dates, values, windows, full-text search and JSON.

``escape_fts`` is Datasette's.
"""
_ALLOWED_FUNCTIONS = frozenset(_FUNCTIONS.split())
_PRAGMAS = frozenset(
    {
        *("data_version", "foreign_key_list", "index_info", "index_list", "index_xinfo"),
        *("schema_version", "table_info", "table_xinfo"),
    }
)
"""PRAGMAs that describe tables; none names a file or changes anything."""

_PRIVATE_COLUMNS = frozenset({("failures", "message"), ("visits", "message")})
"""Messages for the operator, which may contain paths and private URLs."""

_SCHEMA = frozenset({"sqlite_master", "sqlite_schema"})
_ROW_BYTES = 100
"""Size in bytes that is counted for each row in addition to its values."""


_Result = TypeVar("_Result")


class StatementRefusedError(sqlite3.OperationalError):
    """A client's statement exceeded a limit, which the message names."""


class _Cursor(sqlite3.Cursor):
    result_bytes = 0


class SandboxConnection(ReadConnection):
    """A read-only connection that limits the steps of each statement, and the bytes of its rows.

    A statement beyond a limit raises :class:`StatementRefusedError`, or SQLite interrupts it.
    """

    def cursor(self, factory: Any = None) -> Any:
        """Return a cursor that counts the bytes of its rows."""
        return super().cursor(factory or _Cursor)

    def execute(self, *given: Any) -> Any:
        """Execute a statement with a counting cursor."""
        return self.cursor().execute(*given)

    def set_progress_handler(self, handler: Callable[[], int | None] | None, n: int) -> None:
        """Set a progress handler that also stops after :data:`MAX_STEPS` steps."""
        left = MAX_STEPS // max(n, 1)

        def counted() -> int:
            nonlocal left
            left -= 1
            return 1 if left < 0 or (handler is not None and handler()) else 0

        super().set_progress_handler(None if handler is None else counted, n)


class SandboxIndex:
    """Opens the index at a path for SQL statements of clients, and reopens it once it was replaced.

    Parameters
    ----------
    path
        The index file.
    prepare
        Called with each new connection before SQLite's authorizer restricts it.
    """

    def __init__(self, path: Path, prepare: Callable[[sqlite3.Connection], None]) -> None:
        self._path = path
        self._prepare = prepare
        self._connection: SandboxConnection | None = None
        self._opened: tuple[int, ...] = ()
        self._checked_version: int | None = None

    def connection(self) -> SandboxConnection:
        """Return the connection, opened again if the index was replaced.

        Returns
        -------
        SandboxConnection
            The connection, which only reads.

        Raises
        ------
        IndexMissingError, IndexUnusableError
            If the index cannot be opened.
        IndexBusyError
            While the index still has rows of a withdrawn dataset.
        """
        found = self._connection
        if found is not None and is_stale(found, self._path, self._opened):
            found.close()
            found = self._connection = None
        if found is None:
            found = self._connection = self._open()
        with translate_errors(self._path):
            self._refuse_withdrawn_rows(found)
        return found

    def run(self, read: Callable[[SandboxConnection], _Result]) -> _Result:
        """Call a function with the connection; raise as :meth:`connection` does.

        Damage raises IndexDamagedError, since callers would take it for an error in the statement.

        Parameters
        ----------
        read
            The function.

        Returns
        -------
        Any
            The result of ``read``.
        """
        try:
            return read(self.connection())
        except sqlite3.DatabaseError as error:
            damage = sqlite_damage_error(error)
            if damage is None:
                raise
            raise damage from error

    def _open(self) -> SandboxConnection:
        self._opened = file_identity(self._path)
        connection = open_reader(self._path, SandboxConnection)
        assert isinstance(connection, SandboxConnection)
        self._checked_version = None
        self._prepare(connection)
        connection.execute("PRAGMA trusted_schema = OFF")
        # memory is limited, temporary files are not
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute(f"PRAGMA hard_heap_limit = {MAX_HEAP_BYTES}")
        for limit, most in _LIMITS.items():
            connection.setlimit(limit, most)
        connection.row_factory = _count_row
        connection.set_authorizer(_authorize)
        return connection

    def _refuse_withdrawn_rows(self, connection: SandboxConnection) -> None:
        """Raise IndexBusyError between a withdrawal and the rebuild that it causes."""
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        if version == self._checked_version:
            return
        if connection.execute(_WITHDRAWN_ROWS).fetchone() is not None:
            raise IndexBusyError(
                f"the index {self._path} still has rows of a withdrawn dataset; try again later"
            )
        self._checked_version = version


_WITHDRAWN_ROWS = f"SELECT 1 FROM datasets d WHERE d.withdrawn <> '' AND {HAS_ROWS} LIMIT 1"


def _count_row(cursor: sqlite3.Cursor, values: tuple[Any, ...]) -> sqlite3.Row:
    assert isinstance(cursor, _Cursor)
    size = sum(len(value) for value in values if isinstance(value, (str, bytes)))
    cursor.result_bytes += size + _ROW_BYTES
    if size > MAX_VALUE_BYTES:
        raise StatementRefusedError(
            f"a row has more than {MAX_VALUE_BYTES} bytes; select fewer columns"
        )
    if cursor.result_bytes > MAX_RESULT_BYTES:
        raise StatementRefusedError(
            f"the result has more than {MAX_RESULT_BYTES} bytes; select fewer rows or columns"
        )
    return sqlite3.Row(cursor, values)


def _authorize(
    action: int, first: str | None, second: str | None, database: str | None, _: str | None
) -> int:
    """Allow or deny one action of a statement (https://www.sqlite.org/c3ref/set_authorizer.html)."""
    if action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE):
        return sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_READ:
        return _authorize_read((first or "").lower(), second, database)
    if action == sqlite3.SQLITE_FUNCTION:
        allowed = (second or "").lower() in _ALLOWED_FUNCTIONS
    elif action == sqlite3.SQLITE_PRAGMA:
        # with a value it would be set
        own = (first or "").lower() in ("schema_version", "data_version")
        allowed = (first or "").lower() in _PRAGMAS and not (own and second)
    else:
        # virtual tables declare their columns this way; the connection cannot write
        declaring = action in (sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE)
        allowed = action == sqlite3.SQLITE_CREATE_TABLE or (declaring and first == "sqlite_master")
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def _authorize_read(table: str, column: str | None, database: str | None) -> int:
    if (table, column) in _PRIVATE_COLUMNS:
        return sqlite3.SQLITE_IGNORE  # it is read as NULL
    if table.startswith("pragma_"):
        allowed = table.removeprefix("pragma_") in _PRAGMAS
    elif table.startswith("sqlite_"):
        allowed = table in _SCHEMA
    else:
        allowed = table not in ("dbstat", "bytecode", "tables_used")
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def refusal_message(error: BaseException) -> str | None:
    """Return why SQLite or a limit refused a client's statement; None for any other error.

    Parameters
    ----------
    error
        The error of a statement.

    Returns
    -------
    str | None
        The message for the client.
    """
    if isinstance(error, MemoryError):
        return "the statement exceeds its memory limit; select fewer rows or columns"
    if isinstance(error, StatementRefusedError):
        return str(error)
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    if isinstance(error, sqlite3.Error) and code in (sqlite3.SQLITE_AUTH, sqlite3.SQLITE_TOOBIG):
        return f"statements here may only read the tables of the index: {error}"
    if isinstance(error, sqlite3.ProgrammingError):
        return "the tables of the index have no such row key"
    return None


def sqlite_damage_error(error: BaseException) -> IndexDamagedError | None:
    """Return an IndexDamagedError if an error of SQLite means that the file is damaged, else None.

    Parameters
    ----------
    error
        The error of a statement.

    Returns
    -------
    IndexDamagedError | None
        The error to raise.
    """
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT):
        return IndexDamagedError(f"the index is damaged ({error}); {REBUILD_HINT}")
    return None
