"""Resolve the components of a listing: visit those that are datasets, and link to them.

A small component is read at once, with a listing and a validation of its own; the first few while
the dataset's listing is still being read. An unchanged one is copied from the previous state
without a request. Others are looked up in the store, and left unresolved if it lacks them.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime
from functools import cached_property, partial
from heapq import merge
from itertools import count, islice
from pathlib import Path
from shutil import rmtree

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from neuromirror.annex import fits_path_limits
from neuromirror.config.mirror_files import ZarrLimits
from neuromirror.crawl.components import (
    ComponentPublisher,
    PreviousState,
    SubdatasetLink,
    find_last_finalized,
    find_minted_version,
    has_other_upstream_path,
    is_earlier_state,
    is_subdataset_line,
    link_to_version,
    names_exact_state,
    unresolved_link,
)
from neuromirror.crawl.guards import record_event
from neuromirror.crawl.listing import (
    InlineComponentState,
    RecordSpool,
    ResolvedComponents,
    ResolvedEntry,
    SpooledSnapshot,
    StoreVisitContext,
    create_workspace,
    read_listing,
)
from neuromirror.crawl.plan import takedown_message
from neuromirror.crawl.publisher import Publisher
from neuromirror.crawl.recorder import Recorder
from neuromirror.crawl.version_reader import (
    StateCommits,
    VersionReader,
    list_earlier_states,
    unseen_states,
)
from neuromirror.index import CrawlIndex, VersionRow
from neuromirror.model import (
    ExcludedEntry,
    NeuromirrorError,
    SnapshotEntry,
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
    Source,
    UnreliableListingError,
)
from neuromirror.store import ANNEX_BRANCH, MAIN_BRANCH, TAG_PREFIX, Store, StoreDamagedError

_MAX_NAMED = 3
NOT_PROVEN = "zarr-not-proven"
REFUSED = "zarr-refused"
EMPTY = "zarr-empty"
PENDING = "pending"

_REFUSALS = (ComponentRefusedError, AccessDeniedError)

RecordRefusal = Callable[[str], bool]
"""Records that a URL is refused; returns whether it has been refused for a day or longer."""

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
    return ExcludedEntry(component.path, EMPTY, "the Zarr holds no files", component.size)


def check_lasting_failures(failed: FailedComponents, record_refusal: RecordRefusal) -> None:
    """Raise ComponentsUnreadableError unless each component failed for a lasting reason.

    A lasting reason is one that upstream itself states, or a refusal that ``record_refusal``,
    called with the component's URI, reports as lasting. Only then may a state be published without
    the component, or with its previous state: otherwise the state never existed upstream.
    """
    passing = [
        (component, error)
        for component, error in failed.values()
        if not isinstance(error, ComponentUnavailableError | ComponentMismatchError)
        and not (isinstance(error, _REFUSALS) and record_refusal(component.dataset.source_uri))
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
        return ExcludedEntry(component.path, REFUSED, detail, component.size)
    if not isinstance(error, ComponentUnavailableError):
        detail = "its files differ from the Zarr that the archive describes"
        return ExcludedEntry(component.path, NOT_PROVEN, detail, component.size)
    if is_pending_error(error):
        detail = "its files are still being written: the archive has no checksum of it"
    else:
        detail = f"the archive does not allow anonymous access to the Zarr ({error.reason})"
    return ExcludedEntry(component.path, error.reason, detail, component.size)


def is_pending_error(error: NeuromirrorError) -> bool:
    """Return whether an error means that upstream is still writing the component."""
    return isinstance(error, ComponentUnavailableError) and error.reason == PENDING


def problem_message(component: ComponentEntry, error: NeuromirrorError, *, is_kept: bool) -> str:
    """Return the message for an operator about a component that could not be read.

    ``is_kept``: its previous version is kept; otherwise the new version of the dataset lacks it.
    """
    consequence = "its previous version is kept" if is_kept else "it is omitted"
    return (
        f"{path_to_text(component.path)} ({component.dataset.name}) could not be read, and "
        f"{consequence}: {error}"
    )


def is_contradiction(error: NeuromirrorError) -> bool:
    """Return whether an error means that a component's files do not match its checksum.

    The checksum is upstream's.
    """
    return isinstance(error, ComponentMismatchError)


def lost_files_message(component: ComponentEntry, error: NeuromirrorError) -> str:
    """Return the message for a component that lost files while its checksum stayed the same."""
    return (
        f"{component.dataset.name}: the files upstream no longer match the checksum "
        f"{component.version.upstream}; the mirrored state is kept: {error}"
    )


_MEMO_NAME = "component"
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


class ComponentVisitor:
    """Visits the components of a dataset that are datasets of their own, each under its own lock.

    It is thread-safe. Each state is visited once, because several versions of a dataset may have
    the same state of a component.

    Parameters
    ----------
    source, store, recorder
        The mirror's source, and the store with its recorder.
    limits
        The ``[zarr]`` table of the mirror file.
    deep
        Whether a component is read even if its state is known.
    history
        Whether the earlier states that upstream can list are published first.
    """

    def __init__(
        self,
        source: Source,
        store: Store,
        recorder: Recorder,
        limits: ZarrLimits,
        *,
        deep: bool,
        history: bool,
    ) -> None:
        self._source = source
        self._store = store
        self._recorder = recorder
        self._limits = limits
        self._deep = deep
        self._history = history
        self._results: dict[tuple[str, str], ComponentVisitResult] = {}

    def visit(self, component: ComponentEntry) -> ComponentVisitResult:
        """Bring a component to its current state; wait while another visit has its lock.

        Raises
        ------
        ComponentUnavailableError
            If the component was taken down.
        NeuromirrorError
            Whatever the source raises.
        """
        dataset = component.dataset
        state = dataset.local_id, component.version.upstream
        with self._store.lock(dataset.dataset_id, dataset.name, wait=math.inf):
            tombstone = self._recorder.ask(lambda index: index.tombstone(dataset.name))
            if tombstone is not None:
                raise ComponentUnavailableError(
                    f"{dataset.name}: {takedown_message(tombstone)}", "taken down"
                )
            result = self._results.get(state)
            if result is not None:
                return replace(result, new_state_count=0, earlier_state_count=0)
            # not a dataset that links it: in another store, another dataset may come first
            within = dataset.local_id.rpartition("/")[0] or "parts"
            publisher = Publisher(
                self._store,
                self._recorder,
                dataset,
                within=within,
                index_entries=self._limits.index_entries,
            )
            publisher.catch_up()
            component_visit = _ComponentVisit(
                component,
                self._source,
                self._recorder,
                publisher,
                ComponentPublisher(self._store, self._recorder, publisher, self._limits),
                VersionReader(self._source, self._store, self._recorder, dataset, attempts=1),
            )
            component_visit.run(deep=self._deep, history=self._history)
            if publisher.repository.exists():
                publisher.repository.update_server_info()
            is_reusable = (
                self._deep or self._history
            ) and not component_visit.result.change_message
            if is_reusable and names_exact_state(component.version):
                self._results[state] = component_visit.result
            return component_visit.result


class _ComponentVisit:
    """One visit of one component; the caller holds the component's lock."""

    def __init__(
        self,
        component: ComponentEntry,
        source: Source,
        recorder: Recorder,
        publisher: Publisher,
        component_publisher: ComponentPublisher,
        reader: VersionReader,
    ) -> None:
        self._component = component
        self._source = source
        self._recorder = recorder
        self._publisher = publisher
        self._component_publisher = component_publisher
        self._reader = reader
        self.result = ComponentVisitResult()

    def run(self, *, deep: bool, history: bool) -> None:
        """Bring the component up to date, and set ``result``."""
        if history:
            self._mint_history()
        version = self._component.version
        row = self._find_minted(version)
        if row is None:
            self._read()
        elif not deep:
            self._link(row)
        else:
            self._link(row)
            self._verify_state(row)

    def _find_minted(self, version: VersionRef) -> VersionRow | None:
        return self._recorder.ask(lambda index: find_minted_version(index, version))

    def _link(self, row: VersionRow) -> None:
        self.result.link = self._recorder.ask(lambda index: link_to_version(index, row))

    # --- the present state

    def _read(self) -> None:
        refs = self._publisher.repository.refs()
        unread = self._reader.read(
            self._component.version,
            self._accept,
            refs.get(MAIN_BRANCH),
            refs.get(ANNEX_BRANCH),
            listing=self._component.listing,
            memo_name=_MEMO_NAME,
        )
        last = self._publisher.last_observed() if unread is not None else None
        if last is not None:
            self._link(last)

    def _accept(
        self, listing: Listing, snapshot: SpooledSnapshot, scratch: Path
    ) -> StateCommits | None:
        version = snapshot.header.version
        # upstream may have changed the state since it stated the version
        row = self._find_minted(version)
        if row is not None:
            self._link(row)
            return row.commit, row.annex_commit
        if snapshot.is_empty:
            if self._publisher.versions():
                raise ComponentMismatchError(
                    f"{version.dataset.name}: upstream lists no files, without a checksum that "
                    "confirms it"
                )
            return None
        return self._publish(
            snapshot, scratch, version.upstream if names_exact_state(version) else ""
        )

    def _publish(self, snapshot: SpooledSnapshot, scratch: Path, label: str) -> StateCommits:
        state = self._component_publisher.publish(snapshot, scratch)
        is_taken = TAG_PREFIX + label in self._publisher.repository.refs()
        free_label = None if is_taken or not label else label
        published = self._publisher.publish(state, MAIN_BRANCH, scratch, free_label)
        self.result.new_state_count += published.is_new
        last = self._publisher.last_observed()
        assert last is not None
        self._link(last)
        return published.commit, published.annex_commit

    def _verify_state(self, row: VersionRow) -> None:
        """Check that upstream still has the state that is mirrored."""

        def accept(
            listing: Listing, snapshot: SpooledSnapshot, scratch: Path
        ) -> StateCommits | None:
            present = snapshot.header.version.upstream
            if present == row.upstream:
                self._component_publisher.renew(row, snapshot, scratch)
                return row.commit, self._publisher.repository.refs()[ANNEX_BRANCH]
            name = self._component.dataset.name
            self.result.change_message = f"{name} is {present} now, not {row.upstream}"
            return self._accept(listing, snapshot, scratch)

        try:
            self._reader.read(
                self._component.version,
                accept,
                row.commit,
                listing=self._component.listing,
                memo_name=_MEMO_NAME,
            )
        except ComponentMismatchError as error:
            self.result.incident = lost_files_message(self._component, error)
            data: dict[str, object] = {"version": row.upstream}
            record_event(
                self._recorder, self._component.dataset, "incident", self.result.incident, data
            )

    # --- earlier states

    def _mint_history(self) -> None:
        """Publish the earlier states that upstream can list and the mirror lacks."""
        last = self._publisher.last_observed()
        states = list_earlier_states(self._source, self._component.dataset, last)
        self.result.earlier_state_count = len(states)
        if last is not None and not is_earlier_state(last.upstream):
            states = unseen_states(
                states, last, self._reader, self._component_publisher.has_same_files
            )

        def accept(listing: Listing, snapshot: SpooledSnapshot, scratch: Path) -> None:
            # a deleted Zarr has no state
            if not snapshot.is_empty:
                self._publish(snapshot, scratch, "")

        for version in states:
            self._reader.read(version, accept, None)


CONCURRENT_READS = 4
"""Components of one dataset that are read concurrently."""

_LOOKUP_BATCH = 500
_PendingRead = tuple[ComponentEntry, Path, "Future[SpooledSnapshot | NeuromirrorError]"]
"""A component, the folder for its files, and its future snapshot or error."""


class StoreComponentResolver:
    """Decides for each component of a listing: a subdataset, or files of the dataset.

    It reads small components from upstream, concurrently, and takes unchanged ones from the
    previous state. It is used for one listing and implements
    :class:`~neuromirror.crawl.listing.ComponentResolver`.

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
        rewritten = yield from self._keep_finalized(components)
        for component in components:
            if component.path in rewritten:
                continue
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

    def _keep_finalized(
        self, components: Sequence[ComponentEntry]
    ) -> Generator[ResolvedEntry, None, set[bytes]]:
        """Yield the last finalized state of each component that is being written again.

        Returns
        -------
        set[bytes]
            The paths of these components. One that was never finalized is read as it is.
        """
        before = self._previous_inline
        kept: set[bytes] = set()
        inline: set[bytes] = set()
        for component in components:
            if names_exact_state(component.version):
                continue
            previous = before.get(component.path)
            row = self._recorder.ask(partial(find_last_finalized, version=component.version))
            if previous is not None and previous.local_id == component.dataset.local_id:
                inline.add(component.path)
            elif row is not None:
                kept.add(component.path)
                link = self._recorder.ask(partial(link_to_version, row=row))
                yield link.as_file(component)
            else:
                continue
            self._pending_ids.add(component.dataset.local_id)
        for path, line in self._previous.lines(inline) if inline else ():
            if path not in kept:
                kept.add(path)
                self._inline.append(before[path])
            yield _copied_entry(line)
        return kept

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


_VisitResult = ComponentVisitResult | NeuromirrorError


class LinkingResult(Struct):
    """A state whose components are all mirrored or excluded.

    Attributes
    ----------
    snapshot
        The state with its links.
    new_state_count
        The number of new states of components.
    earlier_state_count
        The number of earlier states that upstream listed.
    incidents
        Defects of mirrored states of components.
    change_messages
        Components that are in another state now than in the listing.
    """

    snapshot: SpooledSnapshot
    new_state_count: int = 0
    earlier_state_count: int = 0
    incidents: list[str] = field(default_factory=list)
    change_messages: list[str] = field(default_factory=list)


def link_components(
    snapshot: SpooledSnapshot,
    visitor: ComponentVisitor,
    previous: PreviousState,
    scratch: Path,
    record_refusal: RecordRefusal,
    *,
    visit_all: bool,
) -> LinkingResult:
    """Visit the components whose state the store lacks, or all of them, and link to their states.

    A component is skipped if upstream states that it is unavailable, if it does not match its
    checksum, or if it has been refused for long: then its entries of the previous state are kept,
    and without such entries it is excluded.

    Parameters
    ----------
    snapshot
        The state, with placeholders for the components that the store lacks.
    visitor
        Visits the components.
    previous
        The previous state of the dataset.
    scratch
        A folder for the new record lines.
    record_refusal
        Records a refused URL; returns whether the refusal is lasting.
    visit_all
        Whether to visit the components that the store has too.

    Returns
    -------
    LinkingResult
        The state with a link in the place of each placeholder, and what was found.

    Raises
    ------
    ComponentsUnreadableError
        If components failed for another reason; raised after all were visited.
    """
    resolved = snapshot.components
    due = {
        path: component
        for path, component in resolved.subdatasets.items()
        if visit_all or path in resolved.unmirrored
    }
    linking = LinkingResult(snapshot)
    if not due:
        return linking
    links: dict[bytes, SubdatasetLink] = {}
    new_exceptions: list[ExcludedEntry] = []
    failed: dict[bytes, tuple[ComponentEntry, NeuromirrorError]] = {}
    for path, result in _visit_components(due, visitor).items():
        if isinstance(result, NeuromirrorError):
            failed[path] = due[path], result
            continue
        linking.new_state_count += result.new_state_count
        linking.earlier_state_count += result.earlier_state_count
        if result.incident:
            linking.incidents.append(result.incident)
        if result.change_message:
            linking.change_messages.append(result.change_message)
        if result.link is None:
            new_exceptions.append(empty_exception(due[path]))
        else:
            links[path] = result.link
    check_lasting_failures(failed, record_refusal)
    linked_records = _LinkedRecords(snapshot.spool, due, links, failed)
    spool = RecordSpool(scratch / "linked.jsonl")
    with spool.path.open("wb", buffering=1 << 18) as file:
        for line in merge(
            linked_records.lines(), linked_records.previous_lines(previous), key=line_path
        ):
            file.write(line + b"\n")
    linking.snapshot = _linked_snapshot(
        snapshot, spool, linked_records, failed, new_exceptions, previous.inline_components()
    )
    return linking


def _visit_components(
    due: Mapping[bytes, ComponentEntry], visitor: ComponentVisitor
) -> dict[bytes, _VisitResult]:
    with ContextThreadPool(min(CONCURRENT_READS, len(due)), thread_name_prefix="component") as pool:
        running: dict[bytes, Future[_VisitResult]] = {
            path: pool.submit(_visit_component, visitor, component)
            for path, component in due.items()
        }
        try:
            return {path: future.result() for path, future in running.items()}
        finally:
            for future in running.values():
                future.cancel()


def _visit_component(visitor: ComponentVisitor, component: ComponentEntry) -> _VisitResult:
    try:
        return visitor.visit(component)
    except StoreDamagedError:
        raise  # a fault of this store must not become a state that no other store has
    except NeuromirrorError as error:
        return error


class _LinkedRecords:
    """The record lines of a state whose components were replaced by links.

    Attributes
    ----------
    kept_paths
        The paths at which the entries of the previous state are kept.
    files
        The number of files in the kept entries.
    newest
        The time of the newest entry that was added.
    """

    def __init__(
        self,
        spool: RecordSpool,
        due: Mapping[bytes, ComponentEntry],
        links: Mapping[bytes, SubdatasetLink],
        failed: Iterable[bytes],
    ) -> None:
        self._spool = spool
        self._due = due
        self._links = links
        self._failed = list(failed)
        self.kept_paths: set[bytes] = set()
        self.files = 0
        self.newest: datetime | None = None

    def lines(self) -> Iterator[bytes]:
        """Yield the state's lines, with the resolved links."""
        for line in self._spool.lines():
            if is_subdataset_line(line):
                entry = load_snapshot_entry(line)
                path = entry.record.path
                link = self._links.get(path)
                if link is not None:
                    self._note_time(link.time)
                    record = msgspec.structs.replace(entry.record, modified=link.time)
                    yield dump_snapshot_entry(SnapshotEntry(entry.git_path, "", record, link.state))
                elif path not in self._due:
                    yield line
            else:
                yield line

    def previous_lines(self, previous: PreviousState) -> Iterator[bytes]:
        """Yield the previous state's lines of the components that failed."""
        for path, line in previous.lines(self._failed) if self._failed else ():
            self.kept_paths.add(path)
            entry = load_snapshot_entry(line)
            self.files += entry.subdataset is None
            self._note_time(entry.record.modified)
            yield line

    def _note_time(self, time: datetime | None) -> None:
        if time is not None and (self.newest is None or time > self.newest):
            self.newest = time


def _linked_snapshot(
    snapshot: SpooledSnapshot,
    spool: RecordSpool,
    linked_records: _LinkedRecords,
    failed: FailedComponents,
    new_exceptions: list[ExcludedEntry],
    previous_inline: Mapping[bytes, InlineComponentState],
) -> SpooledSnapshot:
    """Return the state as it was written."""
    header, resolved = snapshot.header, snapshot.components
    problems = list(resolved.problems)
    for path, (component, error) in failed.items():
        is_kept = path in linked_records.kept_paths
        if not is_kept:
            new_exceptions.append(unreadable_exception(component, error))
        if (is_kept or not isinstance(error, ComponentUnavailableError)) and not is_pending_error(
            error
        ):
            problems.append(problem_message(component, error, is_kept=is_kept))
    excluded = failed.keys() | {one.path for one in new_exceptions}
    newest = max(filter(None, (header.newest, linked_records.newest)), default=None)
    version = header.version
    if snapshot.has_no_upstream_time and newest is not None:
        version = replace(version, time=newest)
    exceptions = sorted(
        [*header.exceptions, *new_exceptions], key=lambda one: (one.path, one.reason)
    )
    return replace(
        snapshot,
        header=replace(header, version=version, exceptions=tuple(exceptions), newest=newest),
        spool=spool,
        files=snapshot.files + linked_records.files,
        components=ResolvedComponents(
            subdatasets={
                path: component
                for path, component in resolved.subdatasets.items()
                if path not in excluded
            },
            inline=(
                *resolved.inline,
                *(
                    previous_inline[path]
                    for path in linked_records.kept_paths
                    if path in previous_inline
                ),
            ),
            problems=tuple(problems),
            incidents=resolved.incidents,
            is_final=resolved.is_final and not failed,
            pending_ids=resolved.pending_ids.union(
                component.dataset.local_id
                for component, error in failed.values()
                if is_pending_error(error)
            ),
        ),
    )
