"""What the indexes of packs tell: how many objects, which ids, which packs.

Formats: gitformat-pack(5), "pack-*.idx files" of version 2 and "multi-pack-index".
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from neuromirror.store.errors import StoreDamaged

_FANOUT = struct.Struct(">256I")
_MAGIC = b"\xfftOc\x00\x00\x00\x02"
_IDS = len(_MAGIC) + _FANOUT.size


@dataclass(frozen=True, slots=True)
class PackSize:
    """A pack: its name, how many objects are in it, and its bytes with its index."""

    name: str
    objects: int
    bytes: int


def file_size(folder: Path, name: str) -> int:
    """Bytes of a pack with its index."""
    return sum((folder / f"{name}{suffix}").stat().st_size for suffix in (".pack", ".idx"))


def pack_size(folder: Path, name: str) -> PackSize:
    """The size of a pack; raises StoreDamaged where its index is none."""
    with (folder / f"{name}.idx").open("rb") as file:
        start = file.read(_IDS)
    if not start.startswith(_MAGIC) or len(start) < _IDS:
        raise StoreDamaged(
            f"{folder / name}.idx is no pack index of version 2; check the repository with "
            f"'git -C {folder.parent.parent} fsck'. Nothing was changed"
        )
    return PackSize(name, _FANOUT.unpack(start[len(_MAGIC) :])[-1], file_size(folder, name))


class PackIds:
    """The object ids that a pack's index names, by their first byte."""

    def __init__(self, view: mmap.mmap) -> None:
        self._view = view
        self._ends = _FANOUT.unpack(view[len(_MAGIC) : _IDS])

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[PackIds]:
        """The ids of an index file, while the block runs."""
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            yield cls(view)

    def beginning(self, first: int) -> set[bytes]:
        """The 20-byte ids whose first byte is this."""
        start, end = (self._ends[first - 1] if first else 0), self._ends[first]
        block = self._view[_IDS + 20 * start : _IDS + 20 * end]
        return {sha for (sha,) in struct.iter_unpack("20s", block)}


def packs_indexed(path: Path) -> set[str] | None:
    """The packs that a multi-pack index names; None without one.

    An index that cannot be read names a pack that is nowhere.
    """
    try:
        with path.open("rb") as file:
            head = file.read(12)
            table = file.read(12 * (head[6] + 1)) if head[:4] == b"MIDX" and len(head) > 6 else b""
            chunks = list(struct.iter_unpack(">4sQ", table[: len(table) // 12 * 12]))
            for (kind, start), (_, end) in pairwise(chunks):
                if kind == b"PNAM":
                    file.seek(start)
                    listed = file.read(end - start).decode("ascii", "replace").split("\0")
                    return {name.removesuffix(".idx") for name in listed if name}
    except FileNotFoundError:
        return None
    return {""}
