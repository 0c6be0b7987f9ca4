"""Entries of a snapshot, their changes and the canonical manifest.

Snapshot entries (a file record with its git path and annex key) and their record lines.

The lines of one version, sorted by git path, are the *records* of the version. They contain
everything that the source stated, so that the index can be rebuilt from the store alone.

Compute, apply and serialize the difference of two versions, as pairs of record lines.

Both versions are sorted by git path and processed one line at a time.

The canonical manifest and the state digest (docs/reference/manifest.md).

The manifest has one JSON object per line, in UTF-8, sorted by the bytes of the path, with sorted
keys and no spaces. The state digest is its sha256. It does not contain URLs, times and claims, so
moving a file to another URL does not change the state.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from datetime import datetime

import msgspec

from neuromirror.model.records import (
    Digest,
    Document,
    FileRecord,
    Location,
    Retention,
    strongest_digest,
)

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
    archived
        The archive storage class of an object that must be restored to be read.
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
    archived: str | None = None

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
        archived=record.archived,
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
            record_line.archived,
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


LinePair = tuple[bytes | None, bytes | None]
"""The record line of a file before and after; None if the file was added or removed."""

Change = tuple[SnapshotEntry | None, SnapshotEntry | None]
"""A file before and after; None if it was added or removed."""

_HEAD = b'{"git":"'


class _Path(msgspec.Struct):
    git: str


_path = msgspec.json.Decoder(_Path).decode


def line_path(line: bytes) -> bytes:
    """Return the git path of a record line without parsing the rest of it.

    Parameters
    ----------
    line
        The record line.

    Returns
    -------
    bytes
        The path.
    """
    end = line.find(b'"', 8)
    if end > 0 and line.startswith(_HEAD) and line.find(b"\\", 8, end + 1) < 0:
        return line[8:end]
    return _path(line).git.encode()


def diff_lines(before: Iterable[bytes], after: Iterable[bytes]) -> Iterator[LinePair]:
    """Yield the pairs in which the record lines of two versions differ, in path order.

    Parameters
    ----------
    before
        The record lines of the old version, in path order.
    after
        The record lines of the new version, in path order.

    Yields
    ------
    LinePair
        The old and the new line; None on the side that lacks the path.
    """
    olds, news = iter(before), iter(after)
    old, new = next(olds, None), next(news, None)
    while old is not None or new is not None:
        if old == new:
            old, new = next(olds, None), next(news, None)
        elif new is None:
            yield old, None
            old = next(olds, None)
        elif old is None:
            yield None, new
            new = next(news, None)
        else:
            old_path, new_path = line_path(old), line_path(new)
            if old_path == new_path:
                yield old, new
                old, new = next(olds, None), next(news, None)
            elif old_path < new_path:
                yield old, None
                old = next(olds, None)
            else:
                yield None, new
                new = next(news, None)


def patch_lines(before: Iterable[bytes], pairs: Iterable[LinePair]) -> Iterator[bytes]:
    """Apply a difference to the lines of a version, and yield the resulting lines.

    Parameters
    ----------
    before
        The record lines of the old version, in path order.
    pairs
        The difference, in path order.

    Yields
    ------
    bytes
        A record line of the new version.

    Raises
    ------
    ValueError
        If the old line of a pair is not among the lines.
    """
    olds = iter(before)
    old = next(olds, None)
    for expected, new in pairs:
        path = line_path(expected or new or b"")
        while old is not None and line_path(old) < path:
            yield old
            old = next(olds, None)
        if expected is not None:
            if old != expected:
                raise ValueError(f"no such file to change: {path!r}")
            old = next(olds, None)
        if new is not None:
            yield new
    while old is not None:
        yield old
        old = next(olds, None)


def reverse_pairs(pairs: Iterable[LinePair]) -> Iterator[LinePair]:
    """Reverse a difference.

    Parameters
    ----------
    pairs
        The difference.

    Returns
    -------
    Iterator[LinePair]
        A pair with its sides swapped.
    """
    return ((new, old) for old, new in pairs)


def compose_pairs(earlier: Iterable[LinePair], later: Iterable[LinePair]) -> Iterator[LinePair]:
    """Compose two successive differences, in path order.

    Parameters
    ----------
    earlier
        The difference from the first to the second state, in path order.
    later
        The difference from the second to the third state, in path order.

    Yields
    ------
    LinePair
        A pair of the difference from the first to the third state.

    Raises
    ------
    ValueError
        If ``later`` does not apply to the result of ``earlier``.
    """
    ones, others = iter(earlier), iter(later)
    one, other = next(ones, None), next(others, None)
    while one is not None or other is not None:
        path = None if one is None else line_path(one[0] or one[1] or b"")
        other_path = None if other is None else line_path(other[0] or other[1] or b"")
        if one is not None and (other_path is None or (path is not None and path < other_path)):
            yield one
            one = next(ones, None)
        elif other is not None and (path is None or path != other_path):
            yield other
            other = next(others, None)
        else:
            assert one is not None
            assert other is not None
            if one[1] != other[0]:
                raise ValueError(f"no such file to change: {path!r}")
            if one[0] != other[1]:
                yield one[0], other[1]
            one, other = next(ones, None), next(others, None)


def dump_pairs(pairs: Iterable[LinePair]) -> Iterator[bytes]:
    """Serialize pairs as lines: ``-`` and the old line, ``+`` and the new one.

    Parameters
    ----------
    pairs
        The pairs.

    Yields
    ------
    bytes
        A line without its newline.
    """
    for old, new in pairs:
        if old is not None:
            yield b"-" + old
        if new is not None:
            yield b"+" + new


def load_pairs(lines: Iterable[bytes]) -> Iterator[LinePair]:
    """Parse the lines of :func:`dump_pairs`.

    Parameters
    ----------
    lines
        The lines.

    Yields
    ------
    LinePair
        A pair of record lines.
    """
    old: bytes | None = None
    for line in lines:
        sign, rest = line[:1], line[1:]
        if sign == b"-":
            if old is not None:
                yield old, None
            old = rest
        elif old is not None and line_path(old) != line_path(rest):
            yield old, None
            yield None, rest
            old = None
        else:
            yield old, rest
            old = None
    if old is not None:
        yield old, None


def load_changes(pairs: Iterable[LinePair]) -> Iterator[Change]:
    """Parse pairs of record lines into pairs of snapshot entries.

    Parameters
    ----------
    pairs
        Pairs of record lines.

    Yields
    ------
    Change
        A pair of snapshot entries; None on the side that lacks the path.
    """
    for old, new in pairs:
        yield (
            None if old is None else load_snapshot_entry(old),
            None if new is None else load_snapshot_entry(new),
        )


_PLAIN = re.compile(rb'[^"\\\x00-\x1f]*\Z')


def manifest_digest(record: FileRecord) -> str:
    """Return the strongest digest of a record in the manifest's notation.

    ``sha256:<hex>``, ``md5:<hex>``, ``etag:<md5>-<parts>-<part size>``, or ``none``.

    Parameters
    ----------
    record
        The record of the file.

    Returns
    -------
    str
        The digest with the name of its algorithm.
    """
    digest = strongest_digest(record)
    if digest is None:
        return "none"
    if digest.algorithm == "etag":
        return f"etag:{digest.value}-{record.part_size}"
    return f"{digest.algorithm}:{digest.value}"


def manifest_line(git_path: bytes, digest: str, size: int | None) -> bytes:
    """Return the manifest line of a file, with its newline.

    Parameters
    ----------
    git_path
        The path in git, in UTF-8.
    digest
        The digest, from :func:`manifest_digest`.
    size
        Size in bytes; None if unknown.

    Returns
    -------
    bytes
        The line.
    """
    count = b"null" if size is None else b"%d" % size
    if _PLAIN.match(git_path):
        return b'{"digest":"%s","path":"%s","size":%s}\n' % (digest.encode(), git_path, count)
    quoted = json.dumps(git_path.decode("utf-8"), ensure_ascii=False).encode("utf-8")
    return b'{"digest":"%s","path":%s,"size":%s}\n' % (digest.encode(), quoted, count)


def entry_line(entry: SnapshotEntry) -> bytes:
    """Return the manifest line of a file or a subdataset, with its newline.

    Parameters
    ----------
    entry
        The entry.

    Returns
    -------
    bytes
        The line.
    """
    subdataset, record = entry.subdataset, entry.record
    if subdataset is not None:
        return subdataset_line(entry.git_path, subdataset.dataset_id, subdataset.state)
    return manifest_line(entry.git_path, manifest_digest(record), record.size)


def metadata_digest(documents: Iterable[Document]) -> str:
    """Return the metadata digest: the sha256 of the manifest lines of a state's documents.

    Without documents it is the digest of the empty string.

    Parameters
    ----------
    documents
        The documents of upstream, in any order.

    Returns
    -------
    str
        ``sha256:<hex>``.
    """
    digest = StateDigest()
    for document in sorted(documents, key=lambda one: one.path):
        content = f"sha256:{hashlib.sha256(document.content).hexdigest()}"
        digest.add(manifest_line(document.path, content, len(document.content)))
    return digest.value()


def subdataset_line(git_path: bytes, dataset_id: str, state: str) -> bytes:
    """Return the manifest line of a subdataset, with its newline.

    Parameters
    ----------
    git_path
        The path in git, in UTF-8.
    dataset_id
        The UUID of the subdataset.
    state
        The state digest of the subdataset, ``sha256:<hex>``.

    Returns
    -------
    bytes
        The line.
    """
    quoted = json.dumps(git_path.decode("utf-8"), ensure_ascii=False).encode("utf-8")
    return b'{"dataset":"%s","path":%s,"state":"%s"}\n' % (
        dataset_id.encode(),
        quoted,
        state.encode(),
    )


class StateDigest:
    """Computes the state digest of manifest lines, which must be added in path order."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def add(self, line: bytes) -> None:
        """Add the next line.

        Parameters
        ----------
        line
            The line, including its newline.
        """
        self._sha256.update(line)

    def value(self) -> str:
        """Return the digest of the lines so far.

        Returns
        -------
        str
            ``sha256:<hex>``.
        """
        return f"sha256:{self._sha256.hexdigest()}"
