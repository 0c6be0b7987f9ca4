"""Read pack indexes: object counts, object ids, and the packs in a multi-pack index.

Formats: gitformat-pack(5), "pack-*.idx files" of version 2 and "multi-pack-index".
"""

from __future__ import annotations

import mmap
import os
import struct
from contextlib import suppress
from itertools import pairwise
from operator import le
from pathlib import Path
from typing import BinaryIO, Self

from msgspec import Struct

from neuromirror.git.errors import PackIndexError

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
