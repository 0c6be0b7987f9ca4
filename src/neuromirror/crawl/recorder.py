"""Write access to journal and index, shared by all visits of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from msgspec import Struct

from neuromirror.crawl.index_rebuild import rebuild_index
from neuromirror.index import CrawlIndex, Index, UnknownDatasetError, UnknownMirrorError
from neuromirror.model import DatasetRef, JournalEntry
from neuromirror.store import Store

_T = TypeVar("_T")


class RefMove(Struct, frozen=True):
    """Refs to be moved in one step.

    Attributes
    ----------
    expected, new
        As in :func:`neuromirror.store.update_refs`: the present and the new commits by ref.
    alias
        Replaces the dataset's own alias in the store; None keeps it.
    """

    expected: dict[str, str | None]
    new: dict[str, str]
    alias: str | None = None


class Recorder(Protocol):
    """Writes the refs and the journal of a store, and queries its index; thread-safe.

    Visits use it for all their writes. In a run it is a :class:`JournalRecorder`; in a worker of
    the service it sends the operations to the writer process.
    """

    def record(self, *entries: JournalEntry) -> None:
        """Append entries to the journal, then apply them to the index.

        Parameters
        ----------
        *entries
            The journal entries.
        """
        ...

    def publish(self, dataset: DatasetRef, move: RefMove, *entries: JournalEntry) -> None:
        """Move refs of a dataset's repository and update its alias; then record entries.

        Raises as :func:`neuromirror.store.update_refs`, and if another worker has the lease now.

        Parameters
        ----------
        dataset
            The dataset. The caller holds its lock, and has added the packs.
        move
            The refs.
        *entries
            The journal entries.
        """
        ...

    def ask(self, question: Callable[[CrawlIndex], _T]) -> _T:
        """Return the result of a query on the current index.

        Parameters
        ----------
        question
            Called with the index; its result must not be an iterator.

        Returns
        -------
        Any
            The result of ``question``.
        """
        ...

    def reader(self) -> CrawlIndex:
        """Return a read-only connection for the calling thread, which closes it.

        For millions of queries, which would block each other in :meth:`ask`.

        Returns
        -------
        CrawlIndex
            The index.
        """
        ...


def list_known(recorder: Recorder, question: Callable[[CrawlIndex], Iterable[_T]]) -> list[_T]:
    """Return the items of an index query about a dataset; none if the dataset is unknown."""
    try:
        return recorder.ask(lambda index: list(question(index)))
    except (UnknownDatasetError, UnknownMirrorError):
        return []


class JournalRecorder:
    """Appends entries to the store's journal and keeps the index up to date.

    It is thread-safe: a thread of its own runs all operations, because a SQLite connection belongs
    to one thread.
    """

    def __init__(self, store: Store, index_path: Path) -> None:
        self._store = store
        self._path = index_path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="index")
        self._index = self._thread.submit(self._open, index_path).result()

    def _open(self, path: Path) -> Index:
        index = Index.open(path)
        if index.position > self._store.journal_size():
            # a power failure truncated the journal after the index had read the lost lines
            index.close()
            rebuild_index(self._store, path)
            index = Index.open(path)
        index.catch_up(self._store)
        return index

    def record(self, *entries: JournalEntry) -> None:
        """Append entries to the journal, then apply them to the index.

        Parameters
        ----------
        *entries
            The journal entries.
        """
        self.append(*entries)
        self.catch_up()

    def publish(self, dataset: DatasetRef, move: RefMove, *entries: JournalEntry) -> None:
        """Move refs of a dataset's repository and update its alias; then record entries.

        Parameters
        ----------
        dataset
            The dataset, whose lock the caller holds.
        move
            The refs.
        *entries
            The journal entries.
        """
        self.move_refs(dataset, move, *entries)
        self.catch_up()

    def move_refs(self, dataset: DatasetRef, move: RefMove, *entries: JournalEntry) -> None:
        """Publish without applying the entries to the index; see :meth:`catch_up`.

        Parameters
        ----------
        dataset, move, *entries
            As for :meth:`publish`.
        """
        self._store.repository(dataset).publish(move.expected, move.new)
        self._store.alias(dataset, move.alias)
        self.append(*entries)

    def append(self, *entries: JournalEntry) -> None:
        """Append entries to the journal without applying them to the index.

        Parameters
        ----------
        *entries
            The journal entries.
        """
        self._store.append_entries(*entries)

    def catch_up(self) -> None:
        """Apply new entries of the journal to the index."""
        self._thread.submit(lambda: self._index.catch_up(self._store)).result()

    @property
    def index_path(self) -> Path:
        """The path of the index."""
        return self._path

    def rebuild(self) -> None:
        """Rebuild the index from the store and open the new one."""
        self._thread.submit(self._rebuild).result()

    def _rebuild(self) -> None:
        rebuild_index(self._store, self._path)
        self._index.close()
        self._index = Index.open(self._path)

    def ask(self, question: Callable[[Index], _T]) -> _T:
        """Return the result of a query on the current index.

        Parameters
        ----------
        question
            Called with the index, in the recorder's own thread; its result must not be an iterator.

        Returns
        -------
        Any
            The result of ``question``.
        """
        return self._thread.submit(self._ask, question).result()

    def _ask(self, question: Callable[[Index], _T]) -> _T:
        if self._index.is_replaced:
            # keep the old index until the new one can be opened
            reopened = self._open(self._path)
            self._index.close()
            self._index = reopened
        return question(self._index)

    def reader(self) -> Index:
        """Return a read-only connection for the calling thread, which closes it.

        Returns
        -------
        Index
            The index.
        """
        return Index.open_readonly(self._path)

    def close(self) -> None:
        """Close the index."""
        self._thread.submit(self._index.close).result()
        self._thread.shutdown()


@contextmanager
def open_recorder(store: Store, index_path: Path) -> Iterator[JournalRecorder]:
    """Open a recorder, and close it at the end of the block.

    Parameters
    ----------
    store
        The store, whose journal is written.
    index_path
        The index, which is created if it is missing.

    Yields
    ------
    JournalRecorder
        The recorder, which writes journal and index.
    """
    recorder = JournalRecorder(store, index_path)
    try:
        yield recorder
    finally:
        recorder.close()
