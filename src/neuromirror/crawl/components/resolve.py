"""Resolve the components of a listing: folders of files, or links to datasets.

A small component is read at once, with a listing and a validation of its own; the first few while
the dataset's listing is still being read. An unchanged one is copied from the previous state
without a request. Others are looked up in the store, and left unresolved if it lacks them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import cached_property, partial
from itertools import count, islice
from pathlib import Path
from shutil import rmtree

import msgspec

from neuromirror.annex import fits_path_limits
from neuromirror.config.mirror_settings import ZarrLimits
from neuromirror.crawl.components.failures import (
    FailedComponents,
    RecordRefusal,
    check_lasting_failures,
    empty_exception,
    is_contradiction,
    is_pending_error,
    lost_files_message,
    problem_message,
    unreadable_exception,
)
from neuromirror.crawl.components.subdataset_links import (
    PreviousState,
    SubdatasetLink,
    find_minted_version,
    has_other_upstream_path,
    is_subdataset_line,
    link_to_version,
    unresolved_link,
)
from neuromirror.crawl.recorder import Recorder
from neuromirror.crawl.visit.listing_reader import read_listing
from neuromirror.crawl.visit.snapshot import (
    InlineComponentState,
    ResolvedComponents,
    ResolvedEntry,
    SpooledSnapshot,
)
from neuromirror.crawl.visit.visit_context import StoreVisitContext, create_workspace
from neuromirror.index import CrawlIndex
from neuromirror.model import (
    ExcludedEntry,
    NeuromirrorError,
    load_snapshot_entry,
)
from neuromirror.net import ContextThreadPool
from neuromirror.sources import (
    ComponentEntry,
    ComponentUnavailableError,
    UnreliableListingError,
)

CONCURRENT_READS = 4
"""Components of one dataset that are read concurrently."""

_LOOKUP_BATCH = 500
_PendingRead = tuple[ComponentEntry, Path, "Future[SpooledSnapshot | NeuromirrorError]"]
"""A component, the folder for its files, and its future snapshot or error."""


class StoreComponentResolver:
    """Decides for each component of a listing: a subdataset, or files of the dataset.

    It reads small components from upstream, concurrently, and takes unchanged ones from the
    previous state. It is used for one listing and implements
    :class:`~neuromirror.crawl.visit.snapshot.ComponentResolver`.

    Parameters
    ----------
    recorder
        The store's recorder, whose index has the versions of components.
    limits
        The ``[zarr]`` table of the mirror file.
    previous
        The previous state of the dataset.
    record_refusal
        Records a refused URL; returns whether the refusal is lasting.
    reread_all
        Read all components from upstream, even unchanged ones.
    """

    def __init__(
        self,
        recorder: Recorder,
        limits: ZarrLimits,
        previous: PreviousState,
        record_refusal: RecordRefusal,
        *,
        reread_all: bool,
    ) -> None:
        self._recorder = recorder
        self._limits = limits
        self._previous = previous
        self._record_refusal = record_refusal
        self._reread_all = reread_all
        self._subdatasets: dict[bytes, ComponentEntry] = {}
        self._unmirrored: set[bytes] = set()
        self._inline: list[InlineComponentState] = []
        self._problems: list[str] = []
        self._incidents: list[str] = []
        self._is_final = True
        self._pending_ids: set[str] = set()
        self._pool = ContextThreadPool(CONCURRENT_READS, thread_name_prefix="component")
        self._numbers = count()
        self._pending_reads: deque[_PendingRead] = deque()

    @cached_property
    def _previous_inline(self) -> dict[bytes, InlineComponentState]:
        """The inline components of the previous state."""
        return self._previous.inline_components()

    def prefetch(self, component: ComponentEntry, scratch: Path) -> None:
        """Start to read a component that must be read, if fewer than the maximum were started."""
        claimed = component.version.claimed_totals
        if (
            len(self._pending_reads) < 2 * CONCURRENT_READS
            and claimed is not None
            and claimed.files
            and self._is_small(claimed.files)
            and not self._is_copyable(component)
        ):
            self._pending_reads.append(self._start(component, scratch))

    def close(self) -> None:
        """Cancel pending reads; return once no thread writes any more."""
        self._pool.shutdown(cancel_futures=True)

    @property
    def result(self) -> ResolvedComponents:
        """The resolved components; complete after :meth:`resolve`."""
        return ResolvedComponents(
            self._subdatasets,
            frozenset(self._unmirrored),
            tuple(self._inline),
            tuple(self._problems),
            tuple(self._incidents),
            self._is_final,
            frozenset(self._pending_ids),
        )

    def resolve(
        self, components: Sequence[ComponentEntry], scratch: Path
    ) -> Iterator[ResolvedEntry]:
        """Yield the entries of the components; raise ComponentsUnreadableError if reads failed."""
        before = self._previous_inline
        large: list[ComponentEntry] = []
        fresh: list[ComponentEntry] = []
        unchanged: dict[bytes, ComponentEntry] = {}
        for component in components:
            claimed = component.version.claimed_totals
            if claimed is not None and not claimed.files:
                yield empty_exception(component)
            elif claimed is None or not self._is_small(claimed.files):
                large.append(component)
            elif self._is_copyable(component):
                unchanged[component.path] = component
            else:
                fresh.append(component)
        yield from self._copy_unchanged(unchanged, before)
        fresh += unchanged.values()
        failed: dict[bytes, tuple[ComponentEntry, NeuromirrorError]] = {}
        for component, found in self._read_all(fresh, scratch):
            if isinstance(found, NeuromirrorError):
                failed[component.path] = component, found
            elif self._is_small(found.files):
                yield from self._inline_files(component, found)
            else:
                # it has grown since upstream counted its files
                large.append(component)
        check_lasting_failures(failed, self._record_refusal)
        yield from self._keep_previous(failed, before)
        yield from self._link_subdatasets(large)

    def _is_small(self, files: int) -> bool:
        limits = self._limits
        return files < limits.inline_components and files <= min(limits.inline, limits.manifest)

    def _is_copyable(self, component: ComponentEntry) -> bool:
        """Return whether a small component can be copied from the previous state."""
        return not self._reread_all and _can_be_copied(
            component, self._previous_inline.get(component.path)
        )

    # --- small components

    def _copy_unchanged(
        self, unchanged: dict[bytes, ComponentEntry], before: dict[bytes, InlineComponentState]
    ) -> Iterator[ResolvedEntry]:
        """Yield the files of unchanged components, and remove those from ``unchanged``."""
        path: bytes | None = None
        lines: list[bytes] = []
        for one, line in self._previous.lines(unchanged) if unchanged else ():
            if one != path:
                yield from self._copy_component(path, lines, unchanged, before)
                path, lines = one, []
            lines.append(line)
        yield from self._copy_component(path, lines, unchanged, before)

    def _copy_component(
        self,
        path: bytes | None,
        lines: list[bytes],
        unchanged: dict[bytes, ComponentEntry],
        before: dict[bytes, InlineComponentState],
    ) -> Iterator[ResolvedEntry]:
        if path is None or path not in unchanged or len(lines) != before[path].files:
            return  # does not match the memo: read it instead
        del unchanged[path]
        self._inline.append(before[path])
        yield from map(_copied_entry, lines)

    def _start(self, component: ComponentEntry, scratch: Path) -> _PendingRead:
        folder = scratch / f"inline-{next(self._numbers)}"
        return component, folder, self._pool.submit(self._read_one, component, folder)

    def _read_all(
        self, components: Iterable[ComponentEntry], scratch: Path
    ) -> Iterator[tuple[ComponentEntry, SpooledSnapshot | NeuromirrorError]]:
        """Read components concurrently, prefetched ones first.

        The files of each exist until the next one is requested.
        """
        reads = self._pending_reads
        started = {id(component) for component, _, _ in reads}
        left = (component for component in components if id(component) not in started)
        while True:
            for component in islice(left, 2 * CONCURRENT_READS - len(reads)):
                reads.append(self._start(component, scratch))
            if not reads:
                break
            component, folder, future = reads.popleft()
            yield component, future.result()
            rmtree(folder)
        self.close()

    def _read_one(
        self, component: ComponentEntry, folder: Path
    ) -> SpooledSnapshot | NeuromirrorError:
        folder.mkdir()
        try:
            with self._recorder.reader() as index:
                open_workspace = partial(create_workspace, folder / "pages")
                listing = component.listing(StoreVisitContext(index, open_workspace))
                found = read_listing(listing, folder)
            if found.header.documents:
                raise UnreliableListingError(
                    f"{component.dataset.name}: a folder cannot hold documents"
                )
        except NeuromirrorError as error:
            return error
        return found

    def _inline_files(
        self, component: ComponentEntry, found: SpooledSnapshot
    ) -> Iterator[ResolvedEntry]:
        header = found.header
        if found.is_empty:
            yield empty_exception(component)
            return
        start = component.path + b"/"
        size = 0
        for entry in found.spool.files():
            record = entry.record
            size += record.size or 0
            yield msgspec.structs.replace(record, path=start + record.path)
        for one in header.exceptions:
            yield ExcludedEntry(start + one.path, one.reason, one.detail, one.size)
        self._inline.append(
            InlineComponentState(
                component.path,
                component.dataset.local_id,
                header.version.upstream,
                found.files,
                len(header.exceptions),
                header.newest,
                component.dataset.source_uri,
                size,
            )
        )

    def _keep_previous(
        self,
        failed: FailedComponents,
        before: dict[bytes, InlineComponentState],
    ) -> Iterator[ResolvedEntry]:
        """Yield the previous entries of the components that could not be read."""
        kept: set[bytes] = set()
        for path, line in self._previous.lines(failed) if failed else ():
            kept.add(path)
            yield _copied_entry(line)
        for path, (component, error) in failed.items():
            self._is_final = False
            if path not in kept:
                yield unreadable_exception(component, error)
            elif path in before:
                self._inline.append(before[path])
            if is_pending_error(error):
                self._pending_ids.add(component.dataset.local_id)
            elif _is_unchanged(component, before.get(path)) and is_contradiction(error):
                self._incidents.append(lost_files_message(component, error))
            elif path in kept or not isinstance(error, ComponentUnavailableError):
                self._problems.append(problem_message(component, error, is_kept=path in kept))

    # --- components that are datasets of their own

    def _link_subdatasets(self, components: Iterable[ComponentEntry]) -> Iterator[ResolvedEntry]:
        left = iter(components)
        while some := list(islice(left, _LOOKUP_BATCH)):
            found = self._recorder.ask(partial(_find_links, components=some))
            for component, link in zip(some, found, strict=True):
                entry = unresolved_link(component) if link is None else link.as_file(component)
                if not fits_path_limits(entry.git_path):
                    detail = "its path is longer than file systems hold"
                    yield ExcludedEntry(component.path, "path-too-long", detail, component.size)
                    continue
                self._subdatasets[component.path] = component
                if link is None:
                    self._unmirrored.add(component.path)
                yield entry


def _find_links(
    index: CrawlIndex, components: Iterable[ComponentEntry]
) -> list[SubdatasetLink | None]:
    rows = [find_minted_version(index, component.version) for component in components]
    return [None if row is None else link_to_version(index, row) for row in rows]


def _is_unchanged(component: ComponentEntry, before: InlineComponentState | None) -> bool:
    return before is not None and (before.local_id, before.upstream) == (
        component.dataset.local_id,
        component.version.upstream,
    )


def _can_be_copied(component: ComponentEntry, before: InlineComponentState | None) -> bool:
    # exceptions are not in the records, so they could not be copied
    return _is_unchanged(component, before) and before is not None and not before.exceptions


def _copied_entry(line: bytes) -> ResolvedEntry:
    """Return the entry for a line of the previous state; escaped names are assigned again."""
    if is_subdataset_line(line):
        return load_snapshot_entry(line)
    return load_snapshot_entry(line).record if has_other_upstream_path(line) else line
