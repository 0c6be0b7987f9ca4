"""A Zarr store that never replaces a missing block by zeros.

Zarr treats a missing chunk as one that has only the fill value. In a mirrored dataset every block
has a file, so an unavailable block is an error, and so is one without a file.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from zarr.abc.store import ByteRequest

from neuromirror.sources.volumes.grid import Volume
from neuromirror.volume.errors import BlockUnavailableError
from neuromirror.volume.geometry import METADATA
from neuromirror.volume.read_only_store import Content, ReadOnlyStore, byte_bounds

BytesCallback = Callable[[int, memoryview], None]
"""Called with the offset and bytes of a piece of a file."""


class VolumeFiles(Protocol):
    """Returns the files of a volume by path, from a clone or a version. Thread-safe."""

    where: str
    """The name of the volume, for messages."""

    def document(self, path: str) -> bytes | None:
        """Return the content of a document; None if the file does not exist."""

    def block(self, path: str) -> mmap.mmap | bytes:
        """Return a block's bytes, verified; raises BlockUnavailableError."""

    def copy(self, path: str, take: BytesCallback) -> None:
        """Pass a block's bytes to ``take``, in order; raises BlockUnavailableError.

        They are verified only when this returns. A retry starts again at offset 0. Errors of
        ``take`` are passed on.
        """

    def has(self, path: str) -> bool:
        """Return whether the file exists, with or without its content."""

    def entries(self, folder: str) -> Iterator[tuple[str, bool]]:
        """Yield the names in a folder, each with whether it is a folder."""

    def close(self) -> None:
        """Abort running requests."""


class BlockStore(ReadOnlyStore):
    """A volume's files as a read-only Zarr store."""

    def __init__(self, files: VolumeFiles, volume: Volume) -> None:
        super().__init__()
        self._files = files
        self._volume = volume
        self._size = volume.chunk_bytes(volume.levels[0])
        self._level = f"{volume.levels[0].name}/"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BlockStore) and other._files is self._files

    def __hash__(self) -> int:
        return id(self._files)

    def __reduce__(self) -> tuple[type[BlockStore], tuple[VolumeFiles, Volume]]:
        return BlockStore, (self._files, self._volume)

    def __repr__(self) -> str:
        return f"BlockStore({self._files.where!r})"

    def _read(self, key: str, byte_range: ByteRequest | None) -> Content | None:
        """Return the content of a file; None for missing metadata, never for a block.

        Raises :class:`~neuromirror.volume.errors.BlockUnavailableError`.
        """
        content = self._file(key)
        if content is None:
            return None
        start, stop = byte_bounds(byte_range, len(content))
        return memoryview(content)[start:stop]

    def _has(self, key: str) -> bool:
        return self._files.has(key)

    def _entries(self, folder: str) -> Iterable[tuple[str, bool]]:
        # files of git and of upstream are not part of the Zarr
        return (one for one in self._files.entries(folder) if not one[0].startswith("."))

    def _file(self, key: str) -> mmap.mmap | bytes | None:
        name = key.rpartition("/")[2]
        if name == METADATA or name.startswith("."):
            return self._files.document(key)
        content = self._files.block(key)
        if key.startswith(self._level) and len(content) != self._size:
            why = f"it has {len(content)} bytes, not {self._size}, as every block of this level"
            raise BlockUnavailableError(key, self._files.where, why)
        return content
