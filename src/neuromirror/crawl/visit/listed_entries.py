"""The entries of a listing on disk, with their totals."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from neuromirror.annex import fits_path_limits, git_path, key_for
from neuromirror.crawl.visit.record_checks import check_record
from neuromirror.crawl.visit.snapshot import ResolvedEntry
from neuromirror.mint import LineSorter
from neuromirror.model import (
    Evidence,
    ExcludedEntry,
    FileRecord,
    SnapshotEntry,
    VersionRef,
    dump_snapshot_entry,
    line_path,
)
from neuromirror.net import ListingTooLongError
from neuromirror.sources import ComponentEntry

_MAX_EXCEPTIONS: Final = 1_000_000
"""Limit of the exceptions of one listing, which are kept in memory and in ``dataset.json``."""
_MAX_COMPONENTS: Final = 200_000
"""Limit of the components of one listing, which are kept in memory."""


class ListedEntries:
    """The entries of a listing: files in a sorter, the others in memory.

    A component counts as one entry of the listing, whatever is in it.

    Attributes
    ----------
    count
        The number of entries, as upstream counts them.
    bytes
        The total size of the entries in bytes.
    files
        The number of files in the snapshot, without links to components.
    pending
        Files without sha256, and components without checksum.
    newest
        The time of the newest file or inline component.
    components
        The components, in the order of the listing.
    exceptions
        The entries that cannot be mirrored.
    """

    def __init__(self, version: VersionRef, sorter: LineSorter) -> None:
        self.version = version
        self.sorter = sorter
        self.count = 0
        self.bytes = 0
        self.files = 0
        self.pending = 0
        self.newest: datetime | None = None
        self.components: list[ComponentEntry] = []
        self.exceptions: list[ExcludedEntry] = []

    def add(self, entry: FileRecord | ExcludedEntry | ComponentEntry) -> None:
        """Add an entry of the listing.

        Raises
        ------
        ListingTooLongError
            Beyond the limits.
        UnexpectedReplyError
            If a digest or location of a file breaks the rules of its type.
        """
        self.count += 1
        self.bytes += entry.size or 0
        if isinstance(entry, ComponentEntry):
            self.components.append(entry)
            self._check_count("components", self.components, _MAX_COMPONENTS)
            self.pending += entry.version.claimed_totals is None
            return
        if isinstance(entry, FileRecord):
            check_record(entry, self.version)
        git_entry = _assign_git_path(entry)
        if isinstance(git_entry, ExcludedEntry):
            self._exclude(git_entry)
            return
        self._sort(git_entry)
        self.files += 1
        self.pending += git_entry.record.evidence is not Evidence.SHA256
        self.note_time(git_entry.record.modified)

    def add_resolved(self, entry: ResolvedEntry) -> None:
        """Add an entry of a resolved component, which upstream's summary does not count."""
        if isinstance(entry, bytes):
            self.sorter.add(line_path(entry) + b"\0" + entry)
            self.files += 1
            return
        git_entry = _assign_git_path(entry) if isinstance(entry, FileRecord) else entry
        if isinstance(git_entry, ExcludedEntry):
            self._exclude(git_entry)
            return
        self._sort(git_entry)
        self.files += git_entry.subdataset is None
        self.note_time(git_entry.record.modified)

    def note_time(self, modified: datetime | None) -> None:
        """Update ``newest``."""
        if modified is not None and (self.newest is None or modified > self.newest):
            self.newest = modified

    def _sort(self, entry: SnapshotEntry) -> None:
        self.sorter.add(entry.git_path + b"\0" + dump_snapshot_entry(entry))

    def _exclude(self, entry: ExcludedEntry) -> None:
        self.exceptions.append(entry)
        self._check_count("entries that cannot be mirrored", self.exceptions, _MAX_EXCEPTIONS)

    def _check_count(self, label: str, items: Sequence[object], limit: int) -> None:
        if len(items) > limit:
            raise ListingTooLongError(
                f"{self.version.dataset.name} {self.version.upstream}: the listing has more than "
                f"{limit} {label}; nothing was changed",
                url=self.version.dataset.source_uri,
            )


def _assign_git_path(entry: FileRecord | ExcludedEntry) -> SnapshotEntry | ExcludedEntry:
    if isinstance(entry, ExcludedEntry):
        return entry
    path = git_path(entry.path)
    if not fits_path_limits(path):
        # the detail is committed (dataset.json): another text changes commit ids
        return ExcludedEntry(
            entry.path,
            "path-too-long",
            f"the path would take {len(path)} bytes in git, more than file systems hold",
            entry.size or 0,
        )
    return SnapshotEntry(path, key_for(entry, path), entry)
