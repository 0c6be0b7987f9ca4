"""Journal entries with later settings and withdrawals applied, for rebuilding the index.

Each version states whether its files are in the index; a later setting of the mirror
(``MirrorSeen.index_entries``) overrides what the versions before it state. Of a dataset that was
withdrawn later (``DatasetWithdrawn``) and not reinstated, only the ids of its versions are indexed:
its records are not read and need not exist.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from msgspec.structs import replace

from neuromirror.model import (
    AnnexBranchMoved,
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
    """The method of a journal that :func:`effective_entries` needs."""

    def read_entries(self, position: int) -> Iterator[tuple[int, JournalEntry]]:
        """Yield the entries from a byte position on, each with the position of its end."""
        ...


def is_indexed(version: VersionMinted, index_entries: int) -> bool:
    """Return whether a version's files are in the index, by the setting of its mirror.

    Parameters
    ----------
    version
        The journal entry of the version.
    index_entries
        The setting of the mirror: the largest number of files of a component whose files are
        indexed.

    Returns
    -------
    bool
        Whether the index has a row per file.
    """
    return not version.within or version.files <= index_entries


def effective_entries(
    journal: EntryReader, position: int = 0
) -> Iterator[tuple[int, JournalEntry]]:
    """Yield the journal's entries as modified by later entries, with the positions of their ends.

    For each mirror, the last setting after ``position`` applies to all versions from there up to
    it; for each dataset, the last withdrawal or reinstatement after ``position`` applies.

    Parameters
    ----------
    journal
        The journal.
    position
        The byte position at which to start.

    Yields
    ------
    tuple[int, JournalEntry]
        The position of the entry's end in bytes, and the entry.
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
    AnnexBranchMoved,
    VisitEnded,
    LinksFound,
    HoldPlaced,
    EventRaised,
    LocationsChecked,
)


def _strip_entry(entry: JournalEntry) -> JournalEntry | None:
    """Return the part of a withdrawn dataset's entry that is indexed; None if nothing is."""
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
