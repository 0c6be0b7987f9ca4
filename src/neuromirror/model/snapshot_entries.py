"""A file with its place in git and its annex key, and the line it is kept as.

The lines of one version, sorted by git path, are the version's *records*: all that a source
said, so that the index can be rebuilt from the store alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

import msgspec

from neuromirror.model.records import Digest, FileRecord, Location, Retention

ZARR_MARKERS = frozenset((b".zgroup", b".zarray", b"zarr.json"))
"""Objects that make the folder they lie in a Zarr (Zarr 2 and 3, "storage")."""

ZARR_METADATA = ZARR_MARKERS | {b".zattrs", b".zmetadata"}
"""What a Zarr is described by; everything else in it is chunks."""


class Subdataset(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What stands in a dataset's tree for a part that is a dataset of its own (a large Zarr).

    ``dataset_id`` is DataLad's, ``local_id`` the mirror's; ``commit`` and ``state`` name the state
    of it that belongs to this one; ``files`` and ``bytes`` count what is in it.
    """

    dataset_id: str
    local_id: str
    commit: str
    state: str
    files: int
    bytes: int


class SnapshotEntry(msgspec.Struct, frozen=True, gc=False):
    """A file record, the path it has in the git tree (escaped) and its git-annex key.

    Where ``part`` is given, a sub-dataset stands at the path: ``key`` is empty, and the record
    holds upstream's path, the time, and nothing else.
    """

    git_path: bytes
    key: str
    record: FileRecord
    subdataset: Subdataset | None = None


def is_in_git(entry: SnapshotEntry, form: str) -> bool:
    """Whether a file has a place in the git tree of a dataset of this form (SnapshotHeader.form).

    In form ``manifest`` only a Zarr's metadata files have, at any depth.
    """
    if form == "files" or entry.subdataset is not None:
        return True
    return entry.record.path.rpartition(b"/")[2] in ZARR_METADATA


class RecordLine(msgspec.Struct, omit_defaults=True, gc=False):
    """The JSON object of a line; ``path`` stands only where upstream's name is not the git path.

    ``path_hex`` takes its place where upstream's name is not UTF-8. It holds what a
    :class:`SnapshotEntry` does, as text: quicker to read where neither a record nor the path's
    bytes
    are needed.
    """

    git: str
    key: str
    keep: Retention
    path: str | None = None
    path_hex: str | None = None
    size: int | None = None
    digests: tuple[Digest, ...] = ()
    at: tuple[Location, ...] = ()
    part: int | None = None
    time: datetime | None = None
    id: str | None = None
    sub: Subdataset | None = None

    @property
    def source_path(self) -> bytes | None:
        """Upstream's name where it is not the git path."""
        if self.path is not None:
            return self.path.encode()
        return None if self.path_hex is None else bytes.fromhex(self.path_hex)


_encode = msgspec.json.Encoder().encode
parse_record_line = msgspec.json.Decoder(RecordLine).decode
"""Parse one line; raises ValueError for anything else."""


def path_to_text(name: bytes) -> str:
    """Bytes as text that JSON can carry and :func:`raw` turns back (surrogate escapes)."""
    return name.decode("utf-8", "surrogateescape")


def text_to_path(name: str) -> bytes:
    """The bytes of a name made by :func:`text`."""
    return name.encode("utf-8", "surrogateescape")


def record_line_of(entry: SnapshotEntry) -> RecordLine:
    """Return the JSON object that a placed file is kept as."""
    record = entry.record
    line = RecordLine(
        git=entry.git_path.decode(),
        key=entry.key,
        keep=record.retention,
        size=record.size,
        digests=record.digests,
        at=record.locations,
        part=record.part_size,
        time=record.modified,
        id=record.upstream_id,
        sub=entry.subdataset,
    )
    if record.path != entry.git_path:
        try:
            line.path = record.path.decode()
        except UnicodeDecodeError:
            line.path_hex = record.path.hex()
    return line


def dump_snapshot_entry(entry: SnapshotEntry) -> bytes:
    """One line of records: compact JSON in UTF-8, no newline in it or at its end."""
    return _encode(record_line_of(entry))


def load_snapshot_entry(line: bytes) -> SnapshotEntry:
    """The placed file of one line; raises ValueError for anything else."""
    try:
        record_line = parse_record_line(line)
    except RecursionError as error:
        raise ValueError("a record nested too deeply") from error
    git_path = record_line.git.encode()
    path = record_line.source_path
    return SnapshotEntry(
        git_path,
        record_line.key,
        FileRecord(
            git_path if path is None else path,
            record_line.size,
            record_line.digests,
            record_line.at,
            record_line.part,
            record_line.time,
            record_line.id,
            record_line.keep,
        ),
        record_line.sub,
    )


def load_snapshot_entries(lines: Iterable[bytes]) -> Iterator[SnapshotEntry]:
    """The placed files of many lines, in order."""
    return map(load_snapshot_entry, lines)
