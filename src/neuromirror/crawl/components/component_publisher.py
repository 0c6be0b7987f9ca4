"""Publish and compare states of a dataset together with the files of its components."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from heapq import merge
from pathlib import Path

import msgspec

from neuromirror.config.mirror_settings import ZarrLimits
from neuromirror.crawl.components.subdataset_links import (
    PreviousState,
    is_split_component,
    is_subdataset_line,
)
from neuromirror.crawl.components.zarr_split import SplitZarr, insert_subdatasets, split_zarrs
from neuromirror.crawl.guards.difference import (
    ComponentRoots,
    CountedItems,
    StateChanges,
    StateDifference,
)
from neuromirror.crawl.index_rebuild import restore_records
from neuromirror.crawl.recorder import Recorder, list_known
from neuromirror.crawl.visit.publisher import Publisher
from neuromirror.crawl.visit.snapshot import SpooledSnapshot
from neuromirror.index import VersionRow
from neuromirror.model import (
    DatasetRef,
    SnapshotEntry,
    Subdataset,
    diff_lines,
    dump_snapshot_entry,
    line_path,
    load_snapshot_entry,
)
from neuromirror.store import MAIN_BRANCH, Store


class ComponentPublisher:
    """Publishes the states of a dataset whose large Zarrs become datasets of their own.

    It first publishes each of these Zarrs, and compares states with the files in them. The caller
    holds the dataset's lock.

    Parameters
    ----------
    store, recorder
        The store and its recorder.
    publisher
        Publishes the dataset itself.
    limits
        The ``[zarr]`` table of the mirror file.
    """

    def __init__(
        self, store: Store, recorder: Recorder, publisher: Publisher, limits: ZarrLimits
    ) -> None:
        self._store = store
        self._recorder = recorder
        self._publisher = publisher
        self._limits = limits

    def publish(self, snapshot: SpooledSnapshot, scratch: Path) -> SpooledSnapshot:
        """Publish the large Zarrs of a state; return the state with subdatasets in their place.

        A state that is already published is not written again.
        """

        def publish(component: SplitZarr, publisher: Publisher, own: Path) -> Subdataset:
            published = publisher.publish(component.snapshot, MAIN_BRANCH, own)
            return Subdataset(
                publisher.dataset.dataset_id,
                publisher.dataset.local_id,
                published.commit,
                published.state,
                component.snapshot.files,
                component.bytes,
            )

        return self._link_zarrs(snapshot, scratch, publish)

    def renew(self, row: VersionRow, snapshot: SpooledSnapshot, scratch: Path) -> None:
        """Record what upstream states now about the files of a version, such as their URLs.

        That includes the files of its large Zarrs. No version is created.
        """
        dataset_id = self._publisher.dataset.dataset_id
        links = {
            line_path(line): load_snapshot_entry(line).subdataset
            for line in self._store.record_lines(dataset_id, row.records)
            if is_subdataset_line(line)
        }

        def renew(component: SplitZarr, publisher: Publisher, own: Path) -> Subdataset:
            link = links[component.git_path]
            assert link is not None
            for version in publisher.versions():
                if version.commit == link.commit:
                    publisher.renew(version, component.snapshot, own)
            return link

        self._publisher.renew(row, self._link_zarrs(snapshot, scratch, renew), scratch)

    def _link_zarrs(
        self,
        snapshot: SpooledSnapshot,
        scratch: Path,
        process: Callable[[SplitZarr, Publisher, Path], Subdataset],
    ) -> SpooledSnapshot:
        """Return a state with the result of ``process`` in the place of each large Zarr."""
        rest, components = split_zarrs(snapshot, self._limits, scratch)
        links: dict[bytes, Subdataset] = {}
        for number, component in enumerate(components):
            dataset = component.header.version.dataset
            own = scratch / f"component-{number}"
            own.mkdir()
            with self._store.lock(dataset.dataset_id, dataset.name):
                publisher = Publisher(
                    self._store,
                    self._recorder,
                    dataset,
                    within=component.within,
                    index_entries=self._limits.index_entries,
                )
                publisher.catch_up()
                links[component.git_path] = process(component, publisher, own)
                publisher.repository.update_server_info()
        return insert_subdatasets(rest, links)

    def difference(
        self, row: VersionRow, snapshot: SpooledSnapshot, scratch: Path
    ) -> tuple[StateDifference, StateChanges]:
        """Return the difference between a minted version and a listing, file by file.

        Splitting a Zarr off the dataset's files, or not, makes no difference; a component that
        upstream itself names counts as one file.
        """
        found = self._publisher.difference(row, snapshot, scratch)
        inline = PreviousState(self._store, self._publisher.dataset, row).inline_components()
        split = [
            old
            for old, _ in found.changes()
            if old is not None
            and old.subdataset is not None
            and self._is_split_component(old.subdataset)
        ]
        if split:
            lines = self._store.record_lines(self._publisher.dataset.dataset_id, row.records)
            whole = CountedItems(self._flatten_lines(lines, split))
            found = StateDifference(
                scratch / f"whole-since-{row.commit}", diff_lines(whole, snapshot.spool.lines())
            )
            before = whole.count
        else:
            links = list_known(self._recorder, lambda index: index.subdatasets(row))
            before = row.files + len(links)
        found.roots = ComponentRoots(inline.keys(), snapshot.components.paths)
        before -= sum(one.files - 1 for one in inline.values())
        return found, found.count_changes(before)

    def has_same_files(self, row: VersionRow, snapshot: SpooledSnapshot, scratch: Path) -> bool:
        """Return whether a minted version has exactly the files of a listing."""
        return self.difference(row, snapshot, scratch)[1].has_same_files

    def _is_split_component(self, component: Subdataset) -> bool:
        return is_split_component(self._publisher.dataset, component.local_id)

    def _flatten_lines(
        self, lines: Iterable[bytes], components: list[SnapshotEntry]
    ) -> Iterator[bytes]:
        """Yield a dataset's record lines, with those of its components in place of the links."""
        component_paths = {component.git_path for component in components}
        files = (line for line in lines if line_path(line) not in component_paths)
        yield from merge(files, *map(self._component_lines, components), key=line_path)

    def _component_lines(self, entry: SnapshotEntry) -> Iterator[bytes]:
        component = entry.subdataset
        assert component is not None
        self._restore_records(component)
        root, upstream = entry.git_path, entry.record.path
        if upstream.startswith(b"-"):
            root = b"-" + root.removeprefix(b"%2D")  # only the link has the escape
        records = self._store.newest_records(component.dataset_id, component.commit)
        for line in self._store.record_lines(component.dataset_id, records):
            inner = load_snapshot_entry(line)
            yield dump_snapshot_entry(
                SnapshotEntry(
                    root + b"/" + inner.git_path,
                    inner.key,
                    msgspec.structs.replace(inner.record, path=upstream + b"/" + inner.record.path),
                    inner.subdataset,
                )
            )

    def _restore_records(self, component: Subdataset) -> None:
        if self._store.has_records(component.dataset_id, component.commit):
            return
        name = f"{self._publisher.dataset.mirror}:{component.local_id}"
        for row in list_known(self._recorder, lambda index: index.versions(name)):
            if row.commit == component.commit:
                dataset = DatasetRef(row.mirror, row.local_id, row.source_uri)
                restore_records(self._store, dataset, row)
