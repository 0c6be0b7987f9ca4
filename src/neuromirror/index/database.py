"""The index of a store, opened for reading or writing, or queried from another machine.

A job on another machine must not read an SQLite file over a network. Its :class:`RemoteIndex` has
the queries of a crawl, with the types of :class:`Index`; :func:`answer_query` runs one of them.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from types import GenericAlias
from typing import (
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    Protocol,
    Self,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec

from neuromirror.index.browse_queries import AncestryQueries, BrowseQueries
from neuromirror.index.connection import (
    ReadConnection,
    file_identity,
    fsync_path,
    is_stale,
    open_reader,
    open_scratch,
    open_writer,
    transaction,
    translate_errors,
    write_lock,
)
from neuromirror.index.contents import ContentWriter
from neuromirror.index.crawl_queries import CrawlQueries
from neuromirror.index.dataset_queries import NameQueries
from neuromirror.index.dataset_text import read_documents, refresh_text, stale_datasets
from neuromirror.index.errors import IndexUnusableError, MalformedQueryError
from neuromirror.index.file_queries import ContentQueries, LocationQueries, LookupQueries
from neuromirror.index.query_base import ResultCache
from neuromirror.index.replay import Journal, apply_entry, effective_entries, record_skipped_version
from neuromirror.index.rows import FailureRow
from neuromirror.index.search_queries import SearchQueries
from neuromirror.model import (
    AnnexBranchMoved,
    NeuromirrorError,
    SnapshotEntry,
    VersionMinted,
    record_line_of,
)
from neuromirror.model.validation import analysed_type

LOCK_WAIT = 60.0
"""Seconds to wait for another writer."""

Progress = Callable[[int], None]
"""Called with the number of journal bytes applied so far."""

_BATCH = 8000


class Index(
    AncestryQueries,
    SearchQueries,
    NameQueries,
    BrowseQueries,
    LookupQueries,
    CrawlQueries,
    LocationQueries,
    ContentQueries,
):
    """An open index of a store, for use by the thread that opened it with :meth:`open`.

    Each thread opens its own, which takes milliseconds.

    Iterators read as they are consumed: close or exhaust them before :meth:`close`.
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
        if isinstance(connection, ReadConnection):
            self._results = ResultCache(connection)

    @classmethod
    def open(cls, path: Path, *, lock_wait: float = LOCK_WAIT) -> Self:
        """Open for reading and writing; create the file if it does not exist.

        Parameters
        ----------
        path : Path
            The index file.
        lock_wait : float
            Seconds to wait for another writer, here and in :meth:`catch_up`.

        Returns
        -------
        Self
            The index; close it after use.

        Raises
        ------
        IndexUnusableError
            If the file is damaged, has another schema version or is not an index.
        IndexBusyError
            If another process writes for longer.
        """
        before = file_identity(path)  # before opening, to notice a replacement meanwhile
        return cls(path, open_writer(path, lock_wait), True, lock_wait, before)

    @classmethod
    def open_readonly(cls, path: Path) -> Self:
        """Open for reading, also next to a writer.

        Parameters
        ----------
        path
            The index file.

        Returns
        -------
        Self
            The index; close it after use.

        Raises
        ------
        IndexMissingError
            The file does not exist.
        IndexUnusableError
            The file is damaged, has another schema version or is not an index.
        """
        before = file_identity(path)
        return cls(path, open_reader(path), False, LOCK_WAIT, before)

    @classmethod
    def of_contents(cls, path: Path, files: Iterable[SnapshotEntry]) -> Self:
        """Create an index of the contents of some files, without datasets.

        It keeps the contents of a large version on disk instead of in memory. ``path`` must not
        exist; the caller removes it.

        Parameters
        ----------
        path
            The file to create.
        files
            The files.

        Returns
        -------
        Self
            The index; close it after use.
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

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @property
    def position(self) -> int:
        """Bytes of the journal that have been applied."""
        row = self._row("SELECT position FROM progress")
        assert row is not None
        return int(row[0])

    @property
    def is_replaced(self) -> bool:
        """Whether this connection no longer sees the current state; open the index again then.

        True after a rebuild replaced the file, and for an immutable connection after any write.
        """
        return is_stale(self._db, self.path, self._file)

    def catch_up(self, journal: Journal) -> int:
        """Apply the journal entries after :attr:`position`; return their number.

        Each entry and the new position are one transaction, so an interrupted run can be repeated.
        A version whose records are missing or damaged is skipped and recorded as a failure.

        Parameters
        ----------
        journal : Journal
            The store's journal.

        Returns
        -------
        int
            The number of applied entries.

        Raises
        ------
        IndexUnusableError
            If the index is open for reading only.
        IndexBusyError
            If another process writes for longer than ``lock_wait``.
        """
        if not self._writable:
            raise IndexUnusableError(f"the index {self.path} is open for reading only")
        with write_lock(self.path, self._lock_wait), translate_errors(self.path):
            if self.is_replaced:
                self._db.close()
                self._db = open_writer(self.path, None)
                self._file = file_identity(self.path)
            return _apply_all(self._db, journal, self.position, None, skip_damaged=True)

    def failures(self) -> list[FailureRow]:
        """Return all current failures: of tasks, visits, and locations that lost contents.

        Returns
        -------
        list[FailureRow]
            The failures.
        """
        return sorted(
            [*self.failed_tasks(), *self._failed_visits(), *self.location_failures()],
            key=lambda one: (one.mirror, one.task, one.dataset or ""),
        )


def rebuild_from_journal(
    path: Path, journal: Journal, progress: Progress | None = None, lock_wait: float = LOCK_WAIT
) -> int:
    """Rebuild the index from the whole journal; return the number of entries.

    It is built next to the old index, which stays in use until it is replaced in one step. Readers
    that have the old one open keep it (see :attr:`Index.is_replaced`).

    Parameters
    ----------
    path : Path
        The index file.
    journal : Journal
        The store's journal.
    progress : callable, optional
        Called with the number of bytes applied so far.
    lock_wait : float
        Seconds to wait for another writer.

    Returns
    -------
    int
        The number of journal entries.

    Raises
    ------
    JournalDamagedError
        If the records of a version are damaged; the old index, which may have the version, is kept.
    IndexBusyError
        If another process writes for longer than ``lock_wait``.
    IndexUnusableError
        The folder of the index does not exist.
    """
    scratch = path.with_name(path.name + ".rebuild")
    if not path.parent.is_dir():
        raise IndexUnusableError(f"the folder of the index {path} does not exist; create it first")
    with write_lock(path, lock_wait), translate_errors(scratch):
        scratch.unlink(missing_ok=True)
        try:
            with contextlib.closing(open_scratch(scratch)) as connection:
                entries = _apply_all(connection, journal, 0, progress)
                connection.execute("PRAGMA locking_mode = NORMAL")
                connection.execute("SELECT position FROM progress").fetchone()
                connection.execute("PRAGMA journal_mode = DELETE")
                connection.execute("PRAGMA journal_mode = WAL")
            fsync_path(scratch)
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
    skip_damaged: bool = False,
) -> int:
    """Apply entries from a position on; optionally skip versions with damaged records."""
    entries = 0
    for end, entry in effective_entries(journal, position):
        try:
            with transaction(connection):
                apply_entry(connection, entry, journal)
                connection.execute("UPDATE progress SET position = ?", (end,))
        except (NeuromirrorError, ValueError) as error:  # ValueError: a malformed record line
            if not (skip_damaged and isinstance(entry, VersionMinted | AnnexBranchMoved)):
                raise
            with transaction(connection):
                record_skipped_version(connection, entry, error)
                connection.execute("UPDATE progress SET position = ?", (end,))
        entries += 1
        if progress is not None:
            progress(end)
    for dataset in stale_datasets(connection):
        try:
            metadata = read_documents(connection, dataset, journal)
        except FileNotFoundError:  # git is not installed; the next update reads them
            break
        with transaction(connection):
            refresh_text(connection, dataset, metadata)
    return entries


def replace_index_file(scratch: Path, path: Path) -> None:
    """Put a rebuilt index in the place of the old one, and delete the old one's write-ahead log.

    The caller holds the write lock. The log of the old file must never be applied to the new one.

    Parameters
    ----------
    scratch
        The rebuilt index, complete and synced to disk.
    path
        The index file.
    """
    if not _log_is_empty(path):
        path.unlink(missing_ok=True)
    for name in _log_files(path):
        name.unlink(missing_ok=True)
    os.replace(scratch, path)
    fsync_path(path.parent)


def _log_is_empty(path: Path) -> bool:
    """Write the old index's log into its file; return False if that is impossible."""
    if not path.is_file():
        return True
    with (
        contextlib.suppress(sqlite3.DatabaseError),
        contextlib.closing(sqlite3.connect(path, timeout=1, isolation_level=None)) as connection,
    ):
        (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy
    return False


def _log_files(path: Path) -> tuple[Path, Path]:
    return path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")


_P = ParamSpec("_P")
_T = TypeVar("_T")


class QuerySender(Protocol):
    """Sends queries to the process that has the index, and returns their encoded results."""

    def query(self, name: str, arguments: dict[str, Any]) -> msgspec.Raw:
        """Send a query to the process that has the index.

        The error of a query is raised here.

        Parameters
        ----------
        name
            The name of a method of :class:`Index`.
        arguments
            The arguments of the method, by name.

        Returns
        -------
        msgspec.Raw
            The encoded result.
        """
        ...


class _RemoteQuery(Generic[_P, _T]):
    """A method of :class:`Index` that another process runs; the result of an iterator is a list.

    Arguments and results are encoded as MessagePack, and decoded as the types of the method.
    """

    def __init__(self, method: Callable[Concatenate[Index, _P], _T]) -> None:
        self._method = method

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, remote: RemoteIndex, owner: type) -> Callable[_P, _T]:
        def query(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            bound = self._signature.bind(None, *args, **kwargs).arguments
            del bound["self"]
            found = self._result.decode(remote.sender.query(self._name, bound))
            result: _T = iter(found) if self._yields else found
            return result

        return query

    def answer(self, index: Index, arguments: dict[str, msgspec.Raw]) -> bytes:
        """Run the query; raises msgspec.ValidationError for arguments of another type."""
        known = {
            name: msgspec.msgpack.decode(value, type=analysed_type(self._types[name]))
            for name, value in arguments.items()
        }
        found = self._method(index, **known)  # type: ignore[call-arg]
        return msgspec.msgpack.encode(list(found) if isinstance(found, Iterator) else found)

    @cached_property
    def _signature(self) -> inspect.Signature:
        return inspect.signature(self._method)

    @cached_property
    def _types(self) -> dict[str, Any]:
        return get_type_hints(self._method)

    @cached_property
    def _yields(self) -> bool:
        return get_origin(self._types["return"]) is Iterator

    @cached_property
    def _result(self) -> msgspec.msgpack.Decoder[Any]:
        kind = self._types["return"]
        if self._yields:
            kind = GenericAlias(list, get_args(kind))
        return msgspec.msgpack.Decoder(analysed_type(kind))


class RemoteIndex:
    """The queries of :class:`Index` that a crawl needs, answered by another process.

    A worker uses it: only the writer process has the index open. ``sender`` sends the queries.
    """

    capabilities = _RemoteQuery(Index.capabilities)
    dataset = _RemoteQuery(Index.dataset)
    datasets = _RemoteQuery(Index.datasets)
    events = _RemoteQuery(Index.events)
    exceptions = _RemoteQuery(Index.exceptions)
    exclusive_subdatasets = _RemoteQuery(Index.exclusive_subdatasets)
    failed_tasks = _RemoteQuery(Index.failed_tasks)
    has_failures = _RemoteQuery(Index.has_failures)
    known_contents = _RemoteQuery(Index.known_contents)
    known_locations = _RemoteQuery(Index.known_locations)
    last_version = _RemoteQuery(Index.last_version)
    last_visits = _RemoteQuery(Index.last_visits)
    links = _RemoteQuery(Index.links)
    local_ids_with_versions = _RemoteQuery(Index.local_ids_with_versions)
    mirror_status = _RemoteQuery(Index.mirror_status)
    names_in_other_mirrors = _RemoteQuery(Index.names_in_other_mirrors)
    open_holds = _RemoteQuery(Index.open_holds)
    published_version = _RemoteQuery(Index.published_version)
    released_datasets = _RemoteQuery(Index.released_datasets)
    released_states = _RemoteQuery(Index.released_states)
    resolve = _RemoteQuery(Index.resolve)
    subdatasets = _RemoteQuery(Index.subdatasets)
    superdatasets = _RemoteQuery(Index.superdatasets)
    tombstone = _RemoteQuery(Index.tombstone)
    tombstones = _RemoteQuery(Index.tombstones)
    versions = _RemoteQuery(Index.versions)
    visits = _RemoteQuery(Index.visits)

    def __init__(self, sender: QuerySender) -> None:
        self.sender = sender

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: the index belongs to the other process."""


CrawlIndex = Index | RemoteIndex
"""The index as a crawl reads it: the file, or the process that has it."""


def answer_query(index: Index, name: str, arguments: dict[str, msgspec.Raw]) -> bytes:
    """Return the encoded result of a query of a :class:`RemoteIndex`.

    Parameters
    ----------
    index
        The index.
    name
        The name of the query.
    arguments
        The encoded arguments, by name.

    Returns
    -------
    bytes
        The encoded result.

    Raises
    ------
    MalformedQueryError
        If there is no such query, or its arguments have other types.
    NeuromirrorError
        Whatever the query raises.
    """
    query = vars(RemoteIndex).get(name)
    if not isinstance(query, _RemoteQuery):
        raise MalformedQueryError(f"the index has no query {name!r} for jobs")
    try:
        return query.answer(index, arguments)
    except (msgspec.DecodeError, KeyError) as error:
        raise MalformedQueryError(f"the query {name!r} has invalid arguments: {error}") from error
