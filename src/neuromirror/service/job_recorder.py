"""The recorder of a job: writes through the service's writer."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from neuromirror.crawl import RefMove
from neuromirror.index import CrawlIndex, Index, IndexMissingError, RemoteIndex
from neuromirror.model import DatasetRef, JournalEntry
from neuromirror.service.writer_messages import (
    Channel,
    Publish,
    Query,
    Record,
    encode_arguments,
    encode_entries,
    send_request,
)
from neuromirror.store import Store

_T = TypeVar("_T")


class JobRecorder:
    """The :class:`~neuromirror.crawl.Recorder` of a job: sends writes to the service's writer.

    Queries read the local index directly. On other machines there is no ``index_path``, since
    SQLite files must not be read over a network: the writer answers the queries there.
    """

    def __init__(self, channel: Channel, store: Store, index_path: Path | None) -> None:
        self._channel = channel
        self._store = store
        self._path = index_path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="index")
        self._index: Index | None = None

    def record(self, *entries: JournalEntry) -> None:
        """See :class:`~neuromirror.crawl.Recorder`."""
        send_request(self._channel, Record(encode_entries(entries)))

    def publish(self, dataset: DatasetRef, move: RefMove, *entries: JournalEntry) -> None:
        """See :class:`~neuromirror.crawl.Recorder`."""
        send_request(self._channel, Publish(dataset, move, encode_entries(entries)))
        if self._path is None:
            self._store.repository(dataset).refresh()

    def query(self, name: str, arguments: dict[str, Any]) -> msgspec.Raw:
        """See :class:`~neuromirror.index.QuerySender`."""
        return send_request(self._channel, Query(name, encode_arguments(arguments)))

    def ask(self, question: Callable[[CrawlIndex], _T]) -> _T:
        """See :class:`~neuromirror.crawl.Recorder`."""
        if self._path is None:
            return question(RemoteIndex(self))
        return self._thread.submit(self._ask, self._path, question).result()

    def _ask(self, path: Path, question: Callable[[CrawlIndex], _T]) -> _T:
        if self._index is not None and self._index.is_replaced:
            self._index.close()
            self._index = None
        if self._index is None:
            self._index = self._open_index(path)
        return question(self._index)

    def _open_index(self, path: Path) -> Index:
        try:
            return Index.open_readonly(path)
        except IndexMissingError:
            # deleted while the service runs: its writer rebuilds it from the journal
            self.record()
            return Index.open_readonly(path)

    def reader(self) -> CrawlIndex:
        """See :class:`~neuromirror.crawl.Recorder`."""
        return RemoteIndex(self) if self._path is None else self._open_index(self._path)

    def close(self) -> None:
        """Close the index."""
        if self._index is not None:
            self._thread.submit(self._index.close).result()
        self._thread.shutdown()
