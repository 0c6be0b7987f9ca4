"""The index: opened, brought up to date from the journal, rebuilt."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self

from neuromirror.index.ancestry_queries import AncestryQueries
from neuromirror.index.browse_queries import BrowseQueries
from neuromirror.index.connection import (
    file_identity,
    is_stale,
    open_reader,
    open_scratch,
    open_writer,
    translate_errors,
    write_lock,
)
from neuromirror.index.contents import ContentWriter
from neuromirror.index.crawl_queries import CrawlQueries
from neuromirror.index.effective_entries import effective_entries
from neuromirror.index.errors import IndexUnusableError
from neuromirror.index.location_queries import LocationQueries
from neuromirror.index.lookup_queries import LookupQueries
from neuromirror.index.name_queries import NameQueries
from neuromirror.index.replay import Journal, apply_entry, record_skipped_version
from neuromirror.index.rows import FailureRow
from neuromirror.index.search_queries import SearchQueries
from neuromirror.model import NeuromirrorError, SnapshotEntry, VersionMinted, record_line_of

LOCK_WAIT = 60.0
"""Seconds to wait for another writer."""

Progress = Callable[[int], None]
"""Is told the bytes of the journal applied so far."""

_BATCH = 8000


class Index(
    AncestryQueries,
    SearchQueries,
    NameQueries,
    BrowseQueries,
    LookupQueries,
    CrawlQueries,
    LocationQueries,
):
    """The index of a store, for the thread that opened it; opening another takes milliseconds.

    Iterators read as they go: close or exhaust them before :meth:`close`.
    """

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        writable: bool,
        lock_wait: float,
        file: tuple[int, ...] = (),
    ) -> None:
        self.path = path
        self._db = connection
        self._writable = writable
        self._lock_wait = lock_wait
        self._file = file or file_identity(path)

    @classmethod
    def open(cls, path: Path, *, lock_wait: float = LOCK_WAIT) -> Self:
        """Open to read and write; makes the file, or migrates an older one.

        Raises :class:`IndexUnusableError` for a file that is corrupt, of a newer schema or not
        ours.
        """
        before = file_identity(path)  # what comes in its place while it is opened is another one
        return cls(path, open_writer(path, lock_wait), True, lock_wait, before)

    @classmethod
    def open_readonly(cls, path: Path) -> Self:
        """Open to read, beside a writer if there is one; raises :class:`IndexMissingError` as
        well."""
        before = file_identity(path)
        return cls(path, open_reader(path), False, LOCK_WAIT, before)

    @classmethod
    def of_contents(cls, path: Path, files: Iterable[SnapshotEntry]) -> Self:
        """An index of what is known of the contents of some files, and of nothing else.

        It takes the place on disk, and not in memory, that a large version needs; ``path`` names a
        file that is not there yet, and that the caller removes.
        """
        with translate_errors(path):
            connection = open_scratch(path)
            try:
                connection.execute("BEGIN")
                contents, left = ContentWriter(connection), map(record_line_of, files)
                while some := list(islice(left, _BATCH)):
                    contents.resolve(some)
                connection.execute("COMMIT")
            except BaseException:
                connection.close()
                raise
        return cls(path, connection, False, LOCK_WAIT)

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
        """Close the file."""
        self._db.close()

    @property
    def position(self) -> int:
        """Bytes of the journal that are applied."""
        row = self._row("SELECT position FROM progress")
        assert row is not None
        return int(row[0])

    @property
    def is_replaced(self) -> bool:
        """Whether this connection sees an old state for good; open the index again.

        So after a rebuild has put another file in place, or after any write where the index was
        opened as an immutable one.
        """
        return is_stale(self._db, self.path, self._file)

    def catch_up(self, journal: Journal, progress: Progress | None = None) -> int:
        """Apply what the journal has beyond :attr:`position`; gives the number of entries.

        Each entry is one transaction together with its position: killed anywhere and repeated,
        the tables are the same. A version whose records are missing or damaged is left out and
        recorded as a failure, and the others go on. Raises :class:`IndexBusyError` if another
        process
        writes for more than a minute.
        """
        if not self._writable:
            raise IndexUnusableError(f"the index {self.path} was opened to be read only")
        with write_lock(self.path, self._lock_wait), translate_errors(self.path):
            if self.is_replaced:
                self._db.close()
                self._db = open_writer(self.path, None)
                self._file = file_identity(self.path)
            return _apply_all(self._db, journal, self.position, progress, leave_out=True)

    def failures(self) -> list[FailureRow]:
        """Everything that fails now: tasks, visits, and locations that lost what they had."""
        return sorted(
            [*self.failed_tasks(), *self.failed_visits(), *self.location_failures()],
            key=lambda one: (one.mirror, one.task, one.dataset or ""),
        )

    def dump(self) -> Iterator[str]:
        """Every row of every table as text, in a fixed order: equal indexes, equal dumps (I8).

        But for the inner tables of full-text search, which tell in how many steps it was filled.
        """
        names = self._rows(
            "SELECT name FROM sqlite_master WHERE type = 'table' "
            r"AND name NOT LIKE '%\_text\_%' ESCAPE '\' ORDER BY name"
        )
        for (name,) in list(names):
            columns = [row[1] for row in self._rows(f'PRAGMA table_info("{name}")')]
            order = ", ".join(f'"{column}"' for column in columns)
            for row in self._rows(f'SELECT {order} FROM "{name}" ORDER BY {order}'):
                yield f"{name} {row!r}"


def rebuild_from_journal(
    path: Path, journal: Journal, progress: Progress | None = None, lock_wait: float = LOCK_WAIT
) -> int:
    """Make the index again from the whole journal; gives the number of entries.

    It is built beside the old one, which stays in use until the new one takes its place in one
    step; readers that have the old one open keep it (see :attr:`Index.replaced`). Raises what
    reading a version's records raises, with the old index kept: it may have that version.
    """
    scratch = path.with_name(path.name + ".rebuild")
    if not path.parent.is_dir():
        raise IndexUnusableError(f"the folder of the index {path} does not exist; create it first")
    with write_lock(path, lock_wait), translate_errors(scratch):
        scratch.unlink(missing_ok=True)
        try:
            connection = open_scratch(scratch)
            try:
                entries = _apply_all(connection, journal, 0, progress)
                connection.execute("PRAGMA locking_mode = NORMAL")
                connection.execute("SELECT position FROM progress").fetchone()
                connection.execute("PRAGMA journal_mode = DELETE")
                connection.execute("PRAGMA journal_mode = WAL")
            finally:
                connection.close()
            _fsync(scratch)
            replace_index_file(scratch, path)
        finally:
            for name in (scratch, *_log_files(scratch)):
                name.unlink(missing_ok=True)
    return entries


def _apply_all(
    connection: sqlite3.Connection,
    journal: Journal,
    position: int,
    progress: Progress | None,
    *,
    leave_out: bool = False,
) -> int:
    """Apply entries from a position on; ``leave_out`` versions whose records are damaged."""
    entries = 0
    for end, entry in effective_entries(journal, position):
        try:
            with _transaction(connection):
                apply_entry(connection, entry, journal)
                connection.execute("UPDATE progress SET position = ?", (end,))
        except (NeuromirrorError, ValueError) as error:  # ValueError: a line that is no record
            if not (leave_out and isinstance(entry, VersionMinted)):
                raise
            with _transaction(connection):
                record_skipped_version(connection, entry, error)
                connection.execute("UPDATE progress SET position = ?", (end,))
        entries += 1
        if progress is not None:
            progress(end)
    return entries


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def replace_index_file(scratch: Path, path: Path) -> None:
    """Replace the old index; a log of the old one must never be read into the new one.

    The caller holds the writing lock, and ``scratch`` is on disk.
    """
    if not _log_is_empty(path):
        path.unlink(missing_ok=True)
    for name in _log_files(path):
        name.unlink(missing_ok=True)
    os.replace(scratch, path)
    _fsync(path.parent)


def _log_is_empty(path: Path) -> bool:
    """Bring the old index's log into its file; False where that cannot be done."""
    if not path.is_file():
        return True
    with contextlib.suppress(sqlite3.DatabaseError):
        connection = sqlite3.connect(path, timeout=1, isolation_level=None)
        try:
            (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            return not busy
        finally:
            connection.close()
    return False


def _log_files(path: Path) -> tuple[Path, Path]:
    return path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
