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

from neuromirror.annex import fits, git_path, key_for, mark_clash
from neuromirror.mint import LineSorter
from neuromirror.model import (
    MOST,
    Document,
    Evidence,
    FileRecord,
    NamedException,
    PlacedFile,
    SnapshotHeader,
    StateDigest,
    VersionRef,
    dump_placed,
    load_all,
    load_placed,
    path_of_line,
    subdataset_line,
    text,
)
from neuromirror.model.manifest import placed_line
from neuromirror.net import ListingTooLong
from neuromirror.sources import Listing, ListingNotProven, Part

_MOST_EXCEPTIONS: Final = 1_000_000
"""Named exceptions of one listing: these are held in memory, and stand in ``dataset.json``."""
_MOST_PARTS: Final = 200_000
"""Parts of one listing, which are held in memory too."""


class Spool:
    """The placed files of a listing on disk, one line each, sorted by git path."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> Iterator[bytes]:
        """The lines, without newline."""
        with self.path.open("rb", buffering=1 << 18) as file:
            for line in file:
                yield line[:-1]

    def placed(self) -> Iterator[PlacedFile]:
        """The placed files."""
        return load_all(self.lines())


class InlinePart(msgspec.Struct, frozen=True, gc=False):
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
class PartsTaken:
    """What became of the parts of a listing.

    ``linked`` are those with a dataset of their own, by their paths upstream, and ``unknown`` the
    paths of those among them whose state the store lacks. ``inline`` are those whose entries are
    files here. ``unproven`` says in a line each which are not as upstream has them now, and
    why; ``incidents`` which upstream no longer has as it said; ``settled`` that the next visit
    need not ask again. ``pending`` are the local ids of those that upstream says are being written.
    """

    linked: Mapping[bytes, Part] = field(default_factory=dict)
    unknown: frozenset[bytes] = frozenset()
    inline: tuple[InlinePart, ...] = ()
    unproven: tuple[str, ...] = ()
    incidents: tuple[str, ...] = ()
    settled: bool = True
    pending: frozenset[str] = frozenset()

    @property
    def paths(self) -> frozenset[bytes]:
        """Where parts stand, of either kind."""
        return frozenset(self.linked) | {one.path for one in self.inline}


Settled = PlacedFile | FileRecord | bytes | NamedException
"""A link to a part; a file of an inline part, by its path in the dataset, or the record line of
one; what is left out."""


class PartEntries(Protocol):
    """Decides what the parts that a listing names become."""

    def begin(self, part: Part, scratch: Path) -> None:
        """Start to read a part, if it has to be read, while the rest of the listing comes."""
        ...

    def close(self) -> None:
        """Stop reading parts; return once nothing is written any more."""
        ...

    def settle(self, parts: Sequence[Part], scratch: Path) -> Iterator[Settled]:
        """Yields what stands for the parts in the dataset."""
        ...

    @property
    def taken(self) -> PartsTaken:
        """What became of them, after the last one."""
        ...


@dataclass(frozen=True, slots=True)
class Proven:
    """A snapshot whose listing was whole.

    ``pending`` counts files that will get a sha256 upstream later, and parts a checksum.

    ``files`` counts all but the links to parts. ``untimed`` says that upstream gave no time, so
    that the version's is that of its newest file; ``whole`` that all of it is one array.
    """

    header: SnapshotHeader
    spool: Spool
    files: int
    pending: int
    parts: PartsTaken = PartsTaken()
    untimed: bool = False
    whole: bool = False

    def state(self) -> str:
        """The state digest of the files, ``sha256:<hex>``; upstream's word stands for a part's.

        So it is the same before and after the part is mirrored.
        """
        digest = StateDigest()
        for placed in self.spool.placed():
            part = None if placed.part is None else self.parts.linked.get(placed.record.path)
            if part is None:
                digest.add(placed_line(placed))
            else:
                word = part.version.upstream
                digest.add(subdataset_line(placed.git_path, part.dataset.dataset_id, word))
        return digest.value()

    @property
    def empty(self) -> bool:
        """Whether upstream lists nothing at all."""
        return not (self.files or self.parts.linked or self.header.exceptions)


def prove(listing: Listing, scratch: Path, parts: PartEntries | None = None) -> Proven:
    """Reads a listing to its end into ``scratch`` and checks that it is whole.

    The version's time is upstream's own, else that of its newest file or document; None where
    upstream has no times. ``parts`` decides about the listing's parts.
    Raises ListingNotProven when the listing is not whole, and whatever the source raises.
    """
    exceptions: list[NamedException] = []
    listed: list[Part] = []
    count = _Count()
    with LineSorter(scratch) as sorter:
        for entry in listing.entries:
            if isinstance(entry, Part):
                listed.append(entry)
                _check_held("parts", listed, _MOST_PARTS, listing.version)
                count.part(entry)
                if parts is not None:
                    parts.begin(entry, scratch)
                continue
            placed = _place(entry)
            if isinstance(placed, NamedException):
                exceptions.append(placed)
                _check_held(
                    "entries that cannot be mirrored", exceptions, _MOST_EXCEPTIONS, listing.version
                )
                count.exception(placed)
            else:
                sorter.add(placed.git_path + b"\0" + dump_placed(placed))
                count.file(placed.record)
        _check_summary(listing.version, listing.closing(), count)
        taken = PartsTaken()
        if listed:
            if parts is None:
                raise TypeError(f"{listing.version.dataset.name}: parts, and nobody takes them")
            exceptions += _settle(parts, listed, scratch, sorter, count)
            _check_held(
                "entries that cannot be mirrored", exceptions, _MOST_EXCEPTIONS, listing.version
            )
            taken = parts.taken
        spool = Spool(scratch / "records.jsonl")
        # documents are known only now
        reserved = _Reserved(listing.documents)
        clashes, escape = _write(sorter, spool.path, listing.version, reserved)
    if clashes or escape:
        _resolve(spool, clashes, reserved, scratch)
    _check_exceptions(exceptions, listing.version)
    for document in listing.documents:
        count.saw(document.modified)
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
    return Proven(
        header,
        spool,
        count.placed,
        count.pending if listing.late_sha256 else 0,
        taken,
        untimed=listing.version.time is None,
        whole=listing.whole,
    )


def _settle(
    parts: PartEntries, listed: Sequence[Part], scratch: Path, sorter: LineSorter, count: _Count
) -> list[NamedException]:
    """Puts what the parts become among the files; gives what is left out of them."""
    left_out: list[NamedException] = []
    for one in parts.settle(listed, scratch):
        if isinstance(one, bytes):
            sorter.add(path_of_line(one) + b"\0" + one)
            count.placed += 1
            continue
        placed = _place(one) if isinstance(one, FileRecord) else one
        if isinstance(placed, NamedException):
            left_out.append(placed)
            continue
        sorter.add(placed.git_path + b"\0" + dump_placed(placed))
        count.placed += placed.part is None
        count.saw(placed.record.modified)
    for inline in parts.taken.inline:
        count.saw(inline.newest)
    return left_out


class _Reserved:
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

    def clash_with(self, path: bytes) -> bytes | None:
        """The document at a file's path or above it, if there is one."""
        if path.partition(b"/")[0] not in self._roots:
            return None
        while path:
            if path in self._paths:
                return path
            path = path.rpartition(b"/")[0]
        return None

    def escaped(self, path: bytes) -> bytes:
        """A file's path, the first letter of a document's name in it written as an escape."""
        taken = self.clash_with(path)
        if taken is None:
            return path
        folder, slash, name = taken.rpartition(b"/")
        first = name.decode()[0].encode()
        letter = b"".join(b"%%%02X" % byte for byte in first)
        return folder + slash + letter + name[len(first) :] + path[len(taken) :]


class _Count:
    """What was listed, to be held against upstream's summary."""

    def __init__(self) -> None:
        self.listed = 0
        self.bytes = 0
        self.placed = 0
        self.pending = 0
        self.newest: datetime | None = None

    def file(self, record: FileRecord) -> None:
        self.listed += 1
        self.placed += 1
        self.bytes += record.size or 0
        self.pending += record.evidence is not Evidence.SHA256
        self.saw(record.modified)

    def part(self, part: Part) -> None:
        self.listed += 1
        self.bytes += part.size
        self.pending += part.version.claimed is None

    def saw(self, modified: datetime | None) -> None:
        if modified is not None and (self.newest is None or modified > self.newest):
            self.newest = modified

    def exception(self, one: NamedException) -> None:
        self.listed += 1
        self.bytes += one.size


def _place(entry: FileRecord | NamedException) -> PlacedFile | NamedException:
    if isinstance(entry, NamedException):
        return entry
    path = git_path(entry.path)
    if not fits(path):
        return NamedException(
            entry.path,
            "path-too-long",
            f"the path would take {len(path)} bytes in git, more than file systems hold",
            entry.size or 0,
        )
    return PlacedFile(path, key_for(entry, path), entry)


def _check_summary(before: VersionRef, after: VersionRef, count: _Count) -> None:
    name = f"{before.dataset.name} {before.upstream}"
    if (before.claimed, before.time) != (after.claimed, after.time):
        raise ListingNotProven(
            f"{name}: upstream changed while it was listed ({before.claimed} at {before.time}, "
            f"then {after.claimed} at {after.time}); nothing was changed, try again"
        )
    if count.bytes > MOST:
        raise ListingNotProven(
            f"{name}: the files that are listed are {count.bytes} bytes, which is more than any "
            "archive has; nothing was changed, try again"
        )
    claimed = before.claimed
    if claimed is not None and (claimed.files, claimed.bytes) != (count.listed, count.bytes):
        raise ListingNotProven(
            f"{name}: the listing has {count.listed} files with {count.bytes} bytes, but upstream "
            f"states {claimed.files} files with {claimed.bytes} bytes; nothing was changed, try "
            "again"
        )


def _write(
    sorter: LineSorter, target: Path, version: VersionRef, reserved: _Reserved
) -> tuple[set[bytes], bool]:
    """Writes the sorted lines; gives the paths that are a file and a folder at once.

    And whether some file is where a document is. Raises ListingNotProven for a path that is
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
                raise ListingNotProven(
                    f"{version.dataset.name} {version.upstream}: {text(path)!r} is listed twice; "
                    "nothing was changed, try again"
                )
            while prefixes and not path.startswith(prefixes[-1]):
                prefixes.pop()
            clashes.update(one for one in prefixes if path[len(one) : len(one) + 1] == b"/")
            prefixes.append(path)
            if path in reserved.folders:
                clashes.add(path)
            elif not escape:
                escape = reserved.clash_with(path) is not None
            last = path
            file.write(line + b"\n")
    return clashes, escape


def _resolve(spool: Spool, clashes: set[bytes], reserved: _Reserved, scratch: Path) -> None:
    """Gives files in a document's place, or whose name is also a folder, names of their own."""
    with LineSorter(scratch) as sorter:
        for line in spool.lines():
            placed = load_placed(line)
            path = reserved.escaped(placed.git_path)
            if placed.git_path in clashes:
                path = mark_clash(path)
            if path == placed.git_path:
                sorter.add(path + b"\0" + line)
            else:
                key = "" if placed.part is not None else key_for(placed.record, path)
                placed = PlacedFile(path, key, placed.record, placed.part)
                sorter.add(path + b"\0" + dump_placed(placed))
        with spool.path.open("wb", buffering=1 << 18) as file:
            for sorted_line in sorter:
                file.write(sorted_line.partition(b"\0")[2] + b"\n")


def _check_held(what: str, held: Sequence[object], most: int, version: VersionRef) -> None:
    """Raises ListingTooLong where more is to be held in memory than is held of one listing."""
    if len(held) > most:
        raise ListingTooLong(
            f"{version.dataset.name} {version.upstream}: the listing has more than {most} {what}; "
            "nothing was changed",
            url=version.dataset.source_uri,
        )


def _check_exceptions(exceptions: list[NamedException], version: VersionRef) -> None:
    paths = [one.path for one in exceptions]
    if len(set(paths)) != len(paths):
        raise ListingNotProven(
            f"{version.dataset.name} {version.upstream}: a path that is not mirrored is listed "
            "twice; nothing was changed, try again"
        )
