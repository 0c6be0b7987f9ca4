"""Validate a listing: complete, consistent, sorted by git path.

A listing is used only if it is whole: its numbers of files and bytes match upstream's own summary,
no path is listed twice, and the summary is the same before and after (docs/design.md, section 7).
A component counts as one file there. It may be read before the summary confirms the listing, and
is used only then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

import msgspec

from neuromirror.annex import fits_path_limits, git_path, key_for, mark_clash
from neuromirror.mint import LineSorter
from neuromirror.model import (
    MAX_INTEGER,
    Document,
    Evidence,
    ExcludedEntry,
    FileRecord,
    SnapshotEntry,
    SnapshotHeader,
    StateDigest,
    VersionRef,
    dump_snapshot_entry,
    line_path,
    load_snapshot_entries,
    load_snapshot_entry,
    path_to_text,
    subdataset_line,
)
from neuromirror.model.manifest import entry_line
from neuromirror.net import ListingTooLongError
from neuromirror.sources import ComponentEntry, Listing, UnreliableListingError

_MAX_EXCEPTIONS: Final = 1_000_000
"""Limit of the exceptions of one listing, which are kept in memory and in ``dataset.json``."""
_MAX_COMPONENTS: Final = 200_000
"""Limit of the components of one listing, which are kept in memory."""


class RecordSpool:
    """The records of a snapshot on disk, one per line, sorted by git path."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> Iterator[bytes]:
        """Yield the lines, without newline."""
        with self.path.open("rb", buffering=1 << 18) as file:
            for line in file:
                yield line[:-1]

    def files(self) -> Iterator[SnapshotEntry]:
        """Yield the entries."""
        return load_snapshot_entries(self.lines())


class InlineComponentState(msgspec.Struct, frozen=True, gc=False):
    """A component that is stored inline: its entries are files of the dataset, below ``path``.

    Attributes
    ----------
    path
        The path upstream.
    local_id, source_uri
        The component's own dataset.
    upstream
        Upstream's name of the state.
    files, exceptions, size
        Number of files, of exceptions and of bytes in the dataset.
    newest
        The time of the newest file.
    """

    path: bytes
    local_id: str
    upstream: str
    files: int
    exceptions: int
    newest: datetime | None
    source_uri: str
    size: int


@dataclass(frozen=True, slots=True)
class ResolvedComponents:
    """The components of a listing, resolved.

    Attributes
    ----------
    subdatasets
        Components that are datasets of their own, by upstream path.
    unmirrored
        Paths of those among them whose state the store lacks.
    inline
        Components whose entries are files of the dataset.
    problems
        One line per component that is not mirrored as it is upstream.
    incidents
        One line per component that upstream lost while its checksum stayed the same.
    is_final
        Whether the next visit can skip an unchanged listing.
    pending_ids
        Local ids of the components that are still being written upstream.
    """

    subdatasets: Mapping[bytes, ComponentEntry] = field(default_factory=dict)
    unmirrored: frozenset[bytes] = frozenset()
    inline: tuple[InlineComponentState, ...] = ()
    problems: tuple[str, ...] = ()
    incidents: tuple[str, ...] = ()
    is_final: bool = True
    pending_ids: frozenset[str] = frozenset()

    @property
    def paths(self) -> frozenset[bytes]:
        """The upstream paths of all components."""
        return frozenset(self.subdatasets) | {one.path for one in self.inline}


ResolvedEntry = SnapshotEntry | FileRecord | bytes | ExcludedEntry
"""A link to a component, a file of an inline component, or an exception.

A file is a record, or a record line with its git path.
"""


class ComponentResolver(Protocol):
    """Decides for each component of a listing how it is stored."""

    def prefetch(self, component: ComponentEntry, scratch: Path) -> None:
        """Start to read a component, if necessary, before the whole listing is read."""
        ...

    def close(self) -> None:
        """Cancel pending reads; return once no thread writes any more."""
        ...

    def resolve(
        self, components: Sequence[ComponentEntry], scratch: Path
    ) -> Iterator[ResolvedEntry]:
        """Yield the entries that represent the components in the dataset."""
        ...

    @property
    def result(self) -> ResolvedComponents:
        """The resolved components; complete after :meth:`resolve`."""
        ...


@dataclass(frozen=True, slots=True)
class SpooledSnapshot:
    """A validated listing on disk.

    Attributes
    ----------
    header
        The snapshot without its files.
    spool
        The files and the links to components.
    files
        The number of files, without links to components.
    pending_files
        Files without sha256, and components without checksum, that upstream will complete.
    components
        The components.
    has_no_upstream_time
        Whether upstream has no time, so that the version has that of its newest file.
    is_single_array
        Whether the dataset is one array.
    """

    header: SnapshotHeader
    spool: RecordSpool
    files: int
    pending_files: int
    components: ResolvedComponents = ResolvedComponents()
    has_no_upstream_time: bool = False
    is_single_array: bool = False

    def state_digest(self) -> str:
        """Return the state digest, ``sha256:<hex>``, with upstream's checksums for components.

        It is the same before and after the components are mirrored.
        """
        digest = StateDigest()
        for placed in self.spool.files():
            component = (
                None
                if placed.subdataset is None
                else self.components.subdatasets.get(placed.record.path)
            )
            if component is None:
                digest.add(entry_line(placed))
            else:
                checksum = component.version.upstream
                digest.add(subdataset_line(placed.git_path, component.dataset.dataset_id, checksum))
        return digest.value()

    @property
    def is_empty(self) -> bool:
        """Whether upstream lists nothing at all."""
        return not (self.files or self.components.subdatasets or self.header.exceptions)


def validate_listing(
    listing: Listing, scratch: Path, components: ComponentResolver | None = None
) -> SpooledSnapshot:
    """Read a listing to its end into ``scratch`` and check that it is whole.

    The version's time is upstream's own, else that of the newest file or document; None if
    upstream has no times.

    Parameters
    ----------
    listing
        The listing.
    scratch
        A folder for the files of the snapshot.
    components
        Resolves the components of the listing; None if it has none.

    Returns
    -------
    SpooledSnapshot
        The snapshot.

    Raises
    ------
    UnreliableListingError
        If the listing is not whole.
    ListingTooLongError
        If it has too many components or exceptions.
    NeuromirrorError
        Whatever the source raises.
    """
    exceptions: list[ExcludedEntry] = []
    listed_components: list[ComponentEntry] = []
    count = _ListingTotals()
    with LineSorter(scratch) as sorter:
        for entry in listing.entries():
            if isinstance(entry, ComponentEntry):
                listed_components.append(entry)
                _check_count("components", listed_components, _MAX_COMPONENTS, listing.version)
                count.add_component(entry)
                if components is not None:
                    components.prefetch(entry, scratch)
                continue
            placed = _assign_git_path(entry)
            if isinstance(placed, ExcludedEntry):
                exceptions.append(placed)
                _check_count(
                    "entries that cannot be mirrored", exceptions, _MAX_EXCEPTIONS, listing.version
                )
                count.add_exception(placed)
            else:
                sorter.add(placed.git_path + b"\0" + dump_snapshot_entry(placed))
                count.add_file(placed.record)
        _check_summary(listing.version, listing.confirm_version(), count)
        resolved = ResolvedComponents()
        if listed_components:
            if components is None:
                raise TypeError(f"{listing.version.dataset.name}: components without a resolver")
            exceptions += _add_components(components, listed_components, scratch, sorter, count)
            _check_count(
                "entries that cannot be mirrored", exceptions, _MAX_EXCEPTIONS, listing.version
            )
            resolved = components.result
        spool = RecordSpool(scratch / "records.jsonl")
        # the documents are complete only after the last entry
        reserved = _DocumentPaths(listing.documents)
        clashes, escape = _write(sorter, spool.path, listing.version, reserved)
    if clashes or escape:
        _resolve_clashes(spool, clashes, reserved, scratch)
    _check_exceptions(exceptions, listing.version)
    for document in listing.documents:
        count.note_time(document.modified)
    header = SnapshotHeader(
        version=replace(listing.version, time=listing.version.time or count.newest),
        facts=listing.facts,
        documents=tuple(sorted(listing.documents, key=lambda one: one.path)),
        exceptions=tuple(sorted(exceptions, key=lambda one: (one.path, one.reason))),
        newest=count.newest,
        web_remotes=listing.web_remotes,
        special_remotes=listing.special_remotes,
        unversioned=listing.unversioned,
    )
    return SpooledSnapshot(
        header,
        spool,
        count.files,
        count.pending if listing.late_sha256 else 0,
        resolved,
        has_no_upstream_time=listing.version.time is None,
        is_single_array=listing.manifest_only,
    )


def _add_components(
    components: ComponentResolver,
    listed_components: Sequence[ComponentEntry],
    scratch: Path,
    sorter: LineSorter,
    count: _ListingTotals,
) -> list[ExcludedEntry]:
    """Add the entries of the components to ``sorter``; return their exceptions."""
    exceptions: list[ExcludedEntry] = []
    for one in components.resolve(listed_components, scratch):
        if isinstance(one, bytes):
            sorter.add(line_path(one) + b"\0" + one)
            count.files += 1
            continue
        placed = _assign_git_path(one) if isinstance(one, FileRecord) else one
        if isinstance(placed, ExcludedEntry):
            exceptions.append(placed)
            continue
        sorter.add(placed.git_path + b"\0" + dump_snapshot_entry(placed))
        count.files += placed.subdataset is None
        count.note_time(placed.record.modified)
    for inline in components.result.inline:
        count.note_time(inline.newest)
    return exceptions


class _DocumentPaths:
    """The git paths of upstream's documents."""

    def __init__(self, documents: Iterable[Document]) -> None:
        self._paths = {document.path for document in documents}
        self._roots = {path.partition(b"/")[0] for path in self._paths}
        self.folders: set[bytes] = set()
        for path in self._paths:
            folder = path.rpartition(b"/")[0]
            while folder:
                self.folders.add(folder)
                folder = folder.rpartition(b"/")[0]

    def document_above(self, path: bytes) -> bytes | None:
        """Return the document at a path or at a folder above it; None without one."""
        if path.partition(b"/")[0] not in self._roots:
            return None
        while path:
            if path in self._paths:
                return path
            path = path.rpartition(b"/")[0]
        return None

    def escape(self, path: bytes) -> bytes:
        """Return a path with the first letter of a clashing document's name percent-encoded."""
        document = self.document_above(path)
        if document is None:
            return path
        folder, slash, name = document.rpartition(b"/")
        first = name.decode()[0].encode()
        letter = b"".join(b"%%%02X" % byte for byte in first)
        return folder + slash + letter + name[len(first) :] + path[len(document) :]


class _ListingTotals:
    """The totals of a listing, for comparison with upstream's summary."""

    def __init__(self) -> None:
        self.entries = 0
        self.bytes = 0
        self.files = 0
        self.pending = 0
        self.newest: datetime | None = None

    def add_file(self, record: FileRecord) -> None:
        self.entries += 1
        self.files += 1
        self.bytes += record.size or 0
        self.pending += record.evidence is not Evidence.SHA256
        self.note_time(record.modified)

    def add_component(self, component: ComponentEntry) -> None:
        self.entries += 1
        self.bytes += component.size
        self.pending += component.version.claimed_totals is None

    def note_time(self, modified: datetime | None) -> None:
        if modified is not None and (self.newest is None or modified > self.newest):
            self.newest = modified

    def add_exception(self, one: ExcludedEntry) -> None:
        self.entries += 1
        self.bytes += one.size


def _assign_git_path(entry: FileRecord | ExcludedEntry) -> SnapshotEntry | ExcludedEntry:
    if isinstance(entry, ExcludedEntry):
        return entry
    path = git_path(entry.path)
    if not fits_path_limits(path):
        return ExcludedEntry(
            entry.path,
            "path-too-long",
            f"the path would take {len(path)} bytes in git, more than file systems hold",
            entry.size or 0,
        )
    return SnapshotEntry(path, key_for(entry, path), entry)


def _check_summary(before: VersionRef, after: VersionRef, count: _ListingTotals) -> None:
    name = f"{before.dataset.name} {before.upstream}"
    if (before.claimed_totals, before.time) != (after.claimed_totals, after.time):
        raise UnreliableListingError(
            f"{name}: upstream changed during the listing ({before.claimed_totals} at "
            f"{before.time}, then {after.claimed_totals} at {after.time}); "
            "nothing was changed, try again"
        )
    if count.bytes > MAX_INTEGER:
        raise UnreliableListingError(
            f"{name}: the listed files have {count.bytes} bytes, more than any archive has; "
            "nothing was changed, try again"
        )
    claimed = before.claimed_totals
    if claimed is not None and (claimed.files, claimed.bytes) != (count.entries, count.bytes):
        raise UnreliableListingError(
            f"{name}: the listing has {count.entries} files with {count.bytes} bytes, but upstream "
            f"states {claimed.files} files with {claimed.bytes} bytes; nothing was changed, try "
            "again"
        )


def _write(
    sorter: LineSorter, target: Path, version: VersionRef, reserved: _DocumentPaths
) -> tuple[set[bytes], bool]:
    """Write the sorted lines.

    Returns
    -------
    tuple
        The paths that are both a file and a folder, and whether a file clashes with a document.

    Raises
    ------
    UnreliableListingError
        If a path is listed twice.
    """
    clashes: set[bytes] = set()
    escape = False
    last = b""
    prefixes: list[bytes] = []
    with target.open("wb", buffering=1 << 18) as file:
        for sorted_line in sorter:
            path, _, line = sorted_line.partition(b"\0")
            if path == last:
                raise UnreliableListingError(
                    f"{version.dataset.name} {version.upstream}: {path_to_text(path)!r} is listed "
                    f"twice; "
                    "nothing was changed, try again"
                )
            while prefixes and not path.startswith(prefixes[-1]):
                prefixes.pop()
            clashes.update(one for one in prefixes if path[len(one) : len(one) + 1] == b"/")
            prefixes.append(path)
            if path in reserved.folders:
                clashes.add(path)
            elif not escape:
                escape = reserved.document_above(path) is not None
            last = path
            file.write(line + b"\n")
    return clashes, escape


def _resolve_clashes(
    spool: RecordSpool, clashes: set[bytes], reserved: _DocumentPaths, scratch: Path
) -> None:
    """Rename the files that clash with a document, or with a folder of the same name."""
    with LineSorter(scratch) as sorter:
        for line in spool.lines():
            placed = load_snapshot_entry(line)
            path = reserved.escape(placed.git_path)
            if placed.git_path in clashes:
                path = mark_clash(path)
            if path == placed.git_path:
                sorter.add(path + b"\0" + line)
            else:
                key = "" if placed.subdataset is not None else key_for(placed.record, path)
                placed = SnapshotEntry(path, key, placed.record, placed.subdataset)
                sorter.add(path + b"\0" + dump_snapshot_entry(placed))
        with spool.path.open("wb", buffering=1 << 18) as file:
            for sorted_line in sorter:
                file.write(sorted_line.partition(b"\0")[2] + b"\n")


def _check_count(label: str, items: Sequence[object], limit: int, version: VersionRef) -> None:
    """Raise ListingTooLongError if there are more items than one listing may keep in memory."""
    if len(items) > limit:
        raise ListingTooLongError(
            f"{version.dataset.name} {version.upstream}: the listing has more than {limit} "
            f"{label}; nothing was changed",
            url=version.dataset.source_uri,
        )


def _check_exceptions(exceptions: list[ExcludedEntry], version: VersionRef) -> None:
    paths = [one.path for one in exceptions]
    if len(set(paths)) != len(paths):
        raise UnreliableListingError(
            f"{version.dataset.name} {version.upstream}: a path that is not mirrored is listed "
            "twice; nothing was changed, try again"
        )
