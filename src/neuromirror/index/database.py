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
from functools import cache, partial
from itertools import islice
from operator import attrgetter
from pathlib import Path
from types import GenericAlias
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, get_args, get_origin, get_type_hints

import msgspec

from neuromirror.index.connection import (
    IndexUnusableError,
    MalformedQueryError,
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
from neuromirror.index.crawl import CrawlQueries
from neuromirror.index.dataset_text import read_documents, refresh_text, stale_datasets
from neuromirror.index.datasets import DatasetQueries, NameQueries
from neuromirror.index.files import FileQueries
from neuromirror.index.locations import LocationQueries
from neuromirror.index.reader import Reader, reports_damage
from neuromirror.index.replay import apply_entry, effective_entries, record_skipped_version
from neuromirror.index.search import SearchQueries
from neuromirror.index.search_terms import TermQueries
from neuromirror.index.versions import AncestryQueries, VersionQueries
from neuromirror.model import (
    AnnexBranchMoved,
    NeuromirrorError,
    SnapshotEntry,
    VersionMinted,
    record_line_of,
)
from neuromirror.model.validation import analysed_type

if TYPE_CHECKING:
    from neuromirror.store import Store

LOCK_WAIT = 60.0
"""Seconds to wait for another writer."""

Progress = Callable[[int], None]
"""Called with the number of journal bytes applied so far."""

_BATCH = 8000


class Index:
    """An open index of a store, for use by the thread that opened it with :meth:`open`.

    Each thread opens its own, which takes milliseconds. The queries are those of its attributes;
    the iterators that they return read as they are consumed: close or exhaust them before
    :meth:`close`.

    Attributes
    ----------
    datasets, versions, files, locations
        Queries by what they return.
    names
        What a name, an id or a URL stands for.
    ancestry
        Which version was derived from which.
    search
        Datasets and files by search terms and facets.
    crawl
        Visits, holds, events, failures, and the status of mirrors.
    reader
        The connection of all of them.
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
        self.reader = Reader(path, connection)
        self._writable = writable
        self._lock_wait = lock_wait
        self._file = file or file_identity(path)
        terms = TermQueries(self.reader)
        self.datasets = DatasetQueries(self.reader, terms)
        self.versions = VersionQueries(self.reader)
        self.locations = LocationQueries(self.reader)
        self.files = FileQueries(self.reader, self.locations)
        self.names = NameQueries(self.reader, self.versions)
        self.ancestry = AncestryQueries(self.reader, self.versions)
        self.search = SearchQueries(self.reader, terms, self.datasets, self.files)
        self.crawl = CrawlQueries(self.reader, self.locations)

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
        self.reader.connection.close()

    @property
    @reports_damage
    def position(self) -> int:
        """Bytes of the journal that have been applied."""
        row = self.reader.row("SELECT position FROM progress")
        assert row is not None
        return int(row[0])

    @property
    def is_replaced(self) -> bool:
        """Whether this connection no longer sees the current state; open the index again then.

        True after a rebuild replaced the file, and for an immutable connection after any write.
        """
        return is_stale(self.reader.connection, self.path, self._file)

    @reports_damage
    def catch_up(self, store: Store) -> int:
        """Apply the journal entries after :attr:`position`; return their number.

        Each entry and the new position are one transaction, so an interrupted run can be repeated.
        A version whose records are missing or damaged is skipped and recorded as a failure.

        Parameters
        ----------
        store : Store
            The store.

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
                self.reader.connection.close()
                self.reader.connection = open_writer(self.path, None)
                self._file = file_identity(self.path)
            return _apply_all(self.reader.connection, store, self.position, None, skip_damaged=True)


def index_path(store: Store, given: str | os.PathLike[str] | None = None) -> Path:
    """Return the path of a store's index: the given one or, always for a private store, its own."""
    from neuromirror.store.private_store import is_private_store

    return Path(given) if given and not is_private_store(store.root) else store.index_path


@contextlib.contextmanager
def open_index(
    store: str | os.PathLike[str] | None = None, index: str | os.PathLike[str] | None = None
) -> Iterator[tuple[Store, Index]]:
    """Open a store and its index, read only, for the duration of the block.

    Parameters
    ----------
    store
        The folder of the store; by default as :func:`neuromirror.store.store_folder`.
    index
        The file of the index. By default it is that of the store or, if no store was given, that
        of ``NEUROMIRROR_INDEX``.

    Raises
    ------
    NotAStoreError
        There is no store.
    IndexUnusableError
        There is no index, or it is damaged.
    """
    from neuromirror.store import open_store

    opened = open_store(store)
    if store is None:
        index = index or os.environ.get("NEUROMIRROR_INDEX")
    with Index.open_readonly(index_path(opened, index)) as reader:
        yield opened, reader


def rebuild_from_journal(
    path: Path, store: Store, progress: Progress | None = None, lock_wait: float = LOCK_WAIT
) -> int:
    """Rebuild the index from the whole journal; return the number of entries.

    It is built next to the old index, which stays in use until it is replaced in one step. Readers
    that have the old one open keep it (see :attr:`Index.is_replaced`).

    Parameters
    ----------
    path : Path
        The index file.
    store : Store
        The store.
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
                entries = _apply_all(connection, store, 0, progress)
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
    store: Store,
    position: int,
    progress: Progress | None,
    *,
    skip_damaged: bool = False,
) -> int:
    """Apply entries from a position on; optionally skip versions with damaged records."""
    entries = 0
    for end, entry in effective_entries(store, position):
        try:
            with transaction(connection):
                apply_entry(connection, entry, store)
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
            metadata = read_documents(connection, dataset, store.repositories)
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


class QuerySender(Protocol):
    """Sends queries to the process that has the index, and returns their encoded results."""

    def query(self, name: str, arguments: dict[str, Any]) -> msgspec.Raw:
        """Send a query; its error is raised here.

        Parameters
        ----------
        name
            The name of a query, such as ``versions.resolve``.
        arguments
            The arguments of the method, by name.

        Returns
        -------
        msgspec.Raw
            The encoded result.
        """
        ...


class _RemoteQuery:
    """A method of a query object that another process runs.

    Arguments and results are encoded as MessagePack, and decoded as the types of the method; the
    result of an iterator is a list.
    """

    def __init__(self, name: str) -> None:
        group, _, method = name.partition(".")
        function = getattr(_REMOTE_QUERIES.get(group), method, None)
        if function is None or method.startswith("_"):
            raise MalformedQueryError(f"the index has no query {name!r} for jobs")
        self._signature = inspect.signature(function)
        self._types = get_type_hints(function)
        self._yields = get_origin(self._types["return"]) is Iterator

    def ask(self, sender: QuerySender, name: str, *args: Any, **kwargs: Any) -> Any:
        """Send the query and return its decoded result."""
        arguments = self._signature.bind(None, *args, **kwargs).arguments
        del arguments["self"]
        kind = self._types["return"]
        if self._yields:
            kind = GenericAlias(list, get_args(kind))
        result = msgspec.msgpack.decode(sender.query(name, arguments), type=analysed_type(kind))
        return iter(result) if self._yields else result

    def answer(self, index: Index, name: str, arguments: dict[str, msgspec.Raw]) -> bytes:
        """Run the query; raises msgspec.ValidationError for arguments of another type."""
        decoded = {
            argument: msgspec.msgpack.decode(value, type=analysed_type(self._types[argument]))
            for argument, value in arguments.items()
        }
        result = attrgetter(name)(index)(**decoded)
        return msgspec.msgpack.encode(list(result) if self._yields else result)


_REMOTE_QUERIES: Final = {
    "crawl": CrawlQueries,
    "datasets": DatasetQueries,
    "files": FileQueries,
    "locations": LocationQueries,
    "versions": VersionQueries,
}
"""The query objects of :class:`RemoteIndex`, by name."""
_remote_query = cache(_RemoteQuery)


class _RemoteQueries:
    """Asks another process for the queries of one object."""

    def __init__(self, sender: QuerySender, group: str) -> None:
        self._sender = sender
        self._group = group

    def __getattr__(self, method: str) -> Callable[..., Any]:
        name = f"{self._group}.{method}"
        return partial(_remote_query(name).ask, self._sender, name)


class RemoteIndex:
    """The queries of :class:`Index` that a crawl needs, answered by another process.

    A worker uses it: only the writer process has the index open. ``sender`` sends the queries.
    """

    crawl: CrawlQueries
    datasets: DatasetQueries
    files: FileQueries
    locations: LocationQueries
    versions: VersionQueries

    def __init__(self, sender: QuerySender) -> None:
        for group in _REMOTE_QUERIES:
            setattr(self, group, _RemoteQueries(sender, group))

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
    try:
        return _remote_query(name).answer(index, name, arguments)
    except (msgspec.DecodeError, KeyError) as error:
        raise MalformedQueryError(f"the query {name!r} has invalid arguments: {error}") from error
