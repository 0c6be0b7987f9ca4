"""Read and write packs and their indexes.

Read pack indexes: object counts, object ids, and the packs in a multi-pack index.

Formats: gitformat-pack(5), "pack-*.idx files" of version 2 and "multi-pack-index".

Write git packs: each object as it is added, and a version 2 index at the end.

Formats: gitformat-pack(5). Objects are stored whole, without deltas. A pack's name is its checksum,
as in git.

Read single objects from the packs of a repository without starting git.

Only objects that a pack holds whole are read, as mirrored versions are; others are left to git.
"""

from __future__ import annotations

import bisect
import hashlib
import mmap
import os
import re
import struct
import sys
import tempfile
import zlib
from array import array
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import accumulate, chain, pairwise
from operator import le
from pathlib import Path
from typing import BinaryIO, Final, Self

from msgspec import Struct

from neuromirror.git.runner import PackIndexError

INDEX_MAGIC = b"\xfftOc\x00\x00\x00\x02"
"""The first bytes of a pack index of version 2."""

_FANOUT = struct.Struct(">256I")
_IDS_OFFSET = len(INDEX_MAGIC) + _FANOUT.size
_ENTRY_BYTES = 20 + 4 + 4
_CHECKSUM_BYTES = 2 * 20
_LARGE = 1 << 31
"""Bit of an offset that stands in the table of large offsets."""


class PackSize(Struct, frozen=True):
    """A pack's name, its number of objects, and its size in bytes, index included."""

    name: str
    objects: int
    bytes: int


def pack_bytes(folder: Path, name: str) -> int:
    """Return the size in bytes of a pack and its index.

    ``folder`` is ``objects/pack``, ``name`` the name of the pack without extension.
    """
    return sum((folder / f"{name}{suffix}").stat().st_size for suffix in (".pack", ".idx"))


def pack_size(folder: Path, name: str) -> PackSize:
    """Return the size of a pack; raise PackIndexError if its index is damaged.

    ``folder`` and ``name`` are those of :func:`pack_bytes`.
    """
    with (folder / f"{name}.idx").open("rb") as file:
        ends = _read_fanout(file)
    return PackSize(name, ends[-1], pack_bytes(folder, name))


def _read_fanout(file: BinaryIO) -> tuple[int, ...]:
    """Return, for each byte, how many ids start with it or a lower one; raise PackIndexError.

    The file is as long as these counts require.
    """
    start = file.read(_IDS_OFFSET)
    if start.startswith(INDEX_MAGIC) and len(start) == _IDS_OFFSET:
        ends = _FANOUT.unpack(start[len(INDEX_MAGIC) :])
        needed = _IDS_OFFSET + _ENTRY_BYTES * ends[-1] + _CHECKSUM_BYTES
        if all(map(le, ends, ends[1:])) and os.fstat(file.fileno()).st_size >= needed:
            return ends
    path = Path(file.name)
    raise PackIndexError(
        f"{path}: not a pack index of version 2, or damaged; check the repository with "
        f"'git -C {path.parents[2]} fsck'. Nothing was changed."
    )


class PackIndex:
    """The object ids in a pack index, mapped into memory; a context manager.

    Raises PackIndexError if the file is damaged.
    """

    __slots__ = ("_ends", "_view")

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._ends = _read_fanout(file)
            self._view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmap the file."""
        self._view.close()

    def __contains__(self, sha: bytes) -> bool:
        """Return whether the pack has an object, by its 20-byte id."""
        return self._position(sha) is not None

    def offset(self, sha: bytes) -> int | None:
        """Return the offset of an object in the pack, by its 20-byte id; None if it has none."""
        position = self._position(sha)
        if position is None:
            return None
        count, view = self._ends[-1], self._view
        start = _IDS_OFFSET + (20 + 4) * count
        (offset,) = struct.unpack_from(">I", view, start + 4 * position)
        if offset & _LARGE:
            (offset,) = struct.unpack_from(">Q", view, start + 4 * count + 8 * (offset ^ _LARGE))
        return int(offset)

    def _position(self, sha: bytes) -> int | None:
        """Return the position of an id among the sorted ids; None if the pack lacks it."""
        first, view = sha[0], self._view
        low, high = (self._ends[first - 1] if first else 0), self._ends[first]
        while low < high:
            middle = (low + high) >> 1
            start = _IDS_OFFSET + 20 * middle
            found = view[start : start + 20]
            if found < sha:
                low = middle + 1
            elif found > sha:
                high = middle
            else:
                return middle
        return None

    def ids_starting_with(self, first: int) -> set[bytes]:
        """Return the 20-byte ids whose first byte is ``first``."""
        start, end = (self._ends[first - 1] if first else 0), self._ends[first]
        block = self._view[_IDS_OFFSET + 20 * start : _IDS_OFFSET + 20 * end]
        return {sha for (sha,) in struct.iter_unpack("20s", block)}


class KnownObjects:
    """The ids of the objects in a repository's packs, for ``in``; loose objects are ignored.

    ``objects`` is the folder ``objects`` of the repository.
    """

    def __init__(self, objects: Path) -> None:
        self._indexes: list[PackIndex] = []
        for path in sorted(objects.glob("pack/pack-*.idx")):
            # an object counts only where git would find it: in a pack with a readable index
            if path.with_suffix(".pack").exists():
                with suppress(PackIndexError):
                    self._indexes.append(PackIndex(path))

    def __bool__(self) -> bool:
        return bool(self._indexes)

    def __contains__(self, sha: bytes) -> bool:
        return any(sha in index for index in self._indexes)

    def close(self) -> None:
        """Unmap the indexes."""
        for index in self._indexes:
            index.close()
        self._indexes.clear()


def multi_pack_index_names(path: Path) -> set[str] | None:
    """Return the names of the packs in a multi-pack index; None if there is no such file.

    For an index that cannot be read the result is a name that no pack has, so that it compares
    unequal to every set of packs.
    """
    try:
        with path.open("rb") as file:
            head = file.read(12)
            table = file.read(12 * (head[6] + 1)) if head[:4] == b"MIDX" and len(head) > 6 else b""
            chunks = list(struct.iter_unpack(">4sQ", table[: len(table) // 12 * 12]))
            for (kind, start), (_, end) in pairwise(chunks):
                if kind == b"PNAM" and start <= end <= os.fstat(file.fileno()).st_size:
                    file.seek(start)
                    listed = file.read(end - start).decode("ascii", "replace").split("\0")
                    return {name.removesuffix(".idx") for name in listed if name}
    except FileNotFoundError:
        return None
    return {""}


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


class ObjectIds:
    """Stands in for a pack whose objects are not needed, only their ids."""

    def add(self, kind: bytes, data: bytes) -> bytes:
        """Return the 20-byte id of an object."""
        return object_id(kind, data)


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

    def __init__(self, directory: Path, known: KnownObjects | None = None) -> None:
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


_KINDS: Final = {1: COMMIT, 2: TREE, 3: BLOB}
_NAME: Final = re.compile(r"([0-9a-f]{40})(?::(.+))?")
_MAX_PACKS: Final = 40
"""Number of packs above which git is faster, because it keeps an index of all packs."""
_MAX_BYTES: Final = 1 << 22
_MAX_HEADER: Final = 10


class _Pack(Struct, eq=False):
    """A pack with its index; the pack itself is opened for the first object that is read."""

    index_path: Path
    index: PackIndex
    file: BinaryIO | None = None


class PackedObjects:
    """The objects in the packs that a repository has when the first one is read.

    Parameters
    ----------
    repository
        The directory of git.
    """

    def __init__(self, repository: Path) -> None:
        self._repository = repository
        self._open_files = ExitStack()
        self._packs: list[_Pack] = []
        self._unopened: list[Path] | None = None

    def read(self, name: str) -> bytes | None:
        """Return the content of an object; None if it must be read with git.

        Parameters
        ----------
        name
            An id in hex, or ``<commit>:<path>``.

        Returns
        -------
        bytes | None
            The content, without a header; its id was verified.
        """
        parsed = _NAME.fullmatch(name)
        if parsed is None:
            return None
        try:
            kind, data = self._read(bytes.fromhex(parsed[1]))
            if parsed[2] is None:
                return data
            return self._read_path(kind, data, parsed[2].encode("utf-8", "surrogateescape"))
        except (LookupError, ValueError, OSError, PackIndexError, zlib.error):
            return None  # git reports what is wrong, if anything is

    def close(self) -> None:
        """Close the packs; another read opens them again."""
        self._packs, self._unopened = [], None
        self._open_files.close()

    def _pack_indexes(self) -> Iterator[_Pack]:
        """Yield the packs: the last one with an object first, then those not opened yet.

        Most versions have a pack of their own, so that few packs are opened.
        """
        yield from list(self._packs)
        if self._unopened is None:
            paths = list(self._repository.glob("objects/pack/pack-*.idx"))
            # the newest first; it is popped from the end
            self._unopened = sorted(paths, key=_time) if len(paths) <= _MAX_PACKS else []
        while self._unopened:
            path = self._unopened.pop()
            pack = _Pack(path, self._open_files.enter_context(PackIndex(path)))
            self._packs.append(pack)
            yield pack

    def _read(self, sha: bytes) -> tuple[bytes, bytes]:
        """Return kind and content of an object; raises LookupError unless a pack holds it whole."""
        for pack in self._pack_indexes():
            offset = pack.index.offset(sha)
            if offset is not None:
                if self._packs[0] is not pack:
                    self._packs.remove(pack)
                    self._packs.insert(0, pack)
                if pack.file is None:
                    file = pack.index_path.with_suffix(".pack").open("rb")
                    pack.file = self._open_files.enter_context(file)
                return _unpack(pack.file, offset, sha)
        raise LookupError(sha.hex())

    def _read_path(self, kind: bytes, data: bytes, path: bytes) -> bytes | None:
        """Return the blob at a path of a commit."""
        if kind != COMMIT or not data.startswith(b"tree "):
            return None
        kind, data = self._read(bytes.fromhex(data[5:45].decode()))
        for part in path.split(b"/"):
            if kind != TREE:
                return None
            kind, data = self._read(_entry(data, part))
        return data if kind == BLOB else None


def _time(path: Path) -> int:
    """Return the modification time of a pack index in nanoseconds."""
    return path.stat().st_mtime_ns


def _entry(tree: bytes, name: bytes) -> bytes:
    """Return the id of an entry of a tree; raises LookupError."""
    start = 0
    while start < len(tree):
        end = tree.index(b"\0", start)
        if tree[start:end].partition(b" ")[2] == name:
            return tree[end + 1 : end + 21]
        start = end + 21
    raise LookupError(name)


def _unpack(file: BinaryIO, offset: int, sha: bytes) -> tuple[bytes, bytes]:
    """Return kind and content of the object at an offset of a pack; raises LookupError."""
    file.seek(offset)
    start = file.read(4096)
    kind = _KINDS.get(start[0] >> 4 & 7)
    size, shift, position = start[0] & 15, 4, 1
    while start[position - 1] & 0x80 and position < _MAX_HEADER:
        size |= (start[position] & 0x7F) << shift
        shift += 7
        position += 1
    if kind is None or size > _MAX_BYTES:  # a delta, a tag, or large
        raise LookupError(sha.hex())
    inflate = zlib.decompressobj()
    data = inflate.decompress(start[position:], size + 1)
    while not inflate.eof and len(data) <= size:
        more = inflate.unconsumed_tail or file.read(1 << 16)
        if not more:
            break
        data += inflate.decompress(more, size + 1 - len(data))
    if object_id(kind, data) != sha:
        raise LookupError(sha.hex())
    return kind, data
