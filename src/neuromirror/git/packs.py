"""Write git packs: each object as it is added, and a version 2 index at the end.

Formats: gitformat-pack(5). Objects are stored whole, without deltas. A pack's name is its checksum,
as in git.
"""

from __future__ import annotations

import bisect
import hashlib
import os
import struct
import sys
import tempfile
import zlib
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate, chain
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from neuromirror.git.pack_indexes import INDEX_MAGIC, KnownObjects

BLOB = b"blob"
TREE = b"tree"
COMMIT = b"commit"

_TYPE_BITS = {COMMIT: 1, TREE: 2, BLOB: 3}
_ENTRY = struct.Struct(">20sIQ")
_FLUSH = 1 << 20
_MAX_STORED_BYTES = 0xFFFF
_LARGE_OFFSET = 1 << 31


def object_id(kind: bytes, data: bytes) -> bytes:
    """Return the 20-byte id of a git object of a kind (``b"blob"``) with the content ``data``."""
    return hashlib.sha1(b"%s %d\0%s" % (kind, len(data), data), usedforsecurity=False).digest()


def _entry_header(bits: int, size: int) -> bytes:
    byte = bits << 4 | size & 15
    size >>= 4
    out = bytearray()
    while size:
        out.append(byte | 0x80)
        byte = size & 0x7F
        size >>= 7
    out.append(byte)
    return bytes(out)


def _headers(kind: bytes, size: int) -> tuple[bytes, bytes]:
    """Return the headers of an object's data: in the input of its id, and in its pack entry.

    The entry is a zlib stream of one stored block. Writing it is ten times as fast as compression.
    """
    block = b"\x78\x01\x01" + struct.pack("<HH", size & 0xFFFF, size & 0xFFFF ^ 0xFFFF)
    return b"%s %d\0" % (kind, size), _entry_header(_TYPE_BITS[kind], size) + block


_CACHED_SIZES = 1024
_CACHED_HEADERS = {
    kind: [_headers(kind, size) for size in range(_CACHED_SIZES)] for kind in _TYPE_BITS
}
_sha1, _adler32, _crc32 = hashlib.sha1, zlib.adler32, zlib.crc32


class Pack(Struct, frozen=True):
    """A finished pack under temporary names.

    Rename ``pack`` first, then ``index``: git looks for an index and expects its pack.

    Attributes
    ----------
    name
        The final name without extension.
    pack, index
        The temporary files.
    objects
        Number of objects.
    bytes
        Size of the pack in bytes.
    """

    name: str
    pack: Path
    index: Path
    objects: int
    bytes: int

    def discard(self) -> None:
        """Remove the files."""
        self.pack.unlink(missing_ok=True)
        self.index.unlink(missing_ok=True)


class PackWriter:
    """Writes one pack under a temporary name; a context manager.

    Without a call of :meth:`finish` the file is removed at the end of the block. A duplicate object
    is dropped when the pack is finished.

    Parameters
    ----------
    directory
        Where the pack is written; created if it is missing.
    known
        Objects that are not written, since the repository has them.
    """

    def __init__(
        self,
        directory: Path,
        known: KnownObjects | None = None,
    ) -> None:
        self._known = known if known else None
        directory.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix="tmp_pack_", dir=directory)
        self._path = Path(name)
        self._file = os.fdopen(handle, "w+b", buffering=0)
        self._pending: list[bytes] = [b"PACK\x00\x00\x00\x02\x00\x00\x00\x00"]
        self._pending_size = 12
        self._offset = 12
        self._buckets = [bytearray() for _ in range(256)]
        self._is_closed = False

    def __enter__(self) -> PackWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def discard(self) -> None:
        """Remove the file, unless the pack is finished."""
        self._file.close()
        if not self._is_closed:
            self._path.unlink(missing_ok=True)
            self._is_closed = True

    def add(self, kind: bytes, data: bytes) -> bytes:
        """Add an object; return its 20-byte id.

        Parameters
        ----------
        kind
            The object's type: ``BLOB``, ``TREE`` or ``COMMIT``.
        data
            The object's content, without a header.

        Returns
        -------
        bytes
            The object's 20-byte id.
        """
        size = len(data)
        if size < _CACHED_SIZES:
            name, head = _CACHED_HEADERS[kind][size]
        else:
            name, head = _headers(kind, size)
        sha = _sha1(name + data, usedforsecurity=False).digest()
        if self._known is not None and sha in self._known:
            return sha
        if size > _MAX_STORED_BYTES:
            entry = _entry_header(_TYPE_BITS[kind], size) + zlib.compress(data, 0)
        else:
            entry = head + data + _adler32(data).to_bytes(4, "big")
        self._pending.append(entry)
        length = len(entry)
        self._pending_size += length
        self._buckets[sha[0]] += _ENTRY.pack(sha, _crc32(entry), self._offset)
        self._offset += length
        if self._pending_size > _FLUSH:
            self._flush()
        return sha

    def _flush(self) -> None:
        self._write(b"".join(self._pending))
        self._pending.clear()
        self._pending_size = 0

    def _write(self, block: bytes) -> None:
        """Write a whole block. A single ``write`` may be incomplete if the disk is full."""
        view = memoryview(block)
        while view:
            view = view[self._file.write(view) :]

    def finish(self) -> Pack | None:
        """Complete the pack and its index.

        Returns
        -------
        Pack or None
            The finished pack; None if no object was written.
        """
        self._flush()
        table = _ObjectTable(self._buckets)
        self._buckets = []
        if not table.count:
            self.discard()
            return None
        if table.duplicate_offsets:
            self._drop_duplicates(table)
        checksum = self._write_trailer(table.count)
        index = self._write_index(table, checksum)
        self._is_closed = True
        size = self._path.stat().st_size
        self._file.close()
        return Pack(f"pack-{checksum.hex()}", self._path, index, table.count, size)

    def _drop_duplicates(self, table: _ObjectTable) -> None:
        """Rewrite the pack without duplicate objects, and correct the offsets in the table."""
        starts = array(
            "Q", sorted([*chain(*table.offsets), *table.duplicate_offsets, self._offset])
        )
        ends = [starts[bisect.bisect_right(starts, start)] for start in table.duplicate_offsets]
        gaps = list(zip(table.duplicate_offsets, ends, strict=True))
        with _temporary_file(self._path.parent, "tmp_pack_") as (target, path):
            at = 0
            for start, end in [*gaps, (self._offset, self._offset)]:
                while at < start:
                    block = os.pread(self._file.fileno(), min(_FLUSH, start - at), at)
                    target.write(block)
                    at += len(block)
                at = end
        dropped = [0, *accumulate(end - start for start, end in gaps)]
        for offsets in table.offsets:
            for position, offset in enumerate(offsets):
                offsets[position] = (
                    offset - dropped[bisect.bisect_left(table.duplicate_offsets, offset)]
                )
        self._file.close()
        os.replace(path, self._path)
        self._file = self._path.open("r+b", buffering=0)

    def _write_trailer(self, count: int) -> bytes:
        """Write the object count and the trailer; return the pack's checksum."""
        self._file.seek(8)
        self._write(struct.pack(">I", count))
        self._file.seek(0)
        digest = hashlib.sha1(usedforsecurity=False)
        while block := self._file.read(_FLUSH):
            digest.update(block)
        self._write(digest.digest())
        os.fchmod(self._file.fileno(), 0o444)
        os.fsync(self._file.fileno())
        return digest.digest()

    def _write_index(self, table: _ObjectTable, checksum: bytes) -> Path:
        digest = hashlib.sha1(usedforsecurity=False)
        with _temporary_file(self._path.parent, "tmp_idx_") as (file, path):
            for block in table.index_blocks():
                digest.update(block)
                file.write(block)
            digest.update(checksum)
            file.write(checksum)
            file.write(digest.digest())
            file.flush()
            os.fchmod(file.fileno(), 0o444)
            os.fsync(file.fileno())
        return path


@contextmanager
def _temporary_file(directory: Path, prefix: str) -> Iterator[tuple[BinaryIO, Path]]:
    """Create a file; yield it with its path. It is removed if the block raises."""
    handle, name = tempfile.mkstemp(prefix=prefix, dir=directory)
    path = Path(name)
    try:
        with os.fdopen(handle, "w+b", buffering=_FLUSH) as file:
            yield file, path
    except BaseException:
        path.unlink(missing_ok=True)
        raise


class _ObjectTable:
    """The entries of a pack without duplicates, sorted by object id.

    The buckets are cleared on the way. ``duplicate_offsets`` has the sorted offsets of duplicates.
    """

    def __init__(self, buckets: list[bytearray]) -> None:
        self.fanout: list[int] = []
        self.duplicate_offsets: list[int] = []
        # one array per bucket: a single growing array would need twice the memory
        self.shas: list[bytes] = []
        self.crcs: list[array[int]] = []
        self.offsets: list[array[int]] = []
        self.count = 0
        for bucket in buckets:
            if bucket:  # few are not empty in a pack of a few objects
                self._add_bucket(bucket)
            self.fanout.append(self.count)
        self.duplicate_offsets.sort()

    def _add_bucket(self, bucket: bytearray) -> None:
        entries = sorted(_ENTRY.iter_unpack(bucket))
        bucket.clear()
        last = b""
        shas, crcs, offsets = list[bytes](), array("I"), array("Q")
        for sha, crc, offset in entries:
            if sha == last:
                self.duplicate_offsets.append(offset)
                continue
            shas.append(sha)
            crcs.append(crc)
            offsets.append(offset)
            last = sha
        self.shas.append(b"".join(shas))
        self.crcs.append(crcs)
        self.offsets.append(offsets)
        self.count += len(crcs)

    def index_blocks(self) -> Iterator[bytes]:
        """Yield the content of the pack index, without its two trailing checksums."""
        yield INDEX_MAGIC
        yield struct.pack(">256I", *self.fanout)
        yield from self.shas
        for crcs in self.crcs:
            yield _big_endian(crcs[:])
        large = array("Q")
        for offsets in self.offsets:
            short = array("I")
            for offset in offsets:
                if offset < _LARGE_OFFSET:
                    short.append(offset)
                else:
                    short.append(_LARGE_OFFSET | len(large))
                    large.append(offset)
            yield _big_endian(short)
        yield _big_endian(large)


def _big_endian(numbers: array[int]) -> bytes:
    """Return numbers as big-endian bytes; the array itself is changed."""
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers.tobytes()
