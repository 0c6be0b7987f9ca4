"""Compare a new listing with the last state: difference, events, holds and refused names.

The built-in sources escape their names; a source from a plug-in may not.
"""

from __future__ import annotations

import getpass
import hashlib
from collections.abc import Iterable, Iterator, Set
from pathlib import Path
from typing import Generic, TypeVar

from msgspec import Struct, field

from neuromirror.annex import git_path
from neuromirror.crawl.recorder import Recorder, list_known
from neuromirror.index import EventRow, HoldRow
from neuromirror.model import (
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
    VersionRef,
    current_timestamp,
    dump_pairs,
    load_changes,
    load_pairs,
    name_from_alias,
)

_T = TypeVar("_T")
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
        if not (self.before or self.after):
            return None
        end = path.find(b"/")
        while end >= 0:
            if path[:end] in self.before or path[:end] in self.after:
                return path[:end]
            end = path.find(b"/", end + 1)
        return path if path in self.before or path in self.after else None


class CountedItems(Generic[_T]):
    """An iterable that counts its items as they are read."""

    def __init__(self, items: Iterable[_T]) -> None:
        self._items = items
        self.count = 0

    def __iter__(self) -> Iterator[_T]:
        for item in self._items:
            self.count += 1
            yield item


class StateDifference:
    """The differences between two states of a dataset, on disk: pairs of old and new record lines.

    Parameters
    ----------
    path
        The file to create.
    pairs
        The pairs, which are all read by the constructor.

    Attributes
    ----------
    count
        The number of pairs.
    roots
        The paths of the components, each of which counts as one file; empty until the caller sets
        them.
    """

    def __init__(self, path: Path, pairs: Iterable[LinePair]) -> None:
        self._path = path
        self.roots = ComponentRoots()
        counted = CountedItems(pairs)
        with path.open("wb", buffering=1 << 18) as file:
            for line in dump_pairs(counted):
                file.write(line + b"\n")
        self.count = counted.count

    def pairs(self) -> Iterator[LinePair]:
        """Yield the lines before and after, by path.

        Yields
        ------
        LinePair
            The line before and after; None if the file is missing.
        """
        with self._path.open("rb", buffering=1 << 18) as file:
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
    if any(one.message == message for one in _events(recorder, dataset, kind)):
        return False
    recorder.record(
        EventRaised(
            dataset.mirror, dataset.local_id, kind, message, current_timestamp(), dict(data)
        )
    )
    return True


def is_tombstoned(recorder: Recorder, dataset: DatasetRef) -> bool:
    """Return whether upstream removed the dataset and has not listed it again since."""
    events = [one for kind in (TOMBSTONE, RETURNED) for one in _events(recorder, dataset, kind)]
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
    return list_known(recorder, lambda index: index.events(dataset.name, kind))


class DatasetHolds:
    """The holds on the listings of one dataset.

    In its methods ``upstream`` is upstream's name of the version, and ``state`` the state digest of
    the listing.
    """

    def __init__(self, recorder: Recorder, dataset: DatasetRef) -> None:
        self._recorder = recorder
        self._dataset = dataset

    def is_released(self, upstream: str, state: str) -> bool:
        """Return whether an operator released this listing, identified by its state digest."""
        name = self._dataset.name
        return (upstream, state) in self._recorder.ask(lambda index: index.released_states(name))

    def create(self, upstream: str, state: str, reason: str, removed: int, before: int) -> str:
        """Hold a listing; return the id of the hold. Another hold on the version lapses."""
        dataset = self._dataset
        hold = hashlib.sha256(f"{dataset.name} {upstream} {state}".encode()).hexdigest()[:8]
        if hold not in {one.hold for one in self._open_holds()}:
            self.lapse(upstream)
            self._recorder.record(
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

    def lapse(self, upstream: str) -> None:
        """End the hold on a version: the listing passes the guards again."""
        for one in self._open_holds():
            if one.upstream == upstream:
                self._recorder.record(HoldLapsed(one.hold, current_timestamp()))

    def _open_holds(self) -> list[HoldRow]:
        return list_known(self._recorder, lambda index: index.open_holds(self._dataset.name))


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
    holds = recorder.ask(lambda index: list(index.open_holds()))
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
