"""Resolve: store each component of a listing as files, as a subdataset, or name why it is missing.

A component, such as a Zarr, is an asset that is itself a tree of files. A small one is read at
once, with a listing and a validation of its own; the first few while the dataset's listing is
still being read. An unchanged one is copied from the previous state without a request. Others are
looked up in the store; those that it lacks are visited once the listing is validated, each as a
dataset of its own.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, suppress
from datetime import datetime
from functools import cached_property, partial
from heapq import merge
from itertools import count, groupby, islice
from pathlib import Path
from shutil import rmtree
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from neuromirror.annex import fits_path_limits, git_path, mark_clash
from neuromirror.crawl.guards import compare, record_event
from neuromirror.crawl.listing import (
    ListedVersion,
    RefusalHistory,
    StoreVisitContext,
    keep_memos,
    known_memo,
    read_version,
)
from neuromirror.crawl.plan import Visit, dataset_versions, takedown_message
from neuromirror.crawl.publish import (
    catch_up,
    component_visit,
    is_subdataset_line,
    publish_state,
    renew_state,
    submodule_path,
)
from neuromirror.crawl.recorder import restore_records
from neuromirror.crawl.validate import (
    InlineComponentState,
    RecordSpool,
    ResolvedComponents,
    ResolvedEntry,
    SpooledSnapshot,
    StateCommits,
    folder_in,
    is_split_component,
    read_listing,
    saved_inline_components,
)
from neuromirror.index import CrawlIndex, VersionRow
from neuromirror.model import (
    ExcludedEntry,
    FileRecord,
    NeuromirrorError,
    SnapshotEntry,
    Subdataset,
    VersionKind,
    VersionRef,
    dump_snapshot_entry,
    line_path,
    load_snapshot_entry,
    path_to_text,
)
from neuromirror.net import AccessDeniedError, ContextThreadPool
from neuromirror.sources import (
    ComponentEntry,
    ComponentMismatchError,
    ComponentRefusedError,
    ComponentUnavailableError,
    Listing,
    UnreliableListingError,
    VisitContext,
)
from neuromirror.store import ANNEX_BRANCH, MAIN_BRANCH, TAG_PREFIX, StoreDamagedError
from neuromirror.store.memos import StoredMemo

_T = TypeVar("_T")

# --- states of components that are datasets of their own


class SubdatasetLink(Struct, frozen=True):
    """A state of a component's own dataset, and its upstream time."""

    state: Subdataset
    time: datetime | None

    def as_file(self, component: ComponentEntry) -> SnapshotEntry:
        """Return the link as an entry at the component's path."""
        record = FileRecord(component.path, None, modified=self.time)
        return SnapshotEntry(submodule_path(git_path(component.path)), "", record, self.state)


def unresolved_link(component: ComponentEntry) -> SnapshotEntry:
    """Return a placeholder for a link to a component whose state the store does not have yet.

    It must be replaced before the state is published: minting refuses it.
    """
    dataset, claimed = component.dataset, component.version.claimed_totals
    files, size = (0, component.size) if claimed is None else (claimed.files, claimed.bytes)
    state = Subdataset(dataset.dataset_id, dataset.local_id, "", "", files, size)
    return SubdatasetLink(state, None).as_file(component)


def names_exact_state(version: VersionRef) -> bool:
    """Return whether upstream's name of a component is a checksum, and not just ``current``."""
    return version.claimed_totals is not None


def find_minted_version(index: CrawlIndex, version: VersionRef) -> VersionRow | None:
    """Return the mirrored version of a component that has the same upstream name; None without one.

    A name that identifies no exact state gives None too (:func:`names_exact_state`).
    """
    if not names_exact_state(version):
        return None
    rows = dataset_versions(index, version.dataset.name)
    return next((row for row in rows if row.upstream == version.upstream), None)


def find_last_finalized(index: CrawlIndex, version: VersionRef) -> VersionRow | None:
    """Return the newest mirrored version of a component whose state upstream named exactly.

    ``version`` is the component's present one, whose name identifies no state; None without one.
    """
    rows = dataset_versions(index, version.dataset.name)
    named = (row for row in reversed(rows) if row.upstream != version.upstream)
    return next((one for one in named if not is_earlier_state(one.upstream)), None)


def is_earlier_state(upstream: str) -> bool:
    """Return whether upstream's name of a version, ``at <time>``, is an earlier state's."""
    return upstream.startswith("at ")


def link_to_version(index: CrawlIndex, row: VersionRow) -> SubdatasetLink:
    """Return a link (id, commit, state digest) to a mirrored version of a component."""
    inner = list(index.versions.subdatasets(row))
    state = Subdataset(
        row.dataset_ref.dataset_id,
        row.local_id,
        row.commit,
        row.state,
        row.files + sum(one.files for one in inner),
        row.bytes + sum(one.bytes for one in inner),
    )
    time = row.upstream_time
    return SubdatasetLink(state, None if time is None else datetime.fromisoformat(time))


# --- the previous state of a dataset


class PreviousState(Struct, frozen=True):
    """The previous state of a dataset, as far as a new listing can reuse it; None if it is new."""

    visit: Visit
    row: VersionRow | None

    def inline_components(self) -> dict[bytes, InlineComponentState]:
        """Return the inline components that the last visit saved, by path."""
        if self.row is None:
            return {}
        return saved_inline_components(self.visit.store, self.visit.dataset, self.row)

    def lines(self, paths: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
        """Yield the record lines at or below upstream paths, each with that path.

        They are sorted by git path, so the lines below one path are contiguous, except for escaped
        paths.
        """
        upstream_paths: dict[bytes, bytes] = {}
        for path in paths:
            own = git_path(path)
            upstream_paths |= dict.fromkeys((own, mark_clash(own), submodule_path(own)), path)
        if self.row is None or not upstream_paths:
            return
        store, dataset = self.visit.store, self.visit.dataset
        restore_records(store, dataset, self.row)
        for line in store.records.lines(dataset.dataset_id, self.row.records):
            path = line_path(line)
            root = folder_in(path, upstream_paths) or path
            if root in upstream_paths:
                yield upstream_paths[root], line


def has_named_components(visit: Visit, row: VersionRow) -> bool:
    """Return whether a version has components that upstream itself names."""
    components = visit.recorder.ask(lambda index: list(index.versions.subdatasets(row)))
    return bool(PreviousState(visit, row).inline_components()) or any(
        not is_split_component(visit.dataset, one.dataset.partition(":")[2]) for one in components
    )


# --- failures

_MAX_NAMED = 3

_REFUSALS = (ComponentRefusedError, AccessDeniedError)

FailedComponents = Mapping[bytes, tuple[ComponentEntry, NeuromirrorError]]
"""Components that could not be read, with the error, by path."""


class ComponentsUnreadableError(NeuromirrorError):
    """Components could not be read, perhaps only temporarily.

    The state of the dataset is not published.
    """


def empty_exception(component: ComponentEntry) -> ExcludedEntry:
    """Return the entry that records that an empty component is not in the version.

    git cannot store an empty folder.
    """
    return ExcludedEntry(component.path, "zarr-empty", "the Zarr holds no files", component.size)


def check_lasting_failures(failed: FailedComponents, refusals: RefusalHistory) -> None:
    """Raise ComponentsUnreadableError unless each component failed for a lasting reason.

    A lasting reason is one that upstream itself states, or a refusal of the component's URI over a
    day or longer. Only then may a state be published without the component, or with its previous
    state: otherwise the state never existed upstream.
    """
    passing = [
        (component, error)
        for component, error in failed.values()
        if not isinstance(error, ComponentUnavailableError | ComponentMismatchError)
        and not (isinstance(error, _REFUSALS) and refusals.record(component.dataset.source_uri))
    ]
    if not passing:
        return
    named = [
        f"{path_to_text(one.path)} ({one.dataset.name}): {error}"
        for one, error in passing[:_MAX_NAMED]
    ]
    if len(passing) > _MAX_NAMED:
        named.append(f"and {len(passing) - _MAX_NAMED} more")
    raise ComponentsUnreadableError(
        f"{'; '.join(named)}; nothing of this version was published, and the next sync tries again"
    )


# the details of exceptions are committed (dataset.json): another text changes commit ids
def unreadable_exception(component: ComponentEntry, error: NeuromirrorError) -> ExcludedEntry:
    """Return the entry that records that an unreadable component is not in the version.

    For a component that the previous state has, that state is kept instead.
    """
    if isinstance(error, _REFUSALS):
        detail = "the archive or its bucket refuses the Zarr, and no embargo is stated"
        return ExcludedEntry(component.path, "zarr-refused", detail, component.size)
    if not isinstance(error, ComponentUnavailableError):
        detail = "its files differ from the Zarr that the archive describes"
        return ExcludedEntry(component.path, "zarr-not-proven", detail, component.size)
    if is_pending_error(error):
        detail = "its files are still being written: the archive has no checksum of it"
    else:
        detail = f"the archive does not allow anonymous access to the Zarr ({error.reason})"
    return ExcludedEntry(component.path, error.reason, detail, component.size)


def is_pending_error(error: NeuromirrorError) -> bool:
    """Return whether an error means that upstream is still writing the component."""
    return isinstance(error, ComponentUnavailableError) and error.reason == "pending"


def problem_message(component: ComponentEntry, error: NeuromirrorError, *, is_kept: bool) -> str:
    """Return the message for an operator about a component that could not be read.

    ``is_kept``: its previous version is kept; otherwise the new version of the dataset lacks it.
    """
    consequence = "its previous version is kept" if is_kept else "it is omitted"
    return (
        f"{path_to_text(component.path)} ({component.dataset.name}) could not be read, and "
        f"{consequence}: {error}"
    )


def lost_files_message(component: ComponentEntry, error: NeuromirrorError) -> str:
    """Return the message for a component that lost files while its checksum stayed the same."""
    return (
        f"{component.dataset.name}: the files upstream no longer match the checksum "
        f"{component.version.upstream}; the mirrored state is kept: {error}"
    )


# only the record lines of files whose upstream path is not the git path have it
_PATH_MEMBER = b',"path'

# --- resolve

CONCURRENT_READS = 4
"""Components of one dataset that are read concurrently."""

_LOOKUP_BATCH = 500
_PendingRead = tuple[ComponentEntry, Path, "Future[SpooledSnapshot | NeuromirrorError]"]
"""A component, the folder for its files, and its future snapshot or error."""


class Resolver:
    """Decides for each component of a listing: a subdataset, or files of the dataset.

    It reads small components from upstream, concurrently, and takes unchanged ones from the
    previous state. It is used for one listing, whose refused components it records in
    ``refusals``. :attr:`resolved` is complete after :meth:`resolve`.
    """

    def __init__(self, visit: Visit, previous: PreviousState, refusals: RefusalHistory) -> None:
        self._visit = visit
        self._previous = previous
        self._refusals = refusals
        self.resolved = ResolvedComponents()
        self._pool = ContextThreadPool(CONCURRENT_READS, thread_name_prefix="component")
        self._numbers = count()
        self._pending_reads: deque[_PendingRead] = deque()

    @cached_property
    def _before(self) -> dict[bytes, InlineComponentState]:
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

    def resolve(
        self, components: Sequence[ComponentEntry], scratch: Path
    ) -> Iterator[ResolvedEntry]:
        """Yield the entries of the components; raise ComponentsUnreadableError if reads failed."""
        large: list[ComponentEntry] = []
        fresh: list[ComponentEntry] = []
        unchanged: dict[bytes, ComponentEntry] = {}
        rewritten = yield from self._keep_finalized(components)
        for component in components:
            claimed = component.version.claimed_totals
            if component.path in rewritten:
                continue
            if claimed is not None and not claimed.files:
                yield empty_exception(component)
            elif claimed is None or not self._is_small(claimed.files):
                large.append(component)
            elif self._is_copyable(component):
                unchanged[component.path] = component
            else:
                fresh.append(component)
        yield from self._copy_unchanged(unchanged)
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
        check_lasting_failures(failed, self._refusals)
        yield from self._keep_previous(failed)
        yield from self._link_subdatasets(large)

    def _keep_finalized(
        self, components: Sequence[ComponentEntry]
    ) -> Generator[ResolvedEntry, None, set[bytes]]:
        """Yield the last finalized state of each component that is being written again.

        Returns the paths of these components. One that was never finalized is read as it is.
        """
        kept: set[bytes] = set()
        inline: set[bytes] = set()
        for component in components:
            if names_exact_state(component.version):
                continue
            previous = self._before.get(component.path)
            row = self._visit.recorder.ask(partial(find_last_finalized, version=component.version))
            if previous is not None and previous.local_id == component.dataset.local_id:
                inline.add(component.path)
            elif row is not None:
                kept.add(component.path)
                yield self._visit.recorder.ask(partial(link_to_version, row=row)).as_file(component)
            else:
                continue
            self.resolved.pending_ids.add(component.dataset.local_id)
        for path, line in self._previous.lines(inline):
            if path not in kept:
                kept.add(path)
                self.resolved.inline.append(self._before[path])
            yield _copied_entry(line)
        return kept

    def _is_small(self, files: int) -> bool:
        limits = self._visit.settings.zarr
        return files < limits.inline_components and files <= min(limits.inline, limits.manifest)

    def _is_copyable(self, component: ComponentEntry) -> bool:
        """Return whether a small component can be copied from the previous state."""
        before = self._before.get(component.path)
        # exceptions are not in the records, so they could not be copied
        has_all = before is not None and not before.exceptions
        return not self._visit.deep and has_all and _is_unchanged(component, before)

    # --- small components

    def _copy_unchanged(self, unchanged: dict[bytes, ComponentEntry]) -> Iterator[ResolvedEntry]:
        """Yield the files of unchanged components, and remove those from ``unchanged``."""
        for path, group in groupby(self._previous.lines(unchanged), lambda pair: pair[0]):
            lines = [line for _, line in group]
            # one that does not match the memo is read instead
            if path in unchanged and len(lines) == self._before[path].files:
                del unchanged[path]
                self.resolved.inline.append(self._before[path])
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
        pages = folder / "pages"
        pages.mkdir(parents=True)
        try:
            with self._visit.recorder.reader() as index:
                listing = component.listing(StoreVisitContext(index, lambda: pages))
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
            yield replace(record, path=start + record.path)
        for one in header.exceptions:
            yield ExcludedEntry(start + one.path, one.reason, one.detail, one.size)
        dataset, counts = component.dataset, (found.files, len(header.exceptions))
        names = component.path, dataset.local_id, header.version.upstream
        state = InlineComponentState(*names, *counts, header.newest, dataset.source_uri, size)
        self.resolved.inline.append(state)

    def _keep_previous(self, failed: FailedComponents) -> Iterator[ResolvedEntry]:
        """Yield the previous entries of the components that could not be read."""
        before, kept = self._before, set[bytes]()
        for path, line in self._previous.lines(failed):
            kept.add(path)
            yield _copied_entry(line)
        for path, (component, error) in failed.items():
            self.resolved.is_final = False
            if path not in kept:
                yield unreadable_exception(component, error)
            elif path in before:
                self.resolved.inline.append(before[path])
            if is_pending_error(error):
                self.resolved.pending_ids.add(component.dataset.local_id)
            elif _is_unchanged(component, before.get(path)) and isinstance(
                error, ComponentMismatchError
            ):
                self.resolved.incidents.append(lost_files_message(component, error))
            elif path in kept or not isinstance(error, ComponentUnavailableError):
                self.resolved.problems.append(
                    problem_message(component, error, is_kept=path in kept)
                )

    # --- components that are datasets of their own

    def _link_subdatasets(self, components: Iterable[ComponentEntry]) -> Iterator[ResolvedEntry]:
        left = iter(components)
        while some := list(islice(left, _LOOKUP_BATCH)):
            found = self._visit.recorder.ask(partial(_find_links, components=some))
            for component, link in zip(some, found, strict=True):
                entry = unresolved_link(component) if link is None else link.as_file(component)
                if not fits_path_limits(entry.git_path):
                    detail = "its path is longer than file systems hold"
                    yield ExcludedEntry(component.path, "path-too-long", detail, component.size)
                    continue
                self.resolved.subdatasets[component.path] = component
                if link is None:
                    self.resolved.unmirrored.add(component.path)
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


def _copied_entry(line: bytes) -> ResolvedEntry:
    """Return the entry for a line of the previous state; escaped names are assigned again."""
    if is_subdataset_line(line):
        return load_snapshot_entry(line)
    return load_snapshot_entry(line).record if _PATH_MEMBER in line else line


# --- list, resolve and validate


def previous_state(visit: Visit, version: VersionRef | None = None) -> PreviousState:
    """Return the state whose components are kept or copied: of the version itself, else the last.

    The version itself is minted already if it is published and read again.
    """
    row = None
    if version is not None and version.kind is VersionKind.PUBLISHED:
        row = visit.published_version(version.upstream)
    rows = visit.versions()
    return PreviousState(visit, row or visit.last_observed() or (rows[-1] if rows else None))


def read_state(
    visit: Visit,
    version: VersionRef,
    memo: StoredMemo | None = None,
    component: ComponentEntry | None = None,
) -> AbstractContextManager[ListedVersion]:
    """List a version, resolve its components and validate the result, for a block of code.

    ``component`` is the component whose present state is read; its memo has the name
    :data:`COMPONENT_MEMO`.
    """
    name = version.upstream if component is None else COMPONENT_MEMO
    open_listing: Callable[[VisitContext], Listing] = partial(visit.source.listing, version)
    if component is not None:
        open_listing = component.listing
    refusals = RefusalHistory(visit.store.memos, visit.dataset.dataset_id, name)
    resolver = None
    if not visit.within:
        resolver = Resolver(visit, previous_state(visit, version), refusals)
    return read_version(visit, version, name, memo, refusals, open_listing, resolver)


_ATTEMPTS = 3
"""Attempts to read the listing of a dataset; that of a component is confirmed by its checksum."""


def retried(step: Callable[..., _T], visit: Visit, *arguments: object) -> _T:
    """Return the result of a step; repeat it if upstream's listing contradicts itself."""
    for _ in range(0 if visit.within else _ATTEMPTS - 1):
        with suppress(UnreliableListingError):
            return step(visit, *arguments)
    return step(visit, *arguments)


# --- visit the components that are datasets of their own

COMPONENT_MEMO = "component"
"""The name of a component's only memo; a component has one memo, not one per state."""


class ComponentVisitResult(Struct):
    """The result of visiting a component: a Zarr or volume scale with a dataset of its own.

    Attributes
    ----------
    link
        The link to the component's state; None if the component is empty.
    new_state_count
        The number of new states.
    earlier_state_count
        The number of earlier states that upstream listed.
    incident
        The defect of a mirrored state, or an empty text.
    change_message
        A message if the archive has meanwhile replaced the requested state, although that state is
        mirrored; else empty.
    """

    link: SubdatasetLink | None = None
    new_state_count: int = 0
    earlier_state_count: int = 0
    incident: str = ""
    change_message: str = ""


def _visit_component(
    around: Visit, component: ComponentEntry
) -> ComponentVisitResult | NeuromirrorError:
    """Bring a component to its current state; wait while another visit has its lock."""
    dataset, version = component.dataset, component.version
    key = dataset.local_id, version.upstream
    # not a dataset that links it: in another store, another dataset may come first
    within = dataset.local_id.rpartition("/")[0] or "parts"
    try:
        with component_visit(around, dataset, within, math.inf) as visit:
            tombstone = visit.recorder.ask(lambda index: index.datasets.tombstone(dataset.name))
            if tombstone is not None:
                raise ComponentUnavailableError(
                    f"{dataset.name}: {takedown_message(tombstone)}", "taken down"
                )
            known: ComponentVisitResult | None = visit.component_visits.get(key)
            if known is not None:
                return replace(known, new_state_count=0, earlier_state_count=0)
            catch_up(visit)
            result = ComponentVisitResult()
            if visit.history:
                _mint_earlier_states(visit, result)
            row = visit.recorder.ask(lambda index: find_minted_version(index, version))
            if row is None:
                _read_component(visit, component, result)
            else:
                result.link = visit.recorder.ask(lambda index: link_to_version(index, row))
                if visit.deep:
                    _verify_component(visit, component, row, result)
            is_reusable = (visit.deep or visit.history) and not result.change_message
            if is_reusable and names_exact_state(version):
                visit.component_visits[key] = result
            return result
    except StoreDamagedError:
        raise  # a fault of this store must not become a state that no other store has
    except NeuromirrorError as error:
        return error


def _read_component(visit: Visit, component: ComponentEntry, result: ComponentVisitResult) -> None:
    """Read the present state of a component, unless it is the last one, and link to it."""
    refs = visit.repository.refs()
    memo = known_memo(visit, COMPONENT_MEMO, refs.get(MAIN_BRANCH), refs.get(ANNEX_BRANCH))
    with read_state(visit, component.version, memo, component) as listed:
        if not listed.is_unchanged:
            commits = _publish_component(visit, listed, result)
            keep_memos(visit, COMPONENT_MEMO, listed, commits)
        elif (last := visit.last_observed()) is not None:
            result.link = visit.recorder.ask(lambda index: link_to_version(index, last))


def _publish_component(
    visit: Visit, listed: ListedVersion, result: ComponentVisitResult
) -> StateCommits | None:
    """Publish the present state of a component, unless it is minted already, and link to it."""
    version = listed.snapshot.header.version
    # upstream may have changed the state since it stated the version
    row = visit.recorder.ask(lambda index: find_minted_version(index, version))
    if row is not None:
        result.link = visit.recorder.ask(lambda index: link_to_version(index, row))
        return row.commit, row.annex_commit
    if not listed.snapshot.is_empty:
        label = version.upstream if names_exact_state(version) else ""
        return _publish_and_link(visit, listed, label, result)
    if visit.versions():
        raise ComponentMismatchError(
            f"{version.dataset.name}: upstream lists no files, without a checksum that confirms it"
        )
    return None


def _publish_and_link(
    visit: Visit, listed: ListedVersion, label: str, result: ComponentVisitResult
) -> StateCommits:
    is_free = label and TAG_PREFIX + label not in visit.repository.refs()
    names = MAIN_BRANCH, listed.scratch, label if is_free else None
    published, is_new = publish_state(visit, listed.snapshot, *names)
    result.new_state_count += is_new
    row = next(row for row in visit.versions() if row.commit == published.commit)
    result.link = visit.recorder.ask(lambda index: link_to_version(index, row))
    return published.commit, published.annex_commit


def _verify_component(
    visit: Visit, component: ComponentEntry, row: VersionRow, result: ComponentVisitResult
) -> None:
    """Check that upstream still has the state that is mirrored."""
    memo = known_memo(visit, COMPONENT_MEMO, row.commit)
    commits: StateCommits | None
    try:
        with read_state(visit, component.version, memo, component) as listed:
            if listed.is_unchanged:
                return
            present = listed.snapshot.header.version.upstream
            if present == row.upstream:
                renew_state(visit, row, listed.snapshot, listed.scratch)
                commits = row.commit, visit.repository.refs()[ANNEX_BRANCH]
            else:
                name = component.dataset.name
                result.change_message = f"{name} is {present} now, not {row.upstream}"
                commits = _publish_component(visit, listed, result)
            keep_memos(visit, COMPONENT_MEMO, listed, commits)
    except ComponentMismatchError as error:
        result.incident = lost_files_message(component, error)
        data: dict[str, object] = {"version": row.upstream}
        record_event(visit.recorder, component.dataset, "incident", result.incident, data)


# --- earlier states


def _mint_earlier_states(visit: Visit, result: ComponentVisitResult) -> None:
    """Publish the earlier states of a component that upstream can list and the mirror lacks."""
    last = visit.last_observed()
    states = list_earlier_states(visit, last)
    result.earlier_state_count = len(states)
    if last is not None and not is_earlier_state(last.upstream):
        states = unseen_states(visit, states, last)
    for version in states:
        with read_state(visit, version) as listed:
            # a deleted Zarr has no state
            if not listed.snapshot.is_empty:
                _publish_and_link(visit, listed, "", result)


def list_earlier_states(visit: Visit, last: VersionRow | None) -> list[VersionRef]:
    """Return the states that upstream had after ``last`` and before the current one, oldest first.

    Without a last mirrored version, all earlier states. The archive must keep old versions of its
    objects.
    """
    since = None if last is None else datetime.fromisoformat(last.time)
    return visit.source.history(visit.dataset, since)


def unseen_states(visit: Visit, states: list[VersionRef], last: VersionRow) -> list[VersionRef]:
    """Return those of the listed earlier states that are newer than the version observed last.

    Times alone do not show which state was observed, because a deletion gives a state no newer
    time. So the states before the time of the observation are listed, the newest first, until one
    has the same files as the version.
    """
    observed = datetime.fromisoformat(last.recorded_at)
    before = [state for state in states if state.time is not None and state.time <= observed]
    for number in range(len(before), 0, -1):
        if retried(_has_same_files, visit, before[number - 1], last):
            return states[number:]
    return states


def _has_same_files(visit: Visit, version: VersionRef, row: VersionRow) -> bool:
    with read_state(visit, version) as listed:
        return compare(visit, row, listed)[1].has_same_files


# --- link


def link_components(
    visit: Visit, listed: ListedVersion, previous: PreviousState
) -> tuple[SpooledSnapshot, list[ComponentVisitResult]]:
    """Visit the components whose state the store lacks, or all of them, and link to their states.

    All are visited in a deep visit, and in one that looks for earlier states. A component is
    skipped if upstream states that it is unavailable, if it does not match its checksum, or if it
    has been refused for long: then its entries of the previous state are kept, and without such
    entries it is excluded. Returns the state with links, and what the visits did.

    Raises
    ------
    ComponentsUnreadableError
        If components failed for another reason; raised after all were visited.
    """
    snapshot = listed.snapshot
    due = {
        path: component
        for path, component in snapshot.components.subdatasets.items()
        if visit.deep or visit.history or path in snapshot.components.unmirrored
    }
    if not due:
        return snapshot, []
    visited: dict[bytes, ComponentVisitResult] = {}
    failed: dict[bytes, tuple[ComponentEntry, NeuromirrorError]] = {}
    with ContextThreadPool(min(CONCURRENT_READS, len(due)), thread_name_prefix="component") as pool:
        results = pool.map(partial(_visit_component, visit), due.values())
        for path, result in zip(due, results, strict=True):
            if isinstance(result, NeuromirrorError):
                failed[path] = due[path], result
            else:
                visited[path] = result
    check_lasting_failures(failed, listed.refusals)
    links = {path: one.link for path, one in visited.items() if one.link is not None}
    exceptions = [empty_exception(due[path]) for path in visited.keys() - links.keys()]
    linked = _link(snapshot, previous, listed.scratch, due, links, failed, exceptions)
    return linked, list(visited.values())


def _link(
    snapshot: SpooledSnapshot,
    previous: PreviousState,
    scratch: Path,
    due: Mapping[bytes, ComponentEntry],
    links: Mapping[bytes, SubdatasetLink],
    failed: FailedComponents,
    exceptions: list[ExcludedEntry],
) -> SpooledSnapshot:
    """Return the state with its links, and the previous entries of the components that failed."""
    header, resolved = snapshot.header, snapshot.components
    kept_paths: set[bytes] = set()
    kept_files = 0
    times = [header.newest, *(link.time for link in links.values())]
    for path, line in previous.lines(failed):
        entry = load_snapshot_entry(line)
        kept_paths.add(path)
        kept_files += entry.subdataset is None
        times.append(entry.record.modified)
    spool = RecordSpool(scratch / "linked.jsonl")
    kept_lines = (line for _, line in previous.lines(failed))
    with spool.path.open("wb", buffering=1 << 18) as file:
        for line in merge(_linked_lines(snapshot.spool, due, links), kept_lines, key=line_path):
            file.write(line + b"\n")
    problems, pending_ids = list(resolved.problems), set(resolved.pending_ids)
    for path, (component, error) in failed.items():
        is_kept = path in kept_paths
        if not is_kept:
            exceptions.append(unreadable_exception(component, error))
        if is_pending_error(error):
            pending_ids.add(component.dataset.local_id)
        elif is_kept or not isinstance(error, ComponentUnavailableError):
            problems.append(problem_message(component, error, is_kept=is_kept))
    excluded = failed.keys() | {exception.path for exception in exceptions}
    newest = max(filter(None, times), default=None)
    version = header.version
    if snapshot.has_no_upstream_time and newest is not None:
        version = replace(version, time=newest)
    exceptions = sorted([*header.exceptions, *exceptions], key=lambda one: (one.path, one.reason))
    before = previous.inline_components()
    return replace(
        snapshot,
        header=replace(header, version=version, exceptions=tuple(exceptions), newest=newest),
        spool=spool,
        files=snapshot.files + kept_files,
        components=ResolvedComponents(
            {path: one for path, one in resolved.subdatasets.items() if path not in excluded},
            inline=[*resolved.inline, *(before[path] for path in kept_paths & before.keys())],
            problems=problems,
            incidents=resolved.incidents,
            is_final=resolved.is_final and not failed,
            pending_ids=pending_ids,
        ),
    )


def _linked_lines(
    spool: RecordSpool, due: Mapping[bytes, ComponentEntry], links: Mapping[bytes, SubdatasetLink]
) -> Iterator[bytes]:
    """Yield the lines of a state with the links; without the components that have none."""
    for line in spool.lines():
        if not is_subdataset_line(line):
            yield line
            continue
        entry = load_snapshot_entry(line)
        path = entry.record.path
        if path in links:
            record = replace(entry.record, modified=links[path].time)
            state = links[path].state
            yield dump_snapshot_entry(SnapshotEntry(entry.git_path, "", record, state))
        elif path not in due:
            yield line
