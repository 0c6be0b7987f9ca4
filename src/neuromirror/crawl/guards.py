"""Guard: compare a new listing with the last state, and accept, hold or postpone it.

Also the events and holds of a dataset, and the names that are refused: the built-in sources escape
their names, a source from a plug-in may not.
"""

from __future__ import annotations

import getpass
import hashlib
from collections.abc import Iterable, Iterator, Set
from datetime import UTC, datetime, timedelta
from functools import cached_property
from heapq import merge
from itertools import chain, count, islice
from pathlib import Path
from typing import Self

from msgspec import Struct, field
from msgspec.structs import replace

from neuromirror.annex import git_path
from neuromirror.crawl.listing import ListedVersion
from neuromirror.crawl.plan import Visit
from neuromirror.crawl.recorder import Recorder, list_known, restore_records
from neuromirror.crawl.validate import (
    SpooledSnapshot,
    folder_in,
    is_split_component,
    saved_inline_components,
)
from neuromirror.git import ObjectReader
from neuromirror.index import EventRow, HoldRow, VersionRow
from neuromirror.model import (
    DESCRIPTION_PATH,
    FOLDER_MARKER,
    Change,
    ConfigurationError,
    DatasetRef,
    EventRaised,
    FileRecord,
    HoldLapsed,
    HoldPlaced,
    HoldReleased,
    LinePair,
    NeuromirrorError,
    Retention,
    SnapshotEntry,
    SnapshotHeader,
    VersionRef,
    current_timestamp,
    diff_lines,
    dump_pairs,
    dump_snapshot_entry,
    line_path,
    load_changes,
    load_pairs,
    load_snapshot_entry,
    metadata_digest,
    name_from_alias,
    parse_description,
    path_to_text,
    text_to_path,
)
from neuromirror.sources import UnreliableListingError

_API_KINDS = ("api", "api-private")
_IN_BUCKETS = (Retention.MUTABLE_BUCKET, Retention.VERSIONED_BUCKET)


class StateChanges(Struct):
    """Numbers of changed files between two states.

    Attributes
    ----------
    before, after
        Number of files in the old and in the new state.
    added, removed, changed
        Number of files that were added, removed or changed.
    upgraded
        Number of files of which only the evidence changed, such as an ETag replaced by a sha256.
    conflicts
        Paths with the same upstream id and different bytes.
    """

    before: int = 0
    after: int = 0
    added: int = 0
    removed: int = 0
    changed: int = 0
    upgraded: int = 0
    conflicts: list[bytes] = field(default_factory=list)

    @property
    def has_same_files(self) -> bool:
        """Whether no file was added, removed or changed, as far as digests show."""
        return not (self.added or self.removed or self.changed)


class ComponentRoots(Struct, frozen=True):
    """The upstream paths of the components in the states ``before`` and ``after``.

    Each component counts as one file: it is validated, and changes, as a whole.
    """

    before: Set[bytes] = frozenset()
    after: Set[bytes] = frozenset()

    def component_of(self, path: bytes) -> bytes | None:
        """Return the root of the component that contains a path; None for other files."""
        for roots in filter(None, (self.before, self.after)):
            root = folder_in(path, roots) or path
            if root in roots:
                return root
        return None


_NO_COMPONENTS = ComponentRoots()


class StateDifference(Struct, dict=True):
    """The differences between two states of a dataset, on disk: pairs of old and new record lines.

    Each component at ``roots`` counts as one file.
    """

    path: Path
    roots: ComponentRoots = _NO_COMPONENTS

    @classmethod
    def write(
        cls, path: Path, pairs: Iterable[LinePair], roots: ComponentRoots = _NO_COMPONENTS
    ) -> Self:
        """Write the pairs to a new file, and return the difference."""
        with path.open("wb", buffering=1 << 18) as file:
            for line in dump_pairs(pairs):
                file.write(line + b"\n")
        return cls(path, roots)

    @cached_property
    def count(self) -> int:
        """The number of pairs."""
        return sum(1 for _ in self.pairs())

    def pairs(self) -> Iterator[LinePair]:
        """Yield the lines before and after, by path.

        Yields
        ------
        LinePair
            The line before and after; None if the file is missing.
        """
        with self.path.open("rb", buffering=1 << 18) as file:
            yield from load_pairs(line[:-1] for line in file)

    def changes(self) -> Iterator[Change]:
        """Yield the files before and after, by path.

        Yields
        ------
        Change
            The file before and after; None if it is missing.
        """
        return load_changes(self.pairs())

    def missing_paths(self) -> Iterator[bytes]:
        """Yield the upstream paths of the files that were removed.

        A file of which only the git path changed (because of a clash with another file or document)
        is not missing, nor is a file in a component that still exists.

        Yields
        ------
        bytes
            The path of a file, or of a component that was removed as a whole.
        """
        renamed = {
            entry.record.path
            for change in self.changes()
            for entry in change
            if entry is not None and entry.git_path != git_path(entry.record.path)
        }
        moved = {
            new.record.path
            for _, new in (self.changes() if renamed else ())
            if new is not None and new.record.path in renamed
        }
        components: set[bytes] = set()
        for old, new in self.changes():
            if old is None or new is not None or old.record.path in moved:
                continue
            path = old.record.path
            root = self.roots.component_of(path)
            if root is None:
                yield path
            elif root not in self.roots.after and root not in components:
                components.add(root)
                yield root

    def count_changes(self, before: int) -> StateChanges:
        """Count the changes; a component counts as one file.

        Parameters
        ----------
        before
            The number of files in the earlier state.

        Returns
        -------
        StateChanges
            The counts.
        """
        changes = StateChanges(before=before, after=before)
        roots = self.roots
        components: dict[bytes, tuple[bool, bool]] = {}
        for old, new in self.changes():
            one = old or new
            assert one is not None
            root = roots.component_of(one.record.path)
            if root is not None:
                if not _is_same_component(old, new):
                    was, is_there = components.get(
                        root, (root in roots.before, root in roots.after)
                    )
                    components[root] = was or old is not None, is_there or new is not None
            elif old is None:
                changes.added += 1
                changes.after += 1
            elif new is None:
                changes.removed += 1
                changes.after -= 1
            else:
                _count_change(changes, old, new)
        for was, is_there in components.values():
            changes.changed += was and is_there
            changes.added += not was
            changes.removed += not is_there
            changes.after += is_there - was
        return changes


def _is_same_component(old: SnapshotEntry | None, new: SnapshotEntry | None) -> bool:
    """Return whether two links are to the same state of a component, or two files the same."""
    if old is None or new is None:
        return False
    if old.subdataset is None or new.subdataset is None:
        return old.key == new.key and old.subdataset is new.subdataset
    return (old.subdataset.dataset_id, old.subdataset.state) == (
        new.subdataset.dataset_id,
        new.subdataset.state,
    )


def _count_change(changes: StateChanges, old: SnapshotEntry, new: SnapshotEntry) -> None:
    if old.key == new.key:
        return
    if has_different_bytes(old.record, new.record):
        changes.changed += 1
        if _is_same_upstream_object(old.record, new.record):
            changes.conflicts.append(new.record.path)
    elif old.record.evidence is not new.record.evidence:
        changes.upgraded += 1
    else:
        changes.changed += 1


def _is_same_upstream_object(old: FileRecord, new: FileRecord) -> bool:
    """Return whether two records are of one immutable object: same id or same API URL.

    A URL is no id where upstream overwrites files in place.
    """
    if old.upstream_id is not None and old.upstream_id == new.upstream_id:
        return True
    if old.retention is Retention.MUTABLE_BUCKET and new.retention is Retention.MUTABLE_BUCKET:
        return False
    api_urls = {location.url for location in old.locations if location.kind in _API_KINDS}
    return any(location.url in api_urls for location in new.locations)


def has_different_bytes(old: FileRecord, new: FileRecord) -> bool:
    """Return whether two records of a path are of different bytes.

    They are if the size or a digest that both have differs. If the records have no digest in
    common, upstream's ids and times are compared instead.
    """
    if old.size is not None and new.size is not None and old.size != new.size:
        return True
    shared = False
    for digest in old.digests:
        other = new.digest(digest.algorithm)
        if other is not None:
            if other.value != digest.value:
                return True
            shared = True
    if shared:
        return False
    return old.upstream_id != new.upstream_id or _is_overwritten(old, new)


def _is_overwritten(old: FileRecord, new: FileRecord) -> bool:
    """Return whether an object in a bucket was overwritten, for records without a common digest.

    A better digest of the same object has the same modification time.
    """
    if old.retention not in _IN_BUCKETS or new.retention not in _IN_BUCKETS:
        return False
    if old.modified is None or new.modified is None:
        return False
    return old.modified.replace(microsecond=0) != new.modified.replace(microsecond=0)


def difference_since(
    visit: Visit, row: VersionRow, snapshot: SpooledSnapshot, scratch: Path
) -> StateDifference:
    """Return the difference between a minted version and a snapshot.

    It is computed once per snapshot, into a file in its scratch folder.
    """
    path = scratch / f"since-{row.records}-{snapshot.spool.path.name}"
    if path.exists():
        return StateDifference(path)
    restore_records(visit.store, visit.dataset, row)
    before = visit.store.records.lines(visit.dataset.dataset_id, row.records)
    return StateDifference.write(path, diff_lines(before, snapshot.spool.lines()))


def compare(
    visit: Visit, row: VersionRow, listed: ListedVersion
) -> tuple[StateDifference, StateChanges]:
    """Return the difference between a minted version and a listing, file by file.

    Splitting a Zarr off the dataset's files, or not, makes no difference; a component that
    upstream itself names counts as one file.
    """
    snapshot, scratch = listed.snapshot, listed.scratch
    inline = saved_inline_components(visit.store, visit.dataset, row)
    roots = ComponentRoots(inline.keys(), snapshot.components.paths)
    difference = StateDifference(difference_since(visit, row, snapshot, scratch).path, roots)
    split = [
        old
        for old, _ in difference.changes()
        if old is not None
        and old.subdataset is not None
        and is_split_component(visit.dataset, old.subdataset.local_id)
    ]
    if split:
        path, counter = scratch / f"whole-since-{row.commit}", count()
        whole = (line for line, _ in zip(_whole_lines(visit, row, split), counter, strict=False))
        pairs = diff_lines(whole, snapshot.spool.lines())
        difference = StateDifference.write(path, pairs, roots)
        before = next(counter)
    else:
        before = row.files + len(
            list_known(visit.recorder, lambda index: index.versions.subdatasets(row))
        )
    before -= sum(one.files - 1 for one in inline.values())
    return difference, difference.count_changes(before)


def _whole_lines(visit: Visit, row: VersionRow, components: list[SnapshotEntry]) -> Iterator[bytes]:
    """Yield a version's record lines, with those of its components in place of the links."""
    paths = {component.git_path for component in components}
    lines = visit.store.records.lines(visit.dataset.dataset_id, row.records)
    files = (line for line in lines if line_path(line) not in paths)
    inner = [_component_lines(visit, component) for component in components]
    yield from merge(files, *inner, key=line_path)


def _component_lines(visit: Visit, entry: SnapshotEntry) -> Iterator[bytes]:
    component, store = entry.subdataset, visit.store
    assert component is not None
    if not store.records.has(component.dataset_id, component.commit):
        name = f"{visit.dataset.mirror}:{component.local_id}"
        for row in list_known(visit.recorder, lambda index: index.versions.of(name)):
            if row.commit == component.commit:
                restore_records(store, row.dataset_ref, row)
    root, upstream = entry.git_path, entry.record.path
    if upstream.startswith(b"-"):
        root = b"-" + root.removeprefix(b"%2D")  # only the link has the escape
    records = store.records.newest(component.dataset_id, component.commit)
    for line in store.records.lines(component.dataset_id, records):
        inner = load_snapshot_entry(line)
        record = replace(inner.record, path=upstream + b"/" + inner.record.path)
        path = root + b"/" + inner.git_path
        yield dump_snapshot_entry(SnapshotEntry(path, inner.key, record, inner.subdataset))


TOMBSTONE, RETURNED = "tombstone", "returned"


def record_event(
    recorder: Recorder, dataset: DatasetRef, kind: str, message: str, data: dict[str, object]
) -> bool:
    """Record an event, unless one with the same message exists; return whether it is new.

    Parameters
    ----------
    recorder
        The store's recorder.
    dataset
        The dataset of the event.
    kind, message, data
        As in :class:`~neuromirror.model.EventRaised`.
    """
    if any(event.message == message for event in _events(recorder, dataset, kind)):
        return False
    recorder.record(
        EventRaised(
            dataset.mirror, dataset.local_id, kind, message, current_timestamp(), dict(data)
        )
    )
    return True


def is_tombstoned(recorder: Recorder, dataset: DatasetRef) -> bool:
    """Return whether upstream removed the dataset and has not listed it again since."""
    events = [event for kind in (TOMBSTONE, RETURNED) for event in _events(recorder, dataset, kind)]
    return bool(events) and max(events, key=lambda one: one.id).kind == TOMBSTONE


def record_tombstone(recorder: Recorder, dataset: DatasetRef, message: str) -> None:
    """Record that upstream removed a dataset, unless its removal is already recorded.

    Parameters
    ----------
    recorder
        The store's recorder.
    dataset
        The dataset.
    message
        One sentence for the operator.
    """
    if not is_tombstoned(recorder, dataset):
        recorder.record(
            EventRaised(dataset.mirror, dataset.local_id, TOMBSTONE, message, current_timestamp())
        )


def record_return(recorder: Recorder, dataset: DatasetRef) -> None:
    """Record that upstream lists a removed dataset again.

    Nothing is recorded for a dataset that was not removed.
    """
    if is_tombstoned(recorder, dataset):
        message = f"{dataset.name} is listed upstream again"
        recorder.record(
            EventRaised(dataset.mirror, dataset.local_id, RETURNED, message, current_timestamp())
        )


def _events(recorder: Recorder, dataset: DatasetRef, kind: str) -> list[EventRow]:
    return list_known(recorder, lambda index: index.crawl.events(dataset.name, kind))


def is_released(visit: Visit, upstream: str, state: str) -> bool:
    """Return whether an operator released the listing of a version with this state digest."""
    name = visit.dataset.name
    return (upstream, state) in visit.recorder.ask(lambda index: index.crawl.released_states(name))


def place_hold(
    visit: Visit, upstream: str, state: str, reason: str, removed: int = 0, before: int = 0
) -> str:
    """Hold the listing of a version; return the id of the hold. Another hold on it lapses."""
    dataset = visit.dataset
    hold = hashlib.sha256(f"{dataset.name} {upstream} {state}".encode()).hexdigest()[:8]
    if hold not in {row.hold for row in _open_holds(visit)}:
        lapse_holds(visit, upstream)
        visit.recorder.record(
            HoldPlaced(
                hold=hold,
                mirror=dataset.mirror,
                local_id=dataset.local_id,
                upstream=upstream,
                state=state,
                reason=reason,
                removed=removed,
                before=before,
                at=current_timestamp(),
            )
        )
    return hold


def hold_listing(
    visit: Visit, upstream: str, state: str, reason: str, removed: int = 0, before: int = 0
) -> None:
    """Hold a listing, and report that in the outcome."""
    hold = place_hold(visit, upstream, state, reason, removed, before)
    visit.outcome.hold_messages.append(
        f"{upstream} is held: {reason}; check the dataset upstream, then run 'neuromirror "
        f"release {hold}' to accept the listing"
    )


def lapse_holds(visit: Visit, upstream: str) -> None:
    """End the hold on a version: the listing passes the guards again."""
    for row in _open_holds(visit):
        if row.upstream == upstream:
            visit.recorder.record(HoldLapsed(row.hold, current_timestamp()))


def _open_holds(visit: Visit) -> list[HoldRow]:
    return list_known(visit.recorder, lambda index: index.crawl.open_holds(visit.dataset.name))


def release_hold(recorder: Recorder, hold: str) -> str:
    """Release an open hold, so that the next sync accepts the held listing and no other.

    Parameters
    ----------
    recorder
        The store's recorder.
    hold
        The dataset, or the id of the hold or a prefix of it.

    Returns
    -------
    str
        The name of the dataset.

    Raises
    ------
    ConfigurationError
        If the name or id matches no open hold, or several.
    """
    holds = recorder.ask(lambda index: list(index.crawl.open_holds()))
    matching = [row for row in holds if hold == row.dataset or row.hold.startswith(hold)]
    if len(matching) != 1:
        listed = ", ".join(f"{row.hold} ({row.dataset})" for row in matching or holds)
        raise ConfigurationError(
            f"'{hold}' names several held updates: {listed}; write the whole id"
            if matching
            else f"'{hold}' names no held update; held are {listed or 'none'}"
        )
    (row,) = matching
    recorder.record(HoldReleased(row.hold, getpass.getuser(), current_timestamp()))
    return row.dataset


_MAX_SAMPLED_PATHS = 100
"""Missing files that are checked upstream if the state is held in any case."""


def accepts(
    visit: Visit,
    listed: ListedVersion,
    last: VersionRow,
    difference: StateDifference,
    changes: StateChanges,
) -> bool:
    """Return whether a state may follow the last one; hold it if not.

    Raises UnreliableListingError if upstream still has files that the listing lacks.
    """
    listing, snapshot = listed.listing, listed.snapshot
    upstream = snapshot.header.version.upstream
    conflict, loss = _conflict_reason(changes), _loss_reason(visit, changes)
    if loss and listing.loss_hint:
        loss = f"{loss}; {listing.loss_hint}"
    state = snapshot.state_digest() if conflict or loss else ""
    held = bool(state) and not is_released(visit, upstream, state)
    if listing.can_find_present:
        _check_missing_files(visit, listed, last, difference, thorough=not held)
    if held and conflict:
        message = f"{conflict}; the old state is kept"
        record_event(visit.recorder, visit.dataset, "incident", message, {"version": upstream})
        hold = place_hold(visit, upstream, state, conflict, changes.removed, changes.before)
        # the mirror is behind upstream, so every run reports it
        visit.outcome.incidents.append(
            f"{message}; check the dataset upstream, then run 'neuromirror release {hold}' to "
            "accept the new state"
        )
    elif held:
        hold_listing(visit, upstream, state, loss, changes.removed, changes.before)
    return not held


def _conflict_reason(changes: StateChanges) -> str:
    """Describe the files with the same upstream id and different bytes; may be empty."""
    if not changes.conflicts:
        return ""
    paths = ", ".join(repr(path_to_text(path)) for path in changes.conflicts[:3])
    count = len(changes.conflicts)
    files = "1 file has" if count == 1 else f"{count} files have"
    return f"{files} different content under the same upstream id or API URL ({paths})"


def _loss_reason(visit: Visit, changes: StateChanges) -> str:
    """Return why a state that lost files is held; empty if it is not."""
    if not changes.before:
        return ""
    if not changes.after:
        return "the listing is empty"
    share = 100 * changes.removed / changes.before
    guards = visit.settings.guards
    if share > guards.max_removed_percent and changes.removed > guards.max_removed_files:
        return f"{changes.removed} of {changes.before} files are missing ({share:.0f} %)"
    return ""


def _check_missing_files(
    visit: Visit,
    listed: ListedVersion,
    last: VersionRow,
    difference: StateDifference,
    *,
    thorough: bool,
) -> None:
    """Check upstream for the files that the listing lacks: all (``thorough``), or a sample."""
    header = listed.snapshot.header
    elsewhere = _named_paths(header)
    missing = chain(
        _lost_documents(visit, last, listed.snapshot, difference),
        (path for path in difference.missing_paths() if path not in elsewhere),
    )
    requested = list(missing if thorough else islice(missing, _MAX_SAMPLED_PATHS))
    present = listed.listing.find_present(requested) if requested else []
    if present:
        raise UnreliableListingError(
            f"{visit.dataset.name} {header.version.upstream}: {len(present)} of {len(requested)} "
            f"files that the listing lacks still exist upstream, "
            f"for example {path_to_text(present[0])!r}; try again"
        )


def _named_paths(header: SnapshotHeader) -> set[bytes]:
    return {one.path for one in header.documents} | {one.path for one in header.exceptions}


def _lost_documents(
    visit: Visit, row: VersionRow, snapshot: SpooledSnapshot, difference: StateDifference
) -> list[bytes]:
    """Return the documents of a version that are neither documents nor files now."""
    header = snapshot.header
    if row.metadata == metadata_digest(header.documents):
        return []
    with ObjectReader(visit.repository.path) as reader:
        description = parse_description(
            reader.read(f"{row.commit}:{DESCRIPTION_PATH}"), f"{row.name}: {DESCRIPTION_PATH}"
        )
    lost = {text_to_path(name) for name in description["documents"]}
    lost -= _named_paths(header)
    if lost:
        lost -= {new.record.path for _, new in difference.changes() if new is not None}
    return sorted(lost)


def is_postponed(visit: Visit, snapshot: SpooledSnapshot) -> bool:
    """Return whether a new dataset is not mirrored yet: a folder marker, or still growing."""
    header = snapshot.header
    reasons = {exception.reason for exception in header.exceptions}
    if snapshot.files or header.documents or reasons != {FOLDER_MARKER}:
        return is_settling(visit, header.newest)
    visit.outcome.waiting_reason = (
        "new and empty except for a folder marker; it is mirrored once it has an object"
    )
    return True


def is_settling(visit: Visit, newest: datetime | None) -> bool:
    """Return whether a dataset that was never mirrored may still be growing."""
    minutes = visit.settings.guards.settle_minutes
    if not minutes or newest is None or visit.versions():
        return False
    if datetime.now(UTC) - newest >= timedelta(minutes=minutes):
        return False
    at = newest.astimezone(UTC).isoformat(timespec="seconds")
    visit.outcome.waiting_reason = (
        f"new and possibly still growing: its newest file is from {at}; it is mirrored once "
        f"nothing has changed for {minutes:g} minutes"
    )
    return True


class InvalidNameError(NeuromirrorError):
    """Upstream's name of a dataset or version is not usable, for example as a git path."""


def check_dataset_name(dataset: DatasetRef) -> None:
    """Raise InvalidNameError for a name that is not usable.

    The local id must be a git path, no other local id may have its alias, and the URI must be one
    line.
    """
    name = dataset.local_id
    if not name.isprintable() or name.startswith("-") or git_path(name.encode()) != name.encode():
        raise InvalidNameError(
            f"{dataset.mirror}: {name[:200]!r} is not a valid name of a dataset, because git would "
            "misinterpret it; the source must escape it"
        )
    if (other := name_from_alias(dataset.alias)) != dataset.name:
        raise InvalidNameError(
            f"{dataset.name} is not a valid name of a dataset, because its repository, "
            f"{dataset.alias}, would be that of {other}; the source must escape ':' and '--'"
        )
    if not dataset.source_uri.isprintable():
        raise InvalidNameError(
            f"{dataset.name}: {dataset.source_uri[:200]!r} is not a valid URI; the source must "
            "escape it"
        )


def check_version_name(version: VersionRef) -> None:
    """Raise InvalidNameError for a name with line breaks or unprintable characters."""
    if not version.upstream.isprintable():
        raise InvalidNameError(
            f"{version.dataset.name}: {version.upstream[:200]!r} is not a valid name of a version; "
            "nothing of this dataset is published until upstream renames it"
        )
