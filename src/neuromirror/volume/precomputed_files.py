"""Read a level of a volume in a bucket as a Zarr: its metadata are made, its chunks are decoded.

A chunk ends at the end of the volume, that of the Zarr has the full size. A chunk without an object
has the fill value, if the version has all objects of the volume.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from msgspec.structs import replace

from neuromirror.model import NeuromirrorError
from neuromirror.sources.volumes.content_codings import CODING_SUFFIXES, unpack
from neuromirror.sources.volumes.grid import Volume, zarr_documents
from neuromirror.sources.volumes.urls import Box, Triple
from neuromirror.volume.chunk_encodings import (
    MAX_OVERHEAD,
    ShardReader,
    chunk_number,
    decode_n5_block,
    decode_voxels,
)
from neuromirror.volume.description import LevelStorage
from neuromirror.volume.errors import (
    BlockUnavailableError,
    MissingExtraError,
    UndecodableBlockError,
)
from neuromirror.volume.geometry import METADATA, block_box, containing_block

if TYPE_CHECKING:
    from neuromirror.volume.files import VersionFiles
    from neuromirror.volume.read_only_store import BytesCallback

_ENDINGS: Final = {"": ""} | {ending: coding for coding, ending in CODING_SUFFIXES.items()}
"""The content codings of objects, by the ending of their paths."""

_AXES: Final = 3


class LayerObjects(Protocol):
    """The objects of a volume in a version. Thread-safe."""

    @property
    def where(self) -> str:
        """The name of the version, for messages."""

    def read_object(self, path: str, max_bytes: int) -> bytes | mmap.mmap | None:
        """Return the verified content of an object; None if the version lacks it.

        Parameters
        ----------
        path
            The path of the object in the layer.
        max_bytes
            Maximum size in bytes; it is an error if the object is larger.
        """

    def read_part(self, path: str, start: int, stop: int) -> bytes | None:
        """Return verified bytes of an object; None if the version lacks it.

        Parameters
        ----------
        path
            The path of the object in the layer.
        start, stop
            Offsets of the first byte, and after the last byte.
        """

    def first_with_prefix(self, prefix: str) -> str | None:
        """Return the first path of a file that starts with a text; None without one."""

    def close(self) -> None:
        """Abort running requests."""


class LevelChunks:
    """The chunks of a level of a precomputed layer, or the blocks of an array of N5. Thread-safe.

    Parameters
    ----------
    objects
        The objects of the layer.
    volume
        The volume, with this level only.
    storage
        How the level is stored.
    """

    def __init__(self, objects: LayerObjects, volume: Volume, storage: LevelStorage) -> None:
        self._objects = objects
        self._volume = volume
        self._storage = storage
        self._shards: ShardReader | None = None
        if (sharding := storage.sharding) is not None:
            grid = volume.levels[0].grid
            self._shards = ShardReader(storage.folder, sharding, self._read_shard, grid)

    def voxels(self, position: Triple, box: Box) -> bytes | None:
        """Return the voxels of a chunk, decoded and verified.

        Parameters
        ----------
        position
            The position of the chunk in the grid, along x, y, z.
        box
            The box of the chunk, which ends at the end of the volume.

        Returns
        -------
        bytes or None
            The voxels of the box, x fastest; None for a chunk without an object, which is all
            zeros.

        Raises
        ------
        BlockUnavailableError
            An object is unavailable, differs from the version, or is damaged.
        """
        x, y, z = (stop - start for start, stop in box)
        size = x * y * z * self._volume.item_size
        most = size if self._storage.encoding == "raw" else 2 * size + MAX_OVERHEAD
        stem = f"{self._storage.folder}/" + "_".join(f"{start}-{stop}" for start, stop in box)
        if (compression := self._storage.compression) is not None:
            # a block of N5 may have its full size at the end of the volume
            most = 2 * self._volume.chunk_bytes(self._volume.levels[0]) + MAX_OVERHEAD
            stem = "/".join(filter(None, [self._storage.folder, *map(str, position)]))
        try:
            found = self._stored(stem, position, most)
            if found is None:
                return None
            stem, content = found
            if compression is not None:
                chunk = self._volume.levels[0].chunk
                return decode_n5_block(content, compression, (x, y, z), chunk, self._volume.dtype)
            return decode_voxels(
                content, self._storage.encoding, (x, y, z), self._volume.dtype, self._storage.block
            )
        except ImportError as error:
            raise MissingExtraError(error) from error
        except (ValueError, RuntimeError) as error:
            why = f"it does not decode to the {size} bytes of its voxels: {error}"
            raise UndecodableBlockError(stem, self._objects.where, why) from error

    def _stored(self, stem: str, position: Triple, most: int) -> tuple[str, bytes] | None:
        """Return path and content of the object of a chunk, without its content coding."""
        if self._shards is not None:
            assert self._storage.sharding is not None
            number = chunk_number(position, self._volume.levels[0].grid)
            span = self._shards.find(number)
            if span is None:
                return None
            if span[2] - span[1] > most + MAX_OVERHEAD:
                raise ValueError(f"its index states {span[2] - span[1]} bytes")
            content = self._shards.read(span)
            if content is None:
                return None
            return span[0], unpack(content, self._storage.sharding.data_coding, most)
        for ending, coding in _ENDINGS.items():
            stored = self._objects.read_object(stem + ending, most + MAX_OVERHEAD)
            if stored is not None:
                return stem + ending, unpack(memoryview(stored), coding, most)
        self._refuse_other_forms(stem)
        return None

    def _read_shard(self, path: str, start: int, stop: int) -> bytes | None:
        part = self._objects.read_part(path, start, stop)
        if part is None:
            self._refuse_other_forms(path.removesuffix(".shard"))
        return part

    def _refuse_other_forms(self, stem: str) -> None:
        """Raise BlockUnavailableError if the version has an object under a name like a missing one.

        What is missing is read as zeros.
        """
        other = self._objects.first_with_prefix(f"{stem}.")
        if other is not None:
            why = f"chunks in files that end in {other[len(stem) :]} are not supported"
            raise UndecodableBlockError(other, self._objects.where, why)


class ZarrChunks:
    """The chunks of an array of an OME-Zarr, which zarr-python reads."""

    def __init__(self, objects: LayerObjects, volume: Volume, storage: LevelStorage) -> None:
        import zarr

        from neuromirror.volume.read_only_store import ObjectStore

        self._where = objects.where
        self._volume = volume
        self._storage = storage
        # a Zarr over the network is opened by zarr-python alone, so that these are files
        store = ObjectStore(cast("VersionFiles", objects), volume, storage)
        self._array = zarr.open_array(store, path=storage.folder, mode="r")

    def voxels(self, position: Triple, box: Box) -> bytes | None:
        """Return the voxels of a chunk, as :meth:`LevelChunks.voxels`; never None."""
        import numpy

        first, dtype = self._volume.levels[0].start, numpy.dtype(self._volume.dtype)
        z, y, x = (slice(box[at][0] - first[at], box[at][1] - first[at]) for at in (2, 1, 0))
        try:
            found = self._array[(0,) * (len(self._storage.axes) - 3) + (z, y, x)]
        except NeuromirrorError:
            raise
        except Exception as error:  # each codec has errors of its own
            path = f"{self._storage.folder} (x, y, z: {position})"
            raise UndecodableBlockError(path, self._where, f"zarr reports: {error}") from error
        return numpy.asarray(found, dtype.newbyteorder("<")).tobytes()


class PrecomputedFiles:
    """The levels of a volume in a bucket, presented as the files of a Zarr. Thread-safe.

    The paths are ``<level>/zarr.json`` for metadata and ``<level>/c/<z>/<y>/<x>`` for chunks.

    Parameters
    ----------
    objects
        The objects of the volume.
    volume
        The volume; only these levels can be read.
    storage
        How each of the levels is stored.
    """

    def __init__(
        self, objects: LayerObjects, volume: Volume, storage: Sequence[LevelStorage]
    ) -> None:
        self.where = objects.where
        self._objects = objects
        self._volume = volume
        self._storage = tuple(storage)
        self._levels = {level.name: replace(volume, levels=(level,)) for level in volume.levels}
        self._chunks = {
            level.name: (ZarrChunks if stored.axes else LevelChunks)(
                objects, self._levels[level.name], stored
            )
            for level, stored in zip(volume.levels, storage, strict=True)
        }
        self._documents = {one.path.decode(): one.content for one in zarr_documents(volume)}

    def __reduce__(self) -> tuple[Any, ...]:
        return PrecomputedFiles, (self._objects, self._volume, self._storage)

    def document(self, path: str) -> bytes | None:
        """Return the metadata of the group or of a level; None for any other path."""
        return self._documents.get(path)

    def block(self, path: str) -> bytes:
        """Return the voxels of a chunk in its full size, verified; raises BlockUnavailableError.

        Beyond the end of the volume they are zeros, and without an object the fill value.
        """
        found = self._box(path)
        if found is None:
            raise BlockUnavailableError(path, self.where, "the volume has no such chunk")
        volume, box = found
        position, _ = containing_block(volume.levels[0], box)
        voxels = self._chunks[volume.levels[0].name].voxels(position, box)
        return _padded(voxels, box, volume)

    def copy(self, path: str, take: BytesCallback) -> None:
        """Call ``take`` with offset 0 and the voxels of a chunk, as :meth:`block` returns them."""
        take(0, memoryview(self.block(path)))

    def has(self, path: str) -> bool:
        """Return whether there are metadata or a chunk at a path, with or without an object."""
        return path in self._documents or self._box(path) is not None

    def entries(self, folder: str) -> Iterator[tuple[str, bool]]:
        """Yield the name of each entry of a folder, and whether it is a folder."""
        name, *parts = folder.split("/")
        if not folder:
            yield from ((name, True) for name in self._levels)
            yield METADATA, False
        elif name in self._levels and not parts:
            yield from (("c", True), (METADATA, False))
        elif name in self._levels and parts[0] == "c" and len(parts) < _AXES + 1:
            count = self._levels[name].levels[0].grid[_AXES - len(parts)]
            yield from ((str(one), len(parts) < _AXES) for one in range(count))

    def close(self) -> None:
        """Abort running requests."""
        self._objects.close()

    def _box(self, path: str) -> tuple[Volume, Box] | None:
        volume = self._levels.get(path.partition("/")[0])
        found = None if volume is None else block_box(volume, path)
        return None if volume is None or found is None else (volume, found[0])


def _padded(voxels: bytes | None, box: Box, volume: Volume) -> bytes:
    """Return a chunk in the full size, with zeros beyond the end of the volume."""
    level = volume.levels[0]
    if voxels is None:
        return bytes(volume.chunk_bytes(level))
    import numpy

    x, y, z = (stop - start for start, stop in box)
    if (x, y, z) == level.chunk:
        return voxels
    made = numpy.zeros(level.chunk[::-1], volume.dtype)
    made[:z, :y, :x] = numpy.frombuffer(voxels, volume.dtype).reshape(z, y, x)
    return made.tobytes()
