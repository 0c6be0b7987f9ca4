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


class PlacedFile(msgspec.Struct, frozen=True, gc=False):
    """A file record, the path it has in the git tree (escaped) and its git-annex key.

    Where ``part`` is given, a sub-dataset stands at the path: ``key`` is empty, and the record
    holds upstream's path, the time, and nothing else.
    """

    git_path: bytes
    key: str
    record: FileRecord
    part: Subdataset | None = None


def in_git(placed: PlacedFile, form: str) -> bool:
    """Whether a file has a place in the git tree of a dataset of this form (SnapshotHeader.form).

    In form ``manifest`` only a Zarr's metadata files have, at any depth.
    """
    if form == "files" or placed.part is not None:
        return True
    return placed.record.path.rpartition(b"/")[2] in ZARR_METADATA


class RecordLine(msgspec.Struct, omit_defaults=True, gc=False):
    """The JSON object of a line; ``path`` stands only where upstream's name is not the git path.

    ``path_hex`` takes its place where upstream's name is not UTF-8. It holds what a
    :class:`PlacedFile` does, as text: quicker to read where neither a record nor the path's bytes
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
load_line = msgspec.json.Decoder(RecordLine).decode
"""Parse one line; raises ValueError for anything else."""


def text(name: bytes) -> str:
    """Bytes as text that JSON can carry and :func:`raw` turns back (surrogate escapes)."""
    return name.decode("utf-8", "surrogateescape")


def raw(name: str) -> bytes:
    """The bytes of a name made by :func:`text`."""
    return name.encode("utf-8", "surrogateescape")


def line_of(placed: PlacedFile) -> RecordLine:
    """Return the JSON object that a placed file is kept as."""
    record = placed.record
    line = RecordLine(
        git=placed.git_path.decode(),
        key=placed.key,
        keep=record.retention,
        size=record.size,
        digests=record.digests,
        at=record.locations,
        part=record.part_size,
        time=record.modified,
        id=record.upstream_id,
        sub=placed.part,
    )
    if record.path != placed.git_path:
        try:
            line.path = record.path.decode()
        except UnicodeDecodeError:
            line.path_hex = record.path.hex()
    return line


def dump_placed(placed: PlacedFile) -> bytes:
    """One line of records: compact JSON in UTF-8, no newline in it or at its end."""
    return _encode(line_of(placed))


def load_placed(line: bytes) -> PlacedFile:
    """The placed file of one line; raises ValueError for anything else."""
    try:
        got = load_line(line)
    except RecursionError as error:
        raise ValueError("a record nested too deeply") from error
    git_path = got.git.encode()
    path = got.source_path
    return PlacedFile(
        git_path,
        got.key,
        FileRecord(
            git_path if path is None else path,
            got.size,
            got.digests,
            got.at,
            got.part,
            got.time,
            got.id,
            got.keep,
        ),
        got.sub,
    )


def load_all(lines: Iterable[bytes]) -> Iterator[PlacedFile]:
    """The placed files of many lines, in order."""
    return map(load_placed, lines)
