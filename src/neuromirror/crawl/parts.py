"""The parts of a dataset that are datasets of their own, as its visit sees them: as files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import merge
from pathlib import Path

import msgspec

from neuromirror.crawl.compare import Changes, Difference, Roots
from neuromirror.crawl.links import Earlier, is_split_off
from neuromirror.crawl.mirrors import ZarrLimits
from neuromirror.crawl.prove import Proven
from neuromirror.crawl.publish import Publisher
from neuromirror.crawl.rebuild import restore_records
from neuromirror.crawl.recorder import Recorder
from neuromirror.crawl.zarrs import place_parts, split_zarrs
from neuromirror.index import VersionRow
from neuromirror.model import (
    DatasetRef,
    PlacedFile,
    Subdataset,
    diff_lines,
    dump_placed,
    load_placed,
    path_of_line,
)
from neuromirror.store import MAIN, Store


class Parts:
    """Publishes and compares states of a dataset with all that is in its parts.

    The caller holds the dataset's lock.
    """

    def __init__(
        self, store: Store, recorder: Recorder, publisher: Publisher, limits: ZarrLimits
    ) -> None:
        self._store = store
        self._recorder = recorder
        self._publisher = publisher
        self._limits = limits

    def publish(self, proven: Proven, scratch: Path) -> Proven:
        """Publishes the large Zarrs of a state; gives the state with sub-datasets in their place.

        A part that is there already is not written again.
        """
        rest, parts = split_zarrs(proven, self._limits, scratch)
        links: dict[bytes, Subdataset] = {}
        for number, part in enumerate(parts):
            dataset = part.header.version.dataset
            own = scratch / f"part-{number}"
            own.mkdir()
            with self._store.lock(dataset.dataset_id, dataset.name):
                publisher = Publisher(
                    self._store,
                    self._recorder,
                    dataset,
                    within=part.within,
                    index_entries=self._limits.index_entries,
                )
                publisher.catch_up()
                done = publisher.publish(part.proven, MAIN, own)
                publisher.repository.refresh()
            links[part.git_path] = Subdataset(
                dataset.dataset_id,
                dataset.local_id,
                done.commit,
                done.state,
                part.proven.files,
                part.bytes,
            )
        return place_parts(rest, links)

    def difference(
        self, row: VersionRow, proven: Proven, scratch: Path
    ) -> tuple[Difference, Changes]:
        """What differs between a version that was minted and a listing, file by file.

        A Zarr that was taken out of the dataset's files, or is not any more, is no difference;
        a part that upstream names itself is weighed as one file.
        """
        found = self._publisher.difference(row, proven, scratch)
        inline = Earlier(self._store, self._publisher.dataset, row).inline()
        split = [
            old
            for old, _ in found.changes()
            if old is not None and old.part is not None and self._is_split_off(old.part)
        ]
        if split:
            lines = self._store.record_lines(self._publisher.dataset.dataset_id, row.commit)
            whole = _Counted(self._flat(lines, split))
            found = Difference(
                scratch / f"whole-since-{row.commit}", diff_lines(whole, proven.spool.lines())
            )
            before = whole.count
        else:
            before = row.files + len(self._publisher.ask(lambda index: index.parts(row)))
        found.roots = Roots(inline.keys(), proven.parts.paths)
        before -= sum(one.files - 1 for one in inline.values())
        return found, found.weigh(before)

    def has_same_files(self, row: VersionRow, proven: Proven, scratch: Path) -> bool:
        """Whether a version that was minted has just the files of a listing."""
        return self.difference(row, proven, scratch)[1].same_files

    def _is_split_off(self, part: Subdataset) -> bool:
        return is_split_off(self._publisher.dataset, part.local_id)

    def _flat(self, lines: Iterable[bytes], parts: list[PlacedFile]) -> Iterator[bytes]:
        """A dataset's record lines, those of its parts in the place of the sub-datasets."""
        places = {part.git_path for part in parts}
        files = (line for line in lines if path_of_line(line) not in places)
        yield from merge(files, *map(self._lines_of, parts), key=path_of_line)

    def _lines_of(self, placed: PlacedFile) -> Iterator[bytes]:
        part = placed.part
        assert part is not None
        self._restore(part)
        root, upstream = placed.git_path, placed.record.path
        if upstream.startswith(b"-"):
            root = b"-" + root.removeprefix(b"%2D")  # only the link has the escape
        for line in self._store.record_lines(part.dataset_id, part.commit):
            inner = load_placed(line)
            yield dump_placed(
                PlacedFile(
                    root + b"/" + inner.git_path,
                    inner.key,
                    msgspec.structs.replace(inner.record, path=upstream + b"/" + inner.record.path),
                    inner.part,
                )
            )

    def _restore(self, part: Subdataset) -> None:
        if self._store.has_records(part.dataset_id, part.commit):
            return
        name = f"{self._publisher.dataset.mirror}:{part.local_id}"
        for row in self._publisher.ask(lambda index: index.versions(name)):
            if row.commit == part.commit:
                dataset = DatasetRef(row.mirror, row.local_id, row.source_uri)
                restore_records(self._store, dataset, row.commit, row.annex_commit, row.kind)


class _Counted:
    """Lines that are counted as they pass."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = lines
        self.count = 0

    def __iter__(self) -> Iterator[bytes]:
        for line in self._lines:
            self.count += 1
            yield line
