"""A Zarr store that never replaces a missing block by zeros.

Zarr treats a missing chunk as one that has only the fill value. In a mirrored dataset every block
has a file, so an unavailable block is an error, and so is one without a file.
"""

from __future__ import annotations

import asyncio
import mmap
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Protocol

from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.core.buffer import Buffer, BufferPrototype

from neuromirror.sources.volumes import Volume
from neuromirror.volume.errors import BlockUnavailableError
from neuromirror.volume.geometry import METADATA

BytesCallback = Callable[[int, memoryview], None]
"""Called with the offset and bytes of a piece of a file."""


class VolumeFiles(Protocol):
    """Returns the files of a volume by path, from a clone or a version; shared by threads."""

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


class BlockStore(Store):
    """A volume's files as a read-only Zarr store.

    Files are read in threads, so that neither zarr's event loop nor that of a notebook blocks.
    """

    supports_writes = False
    supports_partial_writes = False
    supports_deletes = False
    supports_listing = True

    def __init__(self, files: VolumeFiles, volume: Volume) -> None:
        super().__init__(read_only=True)
        self._files = files
        self._size = volume.chunk_bytes(volume.levels[0])
        self._level = f"{volume.levels[0].name}/"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BlockStore) and other._files is self._files

    def __hash__(self) -> int:
        return id(self._files)

    def __repr__(self) -> str:
        return f"BlockStore({self._files.where!r})"

    def with_read_only(self, read_only: bool = False) -> Store:
        """Return the store itself, which is always read-only."""
        if not read_only:
            raise ValueError("volumes are read-only")
        return self

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return the content of a file; None for missing metadata, never for a block.

        Raises :class:`~neuromirror.volume.errors.BlockUnavailableError`.
        """
        content = await asyncio.to_thread(self._read, key)
        if content is None:
            return None
        found = prototype.buffer.from_bytes(memoryview(content))
        return found if byte_range is None else found[_slice(byte_range, len(found))]

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Return parts of files, in the order of the request; see :meth:`get`."""
        reads = (self.get(key, prototype, byte_range) for key, byte_range in key_ranges)
        return list(await asyncio.gather(*reads))

    async def exists(self, key: str) -> bool:
        """Return whether the volume has a file, with or without its content."""
        return await asyncio.to_thread(self._files.has, key)

    async def list(self) -> AsyncIterator[str]:
        """Yield all files."""
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield the files whose paths have a prefix."""
        folder = prefix.rpartition("/")[0]
        for name, is_folder in await self._entries(folder):
            path = f"{folder}/{name}" if folder else name
            if is_folder and (path.startswith(prefix) or prefix.startswith(f"{path}/")):
                async for key in self.list_prefix(f"{path}/"):
                    yield key
            elif not is_folder and path.startswith(prefix):
                yield path

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names in a folder."""
        for name, _ in await self._entries(prefix.rstrip("/")):
            yield name

    async def set(self, key: str, value: Buffer) -> None:
        """Refuse."""
        self._check_writable()

    async def set_partial_values(self, key_start_values: Iterable[tuple[str, int, bytes]]) -> None:
        """Refuse; zarr required this method until 3.1."""
        self._check_writable()

    async def delete(self, key: str) -> None:
        """Refuse."""
        self._check_writable()

    async def _entries(self, folder: str) -> Iterable[tuple[str, bool]]:
        found = await asyncio.to_thread(lambda: [*self._files.entries(folder)])
        # files of git and of upstream are not part of the Zarr
        return [one for one in found if not one[0].startswith(".")]

    def _read(self, key: str) -> mmap.mmap | bytes | None:
        name = key.rpartition("/")[2]
        if name == METADATA or name.startswith("."):
            return self._files.document(key)
        content = self._files.block(key)
        if key.startswith(self._level) and len(content) != self._size:
            why = f"it has {len(content)} bytes, not {self._size}, as every block of this level"
            raise BlockUnavailableError(key, self._files.where, why)
        return content


def _slice(byte_range: ByteRequest, size: int) -> slice:
    match byte_range:
        case RangeByteRequest():
            return slice(byte_range.start, byte_range.end)
        case OffsetByteRequest():
            return slice(byte_range.offset, None)
        case SuffixByteRequest():
            return slice(max(0, size - byte_range.suffix), None)
