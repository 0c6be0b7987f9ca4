"""Look up contents in the records of a dataset's last state that are not in the index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from itertools import chain
from typing import Self

from neuromirror.crawl.components.subdataset_links import is_split_component
from neuromirror.crawl.index_rebuild import restore_records
from neuromirror.index import CrawlIndex, EtagRow, Index, VersionRow
from neuromirror.model import DatasetRef, SnapshotEntry
from neuromirror.store import Store


class UnindexedContents:
    """Looks up contents of a dataset's last state whose files are not in the index (large Zarrs).

    This is a context manager, for use in the thread of the ``index`` connection. The records are
    read at the first lookup, into a temporary index.
    """

    def __init__(self, store: Store, index: CrawlIndex, dataset: DatasetRef) -> None:
        self._store = store
        self._index = index
        self._dataset = dataset
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def contents(self, etags: Sequence[str]) -> list[EtagRow | None]:
        """Return the known content of each ETag; see :meth:`Index.known_contents`."""
        found = self._contents_index
        return [None] * len(etags) if found is None else found.known_contents(etags)

    @cached_property
    def _contents_index(self) -> Index | None:
        versions = list(self._versions())
        if not versions:
            return None
        folder = self._stack.enter_context(self._store.scratch())
        files = chain.from_iterable(map(self._files, versions))
        return self._stack.enter_context(Index.of_contents(folder / "contents.sqlite", files))

    def _versions(self) -> Iterator[VersionRow]:
        """Yield the last state, and those of the Zarrs split from it, if they are not indexed.

        A component that upstream names itself has a listing of its own.
        """
        last = self._index.last_version(self._dataset.name)
        if last is None:
            return
        if not last.indexed:
            yield last
        for component in self._index.subdatasets(last):
            own = is_split_component(self._dataset, component.dataset.partition(":")[2])
            if own and component.label is not None:
                version = self._index.resolve(component.dataset, component.commit)
                if not version.indexed:
                    yield version

    def _files(self, version: VersionRow) -> Iterator[SnapshotEntry]:
        """Yield the files whose ETag alone does not identify the content."""
        dataset = DatasetRef(version.mirror, version.local_id, version.source_uri)
        restore_records(self._store, dataset, version)
        for entry in self._store.records(dataset.dataset_id, version.records):
            record = entry.record
            if record.part_size is not None or record.digest("sha256") is not None:
                yield entry
