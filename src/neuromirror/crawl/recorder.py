"""The one way into journal and index, shared by all visits of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from neuromirror.crawl.index_rebuild import rebuild_index
from neuromirror.index import Index
from neuromirror.model import JournalEntry
from neuromirror.store import Store

_T = TypeVar("_T")


class Recorder(Protocol):
    """What visits read the index by, and tell the journal; many threads may share one."""

    def record(self, *entries: JournalEntry) -> None:
        """Adds entries; they are in the journal before they are in the index."""
        ...

    def ask(self, question: Callable[[Index], _T]) -> _T:
        """The answer to a question about the index as it is now; no iterator may come out."""
        ...

    def reader(self) -> Index:
        """A connection to read by, for the thread that asks for it; to be closed there.

        For questions by the million, which would wait for each other in :meth:`ask`.
        """
        ...

    def confirm(self) -> None:
        """Raises where the work was given to somebody else meanwhile; before refs are moved."""
        ...


class JournalRecorder:
    """Appends entries to the store's journal and brings the index up to date.

    Visits in several threads share it; a SQLite connection belongs to one thread, so everything
    is done in one of the recorder's own, in turn.
    """

    def __init__(self, store: Store, index_path: Path) -> None:
        self._store = store
        self._path = index_path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="index")
        self._index = self._thread.submit(self._open, index_path).result()

    def _open(self, path: Path) -> Index:
        index = Index.open(path)
        if index.position > self._store.journal_size():
            # the journal lost its last lines to a power cut, after the index had read them
            index.close()
            rebuild_index(self._store, path)
            index = Index.open(path)
        index.catch_up(self._store)
        return index

    def record(self, *entries: JournalEntry) -> None:
        """See :class:`LocationRecorder`."""
        self._thread.submit(self._record, entries).result()

    @property
    def index_path(self) -> Path:
        """The index that is brought up to date."""
        return self._path

    def rebuild(self) -> None:
        """Makes the index anew from the store, and goes on with that."""
        self._thread.submit(self._rebuild).result()

    def _rebuild(self) -> None:
        rebuild_index(self._store, self._path)
        self._index.close()
        self._index = Index.open(self._path)

    def _record(self, entries: tuple[JournalEntry, ...]) -> None:
        self._store.append_entries(*entries)
        self._index.catch_up(self._store)

    def ask(self, question: Callable[[Index], _T]) -> _T:
        """See :class:`LocationRecorder`."""
        return self._thread.submit(self._ask, question).result()

    def _ask(self, question: Callable[[Index], _T]) -> _T:
        if self._index.is_replaced:
            # one that cannot be opened may be put right again: the old one stays until then
            renewed = self._open(self._path)
            self._index.close()
            self._index = renewed
        return question(self._index)

    def reader(self) -> Index:
        """See :class:`LocationRecorder`."""
        return Index.open_readonly(self._path)

    def confirm(self) -> None:
        """Nothing: who holds a dataset's lock in this process keeps it."""

    def close(self) -> None:
        """Closes the index."""
        self._thread.submit(self._index.close).result()
        self._thread.shutdown()


@contextmanager
def open_recorder(store: Store, index_path: Path) -> Iterator[JournalRecorder]:
    """A recorder that is closed at the end of the block."""
    recorder = JournalRecorder(store, index_path)
    try:
        yield recorder
    finally:
        recorder.close()
