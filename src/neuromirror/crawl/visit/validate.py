"""From a listing to a proven snapshot: sorted, complete, each name in its place in git.

A listing is used only when it is whole: as many files and bytes as upstream's own summary says,
every path once, and the summary the same after as before (design, section 7). A part counts as
one file there, whatever is in it; it may be read before the summary shows that the listing is
whole, and is used only then.
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
"""Named exceptions of one listing: these are held in memory, and stand in ``dataset.json``."""
_MAX_COMPONENTS: Final = 200_000
"""Parts of one listing, which are held in memory too."""


class RecordSpool:
    """The placed files of a listing on disk, one line each, sorted by git path."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> Iterator[bytes]:
        """The lines, without newline."""
        with self.path.open("rb", buffering=1 << 18) as file:
            for line in file:
                yield line[:-1]

    def files(self) -> Iterator[SnapshotEntry]:
        """The placed files."""
        return load_snapshot_entries(self.lines())


class InlineComponentState(msgspec.Struct, frozen=True, gc=False):
    """A part whose entries are files of the dataset around it, below ``path``.

    ``local_id`` and ``upstream`` name the state of it; ``files`` and ``exceptions`` count what
    the dataset holds of it. ``source_uri`` is that of the part's dataset, ``size`` the bytes of
    its files.
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
    """What became of the parts of a listing.

    ``linked`` are those with a dataset of their own, by their paths upstream, and ``unknown`` the
    paths of those among them whose state the store lacks. ``inline`` are those whose entries are
    files here. ``unproven`` says in a line each which are not as upstream has them now, and
    why; ``incidents`` which upstream no longer has as it said; ``settled`` that the next visit
    need not ask again. ``pending`` are the local ids of those that upstream says are being written.
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
        """Where parts stand, of either kind."""
        return frozenset(self.subdatasets) | {one.path for one in self.inline}


ResolvedEntry = SnapshotEntry | FileRecord | bytes | ExcludedEntry
"""A link to a part; a file of an inline part, by its path in the dataset, or the record line of
one; what is left out."""


class ComponentResolver(Protocol):
    """Decides what the parts that a listing names become."""

    def prefetch(self, component: ComponentEntry, scratch: Path) -> None:
        """Start to read a part, if it has to be read, while the rest of the listing comes."""
        ...

    def close(self) -> None:
        """Stop reading parts; return once nothing is written any more."""
        ...

    def resolve(
        self, components: Sequence[ComponentEntry], scratch: Path
    ) -> Iterator[ResolvedEntry]:
        """Yields what stands for the parts in the dataset."""
        ...

    @property
    def result(self) -> ResolvedComponents:
        """What became of them, after the last one."""
        ...


@dataclass(frozen=True, slots=True)
class SpooledSnapshot:
    """A snapshot whose listing was whole.

    ``pending`` counts files that will get a sha256 upstream later, and parts a checksum.

    ``files`` counts all but the links to parts. ``untimed`` says that upstream gave no time, so
    that the version's is that of its newest file; ``whole`` that all of it is one array.
    """

    header: SnapshotHeader
    spool: RecordSpool
    files: int
    pending_files: int
    components: ResolvedComponents = ResolvedComponents()
    has_no_upstream_time: bool = False
    is_single_array: bool = False

    def state_digest(self) -> str:
        """The state digest of the files, ``sha256:<hex>``; upstream's word stands for a part's.

        So it is the same before and after the part is mirrored.
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
    """Reads a listing to its end into ``scratch`` and checks that it is whole.

    The version's time is upstream's own, else that of its newest file or document; None where
    upstream has no times. ``parts`` decides about the listing's parts.
    Raises UnreliableListingError when the listing is not whole, and whatever the source raises.
    """
    exceptions: list[ExcludedEntry] = []
    listed_components: list[ComponentEntry] = []
    count = _ListingTotals()
    with LineSorter(scratch) as sorter:
        for entry in listing.entries:
            if isinstance(entry, ComponentEntry):
                listed_components.append(entry)
                _check_count("parts", listed_components, _MAX_COMPONENTS, listing.version)
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
                raise TypeError(f"{listing.version.dataset.name}: parts, and nobody takes them")
            exceptions += _add_components(components, listed_components, scratch, sorter, count)
            _check_count(
                "entries that cannot be mirrored", exceptions, _MAX_EXCEPTIONS, listing.version
            )
            resolved = components.result
        spool = RecordSpool(scratch / "records.jsonl")
        # documents are known only now
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
    """Puts what the parts become among the files; gives what is left out of them."""
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
    """The places in git that upstream's own documents take."""

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
        """The document at a file's path or above it, if there is one."""
        if path.partition(b"/")[0] not in self._roots:
            return None
        while path:
            if path in self._paths:
                return path
            path = path.rpartition(b"/")[0]
        return None

    def escape(self, path: bytes) -> bytes:
        """A file's path, the first letter of a document's name in it written as an escape."""
        document = self.document_above(path)
        if document is None:
            return path
        folder, slash, name = document.rpartition(b"/")
        first = name.decode()[0].encode()
        letter = b"".join(b"%%%02X" % byte for byte in first)
        return folder + slash + letter + name[len(first) :] + path[len(document) :]


class _ListingTotals:
    """What was listed, to be held against upstream's summary."""

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

    def add_component(self, add_component: ComponentEntry) -> None:
        self.entries += 1
        self.bytes += add_component.size
        self.pending += add_component.version.claimed_totals is None

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
            f"{name}: upstream changed while it was listed ({before.claimed_totals} at "
            f"{before.time}, then {after.claimed_totals} at {after.time}); "
            "nothing was changed, try again"
        )
    if count.bytes > MAX_INTEGER:
        raise UnreliableListingError(
            f"{name}: the files that are listed are {count.bytes} bytes, which is more than any "
            "archive has; nothing was changed, try again"
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
    """Writes the sorted lines; gives the paths that are a file and a folder at once.

    And whether some file is where a document is. Raises UnreliableListingError for a path that is
    listed twice.
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
    """Gives files in a document's place, or whose name is also a folder, names of their own."""
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
    """Raises ListingTooLongError where more is to be held in memory than is held of one listing."""
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
