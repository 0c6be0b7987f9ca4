"""The difference between two states of a dataset, found in one pass and kept on disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from pathlib import Path
from typing import Generic, TypeVar

from msgspec import Struct, field

from neuromirror.annex import git_path
from neuromirror.model import (
    Change,
    FileRecord,
    LinePair,
    Retention,
    SnapshotEntry,
    dump_pairs,
    load_changes,
    load_pairs,
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
