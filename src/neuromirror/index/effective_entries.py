"""What entries of a journal say about those before them, in an index that is made of it anew.

Each version says itself whether its files are in the index; a setting that was changed later
(``MirrorSeen.index_entries``) goes before what the versions recorded until then say. Of a dataset
that was taken down later (``DatasetWithdrawn``) and not shown again, nothing is taken in but the
ids of its
versions: its records need not be there, and need not be read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

from neuromirror.model import (
    DatasetReinstated,
    DatasetWithdrawn,
    EventRaised,
    HoldPlaced,
    JournalEntry,
    LinksFound,
    LocationsChecked,
    MirrorSeen,
    VersionMinted,
    VisitEnded,
)


class EntryReader(Protocol):
    """What is read of a journal."""

    def read_entries(self, position: int) -> Iterator[tuple[int, JournalEntry]]:
        """The entries from a byte position on, each with the position where it ends."""
        ...


def is_indexed(version: VersionMinted, index_entries: int) -> bool:
    """Whether a version's files are in the index, by the setting of its mirror."""
    return not version.within or version.files <= index_entries


def effective_entries(
    journal: EntryReader, position: int = 0
) -> Iterator[tuple[int, JournalEntry]]:
    """The journal's entries with their ends, as those made after them have them.

    Of each mirror the last setting beyond ``position`` holds for all versions from there up to it;
    and of each dataset the last word beyond ``position`` about whether it is shown.
    """
    last: dict[str, tuple[int, int]] = {}
    withdrawn: set[tuple[str, str]] = set()
    for end, entry in journal.read_entries(position):
        if isinstance(entry, MirrorSeen) and entry.index_entries is not None:
            last[entry.mirror] = end, entry.index_entries
        elif isinstance(entry, DatasetWithdrawn):
            withdrawn.add((entry.mirror, entry.local_id))
        elif isinstance(entry, DatasetReinstated):
            withdrawn.discard((entry.mirror, entry.local_id))
    for end, entry in journal.read_entries(position):
        if isinstance(entry, _DATASET_ENTRIES) and (entry.mirror, entry.local_id) in withdrawn:
            bare = _strip_entry(entry)
            if bare is not None:
                yield end, bare
        elif isinstance(entry, VersionMinted) and end < last.get(entry.mirror, (0, 0))[0]:
            yield end, replace(entry, indexed=is_indexed(entry, last[entry.mirror][1]))
        else:
            yield end, entry


_DATASET_ENTRIES = (
    VersionMinted,
    VisitEnded,
    LinksFound,
    HoldPlaced,
    EventRaised,
    LocationsChecked,
)


def _strip_entry(entry: JournalEntry) -> JournalEntry | None:
    """What is left of an entry about a dataset that was taken down; None for nothing."""
    if isinstance(entry, VisitEnded):
        return replace(entry, title="", message="")
    if not isinstance(entry, VersionMinted):
        return None
    return replace(
        entry,
        exceptions=[],
        evidence={},
        title="",
        license=[],
        doi=None,
        attributes={},
        inputs=[],
        inline=[],
        indexed=False,
        in_subdatasets=0,
    )
