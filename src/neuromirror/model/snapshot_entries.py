"""Snapshot entries (a file record with its git path and annex key) and their record lines.

The lines of one version, sorted by git path, are the *records* of the version. They contain
everything that the source stated, so that the index can be rebuilt from the store alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

import msgspec

from neuromirror.model.records import Digest, FileRecord, Location, Retention

ZARR_MARKERS = frozenset((b".zgroup", b".zarray", b"zarr.json"))
"""Objects whose presence makes a folder a Zarr (Zarr 2 and 3, "storage")."""

ZARR_METADATA = ZARR_MARKERS | {b".zattrs", b".zmetadata"}
"""Names of a Zarr's metadata files; all other files are chunks."""


class Subdataset(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A subdataset (a large Zarr) in a dataset's tree.

    Attributes
    ----------
    dataset_id
        The DataLad dataset id.
    local_id
        The id in the mirror.
    commit, state
        The commit and the state digest of the subdataset.
    files, bytes
        Number and size of the subdataset's files.
    """

    dataset_id: str
    local_id: str
    commit: str
    state: str
    files: int
    bytes: int


class SnapshotEntry(msgspec.Struct, frozen=True, gc=False):
    """A file or a subdataset at a path of the git tree.

    Attributes
    ----------
    git_path
        The (escaped) path in the git tree.
    key
        The annex key; empty for a subdataset.
    record
        The file record; for a subdataset only its path and time.
    subdataset
        The subdataset; None for a file.
    """

    git_path: bytes
    key: str
    record: FileRecord
    subdataset: Subdataset | None = None


def is_in_git(entry: SnapshotEntry, form: str) -> bool:
    """Return whether an entry is in the git tree of a dataset of a form (SnapshotHeader.form).

    In form ``manifest``, only the metadata files of Zarrs and subdatasets are.

    Parameters
    ----------
    entry
        The entry.
    form
        The form of the dataset.

    Returns
    -------
    bool
        Whether the entry is in git.
    """
    if form == "files" or entry.subdataset is not None:
        return True
    return entry.record.path.rpartition(b"/")[2] in ZARR_METADATA


class RecordLine(msgspec.Struct, omit_defaults=True, gc=False):
    """The JSON object of a record line.

    It has the content of a :class:`SnapshotEntry` as text, and is faster to decode.

    Attributes
    ----------
    git, key
        The path in git, and the annex key.
    retention
        How long upstream promises to keep the bytes.
    path
        Upstream's name, present only if it differs from the path in git.
    path_hex
        Replaces ``path`` if upstream's name is not UTF-8.
    size, part_size
        The size of the file, and of the parts of its multipart ETag, in bytes; None if unknown.
    digests, locations
        The known digests, and the locations of the bytes.
    time, id
        Upstream's time and id of the file, if it has them.
    subdataset
        The state of the subdataset at this path; None for a file.
    """

    git: str
    key: str
    retention: Retention
    path: str | None = None
    path_hex: str | None = None
    size: int | None = None
    digests: tuple[Digest, ...] = ()
    locations: tuple[Location, ...] = ()
    part_size: int | None = None
    time: datetime | None = None
    id: str | None = None
    subdataset: Subdataset | None = None

    @property
    def source_path(self) -> bytes | None:
        """Upstream's name if it differs from the git path, else None."""
        if self.path is not None:
            return self.path.encode()
        return None if self.path_hex is None else bytes.fromhex(self.path_hex)


_encode = msgspec.json.Encoder().encode
parse_record_line = msgspec.json.Decoder(RecordLine).decode
"""Parse a record line; raises ValueError if it is invalid."""


def path_to_text(name: bytes) -> str:
    """Decode a path with surrogate escapes, to be stored in JSON.

    Parameters
    ----------
    name
        The path in any bytes.

    Returns
    -------
    str
        The text.
    """
    return name.decode("utf-8", "surrogateescape")


def text_to_path(name: str) -> bytes:
    """Return the bytes of a path from :func:`path_to_text`.

    Parameters
    ----------
    name
        The text.

    Returns
    -------
    bytes
        The bytes.
    """
    return name.encode("utf-8", "surrogateescape")


def record_line_of(entry: SnapshotEntry) -> RecordLine:
    """Return the record line of a snapshot entry, as an object.

    Parameters
    ----------
    entry
        The entry.

    Returns
    -------
    RecordLine
        The object that is serialized as the record line.
    """
    record = entry.record
    line = RecordLine(
        git=entry.git_path.decode(),
        key=entry.key,
        retention=record.retention,
        size=record.size,
        digests=record.digests,
        locations=record.locations,
        part_size=record.part_size,
        time=record.modified,
        id=record.upstream_id,
        subdataset=entry.subdataset,
    )
    if record.path != entry.git_path:
        try:
            line.path = record.path.decode()
        except UnicodeDecodeError:
            line.path_hex = record.path.hex()
    return line


def dump_snapshot_entry(entry: SnapshotEntry) -> bytes:
    """Return the record line of a snapshot entry: compact JSON in UTF-8 without newlines.

    Parameters
    ----------
    entry
        The entry.

    Returns
    -------
    bytes
        The line, without a newline.
    """
    return _encode(record_line_of(entry))


def load_snapshot_entry(line: bytes) -> SnapshotEntry:
    """Parse a record line into a snapshot entry.

    Parameters
    ----------
    line
        The record line.

    Returns
    -------
    SnapshotEntry
        The entry.

    Raises
    ------
    ValueError
        The line is invalid.
    """
    try:
        record_line = parse_record_line(line)
    except RecursionError as error:
        raise ValueError("record nested too deeply") from error
    git_path = record_line.git.encode()
    path = record_line.source_path
    return SnapshotEntry(
        git_path,
        record_line.key,
        FileRecord(
            git_path if path is None else path,
            record_line.size,
            record_line.digests,
            record_line.locations,
            record_line.part_size,
            record_line.time,
            record_line.id,
            record_line.retention,
        ),
        record_line.subdataset,
    )


def load_snapshot_entries(lines: Iterable[bytes]) -> Iterator[SnapshotEntry]:
    """Parse record lines into snapshot entries.

    Parameters
    ----------
    lines
        The record lines.

    Returns
    -------
    Iterator[SnapshotEntry]
        A snapshot entry.
    """
    return map(load_snapshot_entry, lines)
