"""Mirror the components of a state and link to them, before the state is published."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from datetime import datetime
from heapq import merge
from pathlib import Path

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from neuromirror.crawl.components.component_visits import ComponentVisitor, ComponentVisitResult
from neuromirror.crawl.components.failures import (
    FailedComponents,
    RecordRefusal,
    check_lasting_failures,
    empty_exception,
    is_pending_error,
    problem_message,
    unreadable_exception,
)
from neuromirror.crawl.components.resolve import CONCURRENT_READS
from neuromirror.crawl.components.subdataset_links import (
    PreviousState,
    SubdatasetLink,
    is_subdataset_line,
)
from neuromirror.crawl.visit.snapshot import (
    InlineComponentState,
    RecordSpool,
    ResolvedComponents,
    SpooledSnapshot,
)
from neuromirror.model import (
    ExcludedEntry,
    NeuromirrorError,
    SnapshotEntry,
    dump_snapshot_entry,
    line_path,
    load_snapshot_entry,
)
from neuromirror.net import ContextThreadPool
from neuromirror.sources import ComponentEntry, ComponentUnavailableError

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
