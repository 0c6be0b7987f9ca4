"""Which versions of Zarrs have their files in an index that is made of a journal.

Each version says so itself; a setting that was changed later (``MirrorSeen.index_entries``) goes
before what the versions recorded until then say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

from neuromirror.model import Entry, MirrorSeen, VersionMinted


class Entries(Protocol):
    """What is read of a journal."""

    def journal_from(self, position: int) -> Iterator[tuple[int, Entry]]:
        """The entries from a byte position on, each with the position where it ends."""
        ...


def is_indexed(version: VersionMinted, index_entries: int) -> bool:
    """Whether a version's files are in the index, by the setting of its mirror."""
    return not version.within or version.files <= index_entries


def settled(journal: Entries, position: int = 0) -> Iterator[tuple[int, Entry]]:
    """The journal's entries with their ends, versions as the settings made after them have it.

    Of each mirror the last setting beyond ``position`` holds for all versions from there up to it.
    """
    last: dict[str, tuple[int, int]] = {}
    for end, entry in journal.journal_from(position):
        if isinstance(entry, MirrorSeen) and entry.index_entries is not None:
            last[entry.mirror] = end, entry.index_entries
    for end, entry in journal.journal_from(position):
        if isinstance(entry, VersionMinted) and end < last.get(entry.mirror, (0, 0))[0]:
            yield end, replace(entry, indexed=is_indexed(entry, last[entry.mirror][1]))
        else:
            yield end, entry
