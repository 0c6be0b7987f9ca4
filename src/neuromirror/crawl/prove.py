"""From a listing to a proven snapshot: sorted, complete, each name in its place in git.

A listing is used only when it is whole: as many files and bytes as upstream's own summary says,
every path once, and the summary the same after as before (design, section 7).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from neuromirror.annex import fits, git_path, key_for, mark_clash
from neuromirror.mint import LineSorter
from neuromirror.model import (
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
    text,
)
from neuromirror.model.manifest import placed_line
from neuromirror.sources import Listing, ListingNotProven


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


@dataclass(frozen=True, slots=True)
class Proven:
    """A snapshot whose listing was whole; ``pending`` files will get a sha256 upstream later."""

    header: SnapshotHeader
    spool: Spool
    files: int
    pending: int

    def state(self) -> str:
        """The state digest of the files, ``sha256:<hex>``."""
        digest = StateDigest()
        for placed in self.spool.placed():
            digest.add(placed_line(placed))
        return digest.value()


def prove(listing: Listing, scratch: Path) -> Proven:
    """Reads a listing to its end into ``scratch`` and checks that it is whole.

    The version's time is upstream's own, else that of its newest file or document, else, where
    upstream has no times, that of the observation. Raises ListingNotProven when the listing is
    not whole, and whatever the source raises.
    """
    exceptions: list[NamedException] = []
    count = _Count()
    with LineSorter(scratch) as sorter:
        for entry in listing.entries:
            placed = _place(entry)
            if isinstance(placed, NamedException):
                exceptions.append(placed)
                count.exception(placed)
            else:
                sorter.add(placed.git_path + b"\0" + dump_placed(placed))
                count.file(placed.record)
        _check_summary(listing.version, listing.closing(), count)
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
        version=_timed(listing.version, count.newest),
        facts=listing.facts,
        documents=tuple(sorted(listing.documents, key=lambda one: one.path)),
        exceptions=tuple(sorted(exceptions, key=lambda one: (one.path, one.reason))),
        newest=count.newest,
        web_remotes=listing.web_remotes,
    )
    return Proven(header, spool, count.placed, count.pending if listing.late_sha256 else 0)


def _timed(version: VersionRef, newest: datetime | None) -> VersionRef:
    if version.time is not None:
        return version
    return replace(version, time=newest or datetime.now(UTC).replace(microsecond=0))


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
                placed = PlacedFile(path, key_for(placed.record, path), placed.record)
                sorter.add(path + b"\0" + dump_placed(placed))
        with spool.path.open("wb", buffering=1 << 18) as file:
            for sorted_line in sorter:
                file.write(sorted_line.partition(b"\0")[2] + b"\n")


def _check_exceptions(exceptions: list[NamedException], version: VersionRef) -> None:
    paths = [one.path for one in exceptions]
    if len(set(paths)) != len(paths):
        raise ListingNotProven(
            f"{version.dataset.name} {version.upstream}: a path that is not mirrored is listed "
            "twice; nothing was changed, try again"
        )
