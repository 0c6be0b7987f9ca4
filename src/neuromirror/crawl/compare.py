"""What differs between two states of a dataset, in one pass over both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from neuromirror.model import FileRecord, PlacedFile


@dataclass(slots=True)
class Changes:
    """Counts of files, and the paths at which an id kept its name but not its bytes."""

    before: int = 0
    after: int = 0
    added: int = 0
    removed: int = 0
    changed: int = 0
    upgraded: int = 0
    conflicts: list[bytes] = field(default_factory=list)

    @property
    def same_files(self) -> bool:
        """Whether no file came, went, or got other bytes (as far as digests tell)."""
        return not (self.added or self.removed or self.changed)


def compare(before: Iterator[PlacedFile], after: Iterator[PlacedFile]) -> Changes:
    """Both sorted by git path; memory stays flat."""
    changes = Changes()
    old, new = next(before, None), next(after, None)
    while old is not None or new is not None:
        if new is None or (old is not None and old.git_path < new.git_path):
            changes.removed += 1
            changes.before += 1
            old = next(before, None)
        elif old is None or new.git_path < old.git_path:
            changes.added += 1
            changes.after += 1
            new = next(after, None)
        else:
            changes.before += 1
            changes.after += 1
            _weigh(changes, old, new)
            old, new = next(before, None), next(after, None)
    return changes


def _weigh(changes: Changes, old: PlacedFile, new: PlacedFile) -> None:
    if old.key == new.key:
        return
    if contradicts(old.record, new.record):
        changes.changed += 1
        if _same_thing(old.record, new.record):
            changes.conflicts.append(new.record.path)
    elif old.record.evidence is not new.record.evidence:
        changes.upgraded += 1
    else:
        changes.changed += 1


def _same_thing(old: FileRecord, new: FileRecord) -> bool:
    """Whether upstream means one immutable thing: its id, or its address in an API, is the same."""
    if old.upstream_id is not None and old.upstream_id == new.upstream_id:
        return True
    places = {place.url for place in old.locations if place.kind == "api"}
    return any(place.url in places for place in new.locations)


def contradicts(old: FileRecord, new: FileRecord) -> bool:
    """Whether two records cannot be of the same bytes."""
    if old.size is not None and new.size is not None and old.size != new.size:
        return True
    shared = False
    for digest in old.digests:
        other = new.digest(digest.algorithm)
        if other is not None:
            if other.value != digest.value:
                return True
            shared = True
    return not shared and old.upstream_id != new.upstream_id
