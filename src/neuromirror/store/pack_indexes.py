"""What the indexes of packs tell: how many objects, which ids, which packs.

Formats: gitformat-pack(5), "pack-*.idx files" of version 2 and "multi-pack-index".
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from operator import le
from pathlib import Path
from typing import BinaryIO

from neuromirror.store.errors import StoreDamagedError

_FANOUT = struct.Struct(">256I")
_MAGIC = b"\xfftOc\x00\x00\x00\x02"
_IDS_OFFSET = len(_MAGIC) + _FANOUT.size
_ENTRY_BYTES = 20 + 4 + 4
_CHECKSUM_BYTES = 2 * 20


@dataclass(frozen=True, slots=True)
class PackSize:
    """A pack: its name, how many objects are in it, and its bytes with its index."""

    name: str
    objects: int
    bytes: int


def pack_bytes(folder: Path, name: str) -> int:
    """Bytes of a pack with its index."""
    return sum((folder / f"{name}{suffix}").stat().st_size for suffix in (".pack", ".idx"))


def pack_size(folder: Path, name: str) -> PackSize:
    """The size of a pack; raises StoreDamagedError where its index is none."""
    with (folder / f"{name}.idx").open("rb") as file:
        ends = _read_fanout(file)
    return PackSize(name, ends[-1], pack_bytes(folder, name))


def _read_fanout(file: BinaryIO) -> tuple[int, ...]:
    """Return how many ids begin with each byte or a lower one; raises StoreDamagedError.

    The file is long enough for what they promise.
    """
    start = file.read(_IDS_OFFSET)
    if start.startswith(_MAGIC) and len(start) == _IDS_OFFSET:
        ends = _FANOUT.unpack(start[len(_MAGIC) :])
        needed = _IDS_OFFSET + _ENTRY_BYTES * ends[-1] + _CHECKSUM_BYTES
        if all(map(le, ends, ends[1:])) and os.fstat(file.fileno()).st_size >= needed:
            return ends
    path = Path(file.name)
    raise StoreDamagedError(
        f"{path} is no pack index of version 2, or damaged; check the repository with "
        f"'git -C {path.parents[2]} fsck'. Nothing was changed"
    )


class PackObjectIds:
    """The object ids that a pack's index names, by their first byte."""

    def __init__(self, view: mmap.mmap, ends: tuple[int, ...]) -> None:
        self._view = view
        self._ends = ends

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[PackObjectIds]:
        """The ids of an index file, while the block runs; raises StoreDamagedError."""
        with path.open("rb") as file:
            ends = _read_fanout(file)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
                yield cls(view, ends)

    def ids_starting_with(self, first: int) -> set[bytes]:
        """The 20-byte ids whose first byte is this."""
        start, end = (self._ends[first - 1] if first else 0), self._ends[first]
        block = self._view[_IDS_OFFSET + 20 * start : _IDS_OFFSET + 20 * end]
        return {sha for (sha,) in struct.iter_unpack("20s", block)}


def multi_pack_index_names(path: Path) -> set[str] | None:
    """The packs that a multi-pack index names; None without one.

    An index that cannot be read names a pack that is nowhere.
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
