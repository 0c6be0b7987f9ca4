"""Read-only stores for zarr-python 3, whose files are read in threads.

Zarr replaces a missing chunk by the fill value. So a file counts as missing only if the state
really has none; a file that is unavailable or differs is an error. In a volume every block has a
file, so one without a file is an error, too.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import os
import re
import threading
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.core.buffer import Buffer, BufferPrototype

from neuromirror.model import ZARR_METADATA, NeuromirrorError
from neuromirror.sources.volumes.grid import Volume
from neuromirror.volume.errors import (
    BlockUnavailableError,
    UndecodableBlockError,
    UnreadableVolumeError,
)
from neuromirror.volume.files import MAX_SHARD
from neuromirror.volume.geometry import METADATA

if TYPE_CHECKING:
    from neuromirror.volume.description import LevelStorage
    from neuromirror.volume.files import CloneFiles, VersionFiles

THREADS: Final = 16
"""Files of a store that are read at once; more requests per host are not allowed."""

_MAX_METADATA: Final = 4 << 20
"""Bytes by which a file may exceed the voxels of its chunk."""

Content = bytes | bytearray | memoryview
"""The bytes of a file."""

_Result = TypeVar("_Result")


class ReadOnlyStore(Store):
    """A read-only Zarr store.

    Files are read in threads of the store, so that neither zarr's event loop nor that of a notebook
    blocks. Subclasses implement the reading.
    """

    supports_writes = False
    supports_partial_writes = False
    supports_deletes = False
    supports_listing = True
    failure: type[NeuromirrorError] = NeuromirrorError
    """The error for content that is refused."""
    _process = 0

    def __init__(self) -> None:
        super().__init__(read_only=True)
        _forget_unsafe_codec()
        self._start()

    def _start(self) -> None:
        """Prepare the store for this process: a fork has no threads and no connections."""
        self._process = os.getpid()
        self._pool: ThreadPoolExecutor | None = None
        self._pool_lock = threading.Lock()

    @property
    def _is_own(self) -> bool:
        """Whether the store was prepared in this process."""
        return self._process == os.getpid()

    @abstractmethod
    def _read(self, key: str, byte_range: ByteRequest | None) -> Content | None:
        """Return a file or a part of it; None if the state has no such file. Thread-safe."""

    @abstractmethod
    def _has(self, key: str) -> bool:
        """Return whether the state has a file. Thread-safe."""

    @abstractmethod
    def _entries(self, folder: str) -> Iterable[tuple[str, bool]]:
        """Yield the names in a folder, each with whether it is a folder. Thread-safe."""

    def close(self) -> None:
        """Close the store; nothing can be read afterwards."""
        if self._is_own:
            with self._pool_lock:
                if self._pool is not None:
                    self._pool.shutdown(wait=False, cancel_futures=True)
        super().close()

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return the content of a file; None if the state has no such file.

        Raises the errors of the class that reads, and ``failure`` for metadata with a codec that
        executes what a chunk contains, and for a chunk that is stored elsewhere than they state.
        """
        content = await self._call(self._read, key, byte_range)
        if content is None:
            nested = _nested_name(key)
            is_nested: bool = await self._call(self._has, nested) if nested else False
            if is_nested:
                raise self.failure(
                    f"the chunk {key} is stored as {nested}, but its .zarray does not state the "
                    "dimension_separator '/'; programs that ignore this read the fill value"
                )
            return None
        if names_unsafe_codec(key, content):
            raise self.failure(
                f"{key}: its chunks are pickles, with which their author could run any program; "
                "they are not read"
            )
        return prototype.buffer.from_bytes(content)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return parts of files, in the order of the request; see :meth:`get`."""
        reads = (self.get(key, prototype, byte_range) for key, byte_range in key_ranges)
        return list(await asyncio.gather(*reads))

    async def exists(self, key: str) -> bool:
        """Return whether the state has a file, with or without its content."""
        return await self._call(self._has, key)

    async def list(self) -> AsyncIterator[str]:
        """Yield all files."""
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield the files whose paths have a prefix."""
        folder = prefix.rpartition("/")[0]
        for name, is_folder in await self._call(self._names, folder):
            path = f"{folder}/{name}" if folder else name
            if is_folder and (path.startswith(prefix) or prefix.startswith(f"{path}/")):
                async for key in self.list_prefix(f"{path}/"):
                    yield key
            elif not is_folder and path.startswith(prefix):
                yield path

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names in a folder."""
        for name, _ in await self._call(self._names, prefix.rstrip("/")):
            yield name

    async def set(self, key: str, value: Buffer) -> None:
        """Refuse."""
        self._check_writable()

    async def delete(self, key: str) -> None:
        """Refuse."""
        self._check_writable()

    def _names(self, folder: str) -> Any:
        return [*self._entries(folder)]

    async def _call(self, function: Callable[..., _Result], *arguments: Any) -> _Result:
        if not self._is_own:
            self._start()
        with self._pool_lock:
            if self._pool is None:
                # the default executor has few threads on a machine with few processors
                self._pool = ThreadPoolExecutor(THREADS, "neuromirror-zarr")
            pool = self._pool
        return await asyncio.get_running_loop().run_in_executor(pool, function, *arguments)


def _nested_name(key: str) -> str:
    """Return the path of a chunk ``0.1.2`` as some writers nest it, ``0/1/2``; else empty."""
    folder, slash, name = key.rpartition("/")
    numbers = name.split(".")
    is_chunk = len(numbers) > 1 and all(map(str.isdecimal, numbers))
    return folder + slash + "/".join(numbers) if is_chunk else ""


def byte_bounds(byte_range: ByteRequest | None, size: int) -> tuple[int, int]:
    """Return the offsets of the first byte, and after the last byte, of a requested part."""
    match byte_range:
        case RangeByteRequest():
            return byte_range.start, min(byte_range.end, size)
        case OffsetByteRequest():
            return byte_range.offset, size
        case SuffixByteRequest():
            return max(0, size - byte_range.suffix), size
        case None:
            return 0, size
    raise TypeError(f"Unexpected byte_range, got {byte_range}")


# --- codecs of a Zarr that must not be used for data of others


_UNSAFE: Final = "pickle"
"""The codec of numcodecs that executes what a chunk contains. Older versions do so unasked."""


def _forget_unsafe_codec() -> None:
    """Remove the codec from the registry, so that no array of this process can use it."""
    from numcodecs import registry  # type: ignore[import-untyped,unused-ignore]

    for known in (registry.codec_registry, registry.entries):
        known.pop(_UNSAFE, None)


def names_unsafe_codec(key: str, content: bytes | bytearray | memoryview) -> bool:
    """Return whether a file is metadata of a Zarr that names a codec which executes programs.

    Parameters
    ----------
    key
        The path of the file.
    content
        Its content.
    """
    name = key.rpartition("/")[2].encode("utf-8", "surrogateescape")
    if name not in ZARR_METADATA:
        return False
    try:
        document = json.loads(bytes(content))
    except (ValueError, RecursionError):
        return False  # zarr-python does not accept it either
    return any(
        _UNSAFE in re.split(r"\W", one) for node in _nodes(document) for one in _codec_names(node)
    )


def _nodes(document: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the metadata of a node, and of those in its consolidated metadata, whatever names."""
    left = [document]
    while left:
        node = left.pop()
        if isinstance(node, dict):
            yield node
            consolidated = node.get("consolidated_metadata")
            for outer in (node, consolidated):
                listed = outer.get("metadata") if isinstance(outer, dict) else None
                left += listed.values() if isinstance(listed, dict) else ()


def _codec_names(node: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of the codecs of a node, and of those in their configurations."""
    left: list[Any] = [node.get(one) for one in ("filters", "compressor", "codecs")]
    while left:
        value = left.pop()
        if isinstance(value, list):
            left += value
        elif isinstance(value, dict):
            yield from (value[one] for one in ("id", "name") if isinstance(value.get(one), str))
            left += value.values()


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
        return (entry for entry in self._files.entries(folder) if not entry[0].startswith("."))

    def _file(self, key: str) -> mmap.mmap | bytes | None:
        name = key.rpartition("/")[2]
        if name == METADATA or name.startswith("."):
            return self._files.document(key)
        content = self._files.block(key)
        if key.startswith(self._level) and len(content) != self._size:
            why = f"it has {len(content)} bytes, not {self._size}, as every block of this level"
            raise BlockUnavailableError(key, self._files.where, why)
        return content


class ObjectStore(BlockStore):
    """The objects of an OME-Zarr in a version as a read-only Zarr store, for one of its arrays."""

    failure = UnreadableVolumeError

    def __init__(
        self, files: CloneFiles | VersionFiles, volume: Volume, storage: LevelStorage
    ) -> None:
        super().__init__(files, volume)
        self._objects = files
        self._storage = storage
        self._most = MAX_SHARD if storage.is_sharded else 2 * self._size + _MAX_METADATA

    def _file(self, key: str) -> mmap.mmap | bytes | None:
        content = self._objects.read_object(key, self._most)
        if key.rpartition("/")[2].encode() in ZARR_METADATA:
            return content
        if content is None and not self._storage.has_fill_value:
            why = "the version has no such object, and its array states no fill value"
            raise UndecodableBlockError(key, self._objects.where, why)
        if content is not None and not self._storage.is_sharded:
            try:
                self._storage.codecs.check_size(content, self._size)
            except ValueError as error:
                raise UndecodableBlockError(key, self._objects.where, str(error)) from error
        return content
