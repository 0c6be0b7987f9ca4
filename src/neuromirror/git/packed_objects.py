"""Read single objects from the packs of a repository without starting git.

Only objects that a pack holds whole are read, as mirrored versions are; others are left to git.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Final

from msgspec import Struct

from neuromirror.git.errors import PackIndexError
from neuromirror.git.pack_indexes import PackIndex
from neuromirror.git.packs import BLOB, COMMIT, TREE, object_id

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
