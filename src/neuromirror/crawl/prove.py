"""From a listing to a proven snapshot: sorted, complete, each name in its place in git.

A listing is used only when it is whole: as many files and bytes as upstream's own summary says,
every path once, and the summary the same after as before (design, section 7).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from neuromirror.annex import fits, git_path, key_for, mark_clash
from neuromirror.mint import LineSorter, Snapshot
from neuromirror.model import (
    Evidence,
    FileRecord,
    NamedException,
    PlacedFile,
    SnapshotHeader,
    VersionRef,
    dump_placed,
    load_all,
    load_placed,
    text,
)
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
    """A snapshot whose listing was whole; ``pending`` files have no sha256 yet."""

    header: SnapshotHeader
    spool: Spool
    files: int
    pending: int

    @property
    def snapshot(self) -> Snapshot:
        """What can be minted."""
        return Snapshot.of_records(self.header, self.spool.path)


def prove(listing: Listing, scratch: Path) -> Proven:
    """Reads a listing to its end into ``scratch`` and checks that it is whole.

    Raises ListingNotProven when it is not, and whatever the source raises.
    """
    reserved = {document.path for document in listing.documents}
    exceptions: list[NamedException] = []
    count = _Count()
    with LineSorter(scratch) as sorter:
        for entry in listing.entries:
            placed = _place(entry, reserved)
            if isinstance(placed, NamedException):
                exceptions.append(placed)
                count.exception(placed)
            else:
                sorter.add(placed.git_path + b"\0" + dump_placed(placed))
                count.file(placed.record)
        _check_summary(listing.version, listing.closing(), count)
        spool = Spool(scratch / "records.jsonl")
        clashes = _write(sorter, spool.path, listing.version)
    if clashes:
        _resolve(spool, clashes, scratch)
    _check_exceptions(exceptions, listing.version)
    header = SnapshotHeader(
        version=listing.version,
        facts=listing.facts,
        documents=listing.documents,
        exceptions=tuple(sorted(exceptions, key=lambda one: (one.path, one.reason))),
        newest=count.newest,
        web_remotes=listing.web_remotes,
    )
    return Proven(header, spool, count.placed, count.pending)


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
        if record.modified is not None and (self.newest is None or record.modified > self.newest):
            self.newest = record.modified

    def exception(self, one: NamedException) -> None:
        self.listed += 1
        self.bytes += one.size


def _place(entry: FileRecord | NamedException, reserved: set[bytes]) -> PlacedFile | NamedException:
    if isinstance(entry, NamedException):
        return entry
    path = git_path(entry.path)
    first, slash, rest = path.partition(b"/")
    if first in reserved:
        # upstream's own document has the name: write the first letter as an escape
        path = b"%%%02X%s%s%s" % (first[0], first[1:], slash, rest)
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


def _write(sorter: LineSorter, target: Path, version: VersionRef) -> set[bytes]:
    """Writes the sorted lines; gives the paths that are a file and a folder at once.

    Raises ListingNotProven for a path that is listed twice.
    """
    clashes: set[bytes] = set()
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
            last = path
            file.write(line + b"\n")
    return clashes


def _resolve(spool: Spool, clashes: set[bytes], scratch: Path) -> None:
    """Gives files whose name is also a folder their marked names, and sorts again."""
    with LineSorter(scratch) as sorter:
        for line in spool.lines():
            placed = load_placed(line)
            if placed.git_path in clashes:
                path = mark_clash(placed.git_path)
                placed = PlacedFile(path, key_for(placed.record, path), placed.record)
                sorter.add(path + b"\0" + dump_placed(placed))
            else:
                sorter.add(placed.git_path + b"\0" + line)
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
