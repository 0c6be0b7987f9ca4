"""A volume's levels, their division into blocks, and their OME-Zarr metadata.

Axes are x, y, z in upstream's coordinates, and t, z, y, x in an array and in the path of a chunk.
Coordinates are whole voxels of the respective level; ranges are half-open.

The OME-Zarr metadata of a volume, which make its chunk files an array.

OME-Zarr 0.5 (https://ngff.openmicroscopy.org/0.5/) on Zarr 3 with only the ``bytes`` codec: a chunk
file contains nothing but its voxels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec
from msgspec import Struct

from neuromirror.model import Document
from neuromirror.sources.volumes.urls import (
    ITEM_SIZES,
    LARGEST_FILE,
    BlockUrl,
    Box,
    Triple,
    dtype_parameter,
    is_secure,
    query_string,
    scheme_parameter,
    url_base,
)

REQUEST_LIMIT: Final = LARGEST_FILE
"""Maximum bytes of voxels per request; BOSS allows 520 MiB."""

NO_TIMES: Final = (None,)


class Level(Struct, frozen=True):
    """One resolution of a volume. All triples are along x, y, z.

    Attributes
    ----------
    name
        Upstream's number of the level, and the folder in the Zarr.
    start, stop
        The range of voxels in upstream's coordinates; the array's first voxel is ``start``.
    voxel
        The size of a voxel in the volume's unit.
    chunk
        The shape of a chunk in voxels.
    """

    name: str
    start: Triple
    stop: Triple
    voxel: tuple[float, float, float]
    chunk: Triple

    @property
    def extent(self) -> Triple:
        """The number of voxels along x, y and z."""
        (x0, y0, z0), (x1, y1, z1) = self.start, self.stop
        return x1 - x0, y1 - y0, z1 - z0

    @property
    def grid(self) -> Triple:
        """The number of chunks along x, y and z."""
        x, y, z = (-(-size // of) for size, of in zip(self.extent, self.chunk, strict=True))
        return x, y, z


class Volume(Struct, frozen=True):
    """The description of a channel, from which its Zarr metadata and blocks are derived.

    Attributes
    ----------
    scheme
        ``boss`` or ``ndstore``.
    host
        The host, with its port if there is one.
    path
        The channel's percent-encoded path on the host (``collection/experiment/channel``,
        ``nd/ca/token/channel``), without slashes at its ends.
    dtype
        Numpy's name of the type of a voxel.
    unit
        NGFF's name of the unit of length.
    levels
        The levels in order of their numbers.
    times
        Upstream's consecutive time samples; None without a time axis.
    time_step, time_unit
        The time between two samples, in NGFF's unit.
    labels
        Whether voxels are ids of objects.
    name
        The name of the image.
    base_voxel
        The size of a voxel at upstream's resolution 0; None if that is the first level's.
    secure
        Whether requests use HTTPS; None for the host's default (:func:`is_secure`).
    """

    scheme: str
    host: str
    path: str
    dtype: str
    unit: str
    levels: tuple[Level, ...]
    times: tuple[int, ...] | None = None
    time_step: float | None = None
    time_unit: str | None = None
    labels: bool = False
    name: str = ""
    base_voxel: tuple[float, float, float] | None = None
    secure: bool | None = None

    @property
    def item_size(self) -> int:
        """The size of a voxel in bytes."""
        return ITEM_SIZES[self.dtype]

    @property
    def files(self) -> int:
        """The number of chunk files of all levels and times."""
        times = 1 if self.times is None else len(self.times)
        return times * sum(math.prod(level.grid) for level in self.levels)

    @property
    def bytes(self) -> int:
        """The total bytes of all chunk files."""
        times = 1 if self.times is None else len(self.times)
        return times * sum(math.prod(level.grid) * self.chunk_bytes(level) for level in self.levels)

    def chunk_bytes(self, level: Level) -> int:
        """Return the bytes of each chunk file of a level.

        Parameters
        ----------
        level
            A level of the volume.

        Returns
        -------
        int
            The size in bytes.
        """
        return math.prod(level.chunk) * self.item_size

    def level(self, name: str) -> Level:
        """Return the level with this name.

        Parameters
        ----------
        name
            The name of the level.

        Returns
        -------
        Level
            The level.

        Raises
        ------
        KeyError
            The volume has no such level.
        """
        for level in self.levels:
            if level.name == name:
                return level
        raise KeyError(name)


class Block(msgspec.Struct, frozen=True, gc=False):
    """One chunk of a volume.

    Attributes
    ----------
    level
        The block's level.
    index
        The block's position in the grid along t, z, y, x; t is 0 without a time axis.
    box
        The range of the block's voxels that exist upstream.
    time
        Upstream's time sample; None without a time axis.
    path
        The path of the chunk file (``0/c/0/0/0``).
    size
        The bytes of the chunk file, including padding.
    url
        As in :mod:`neuromirror.sources.volumes.urls`.
    """

    level: Level
    index: tuple[int, int, int, int]
    box: Box
    time: int | None
    path: bytes
    size: int
    url: str


def choose_chunk(
    requested: Triple, extent: Triple, item_size: int, limit: int = REQUEST_LIMIT
) -> Triple:
    """Return a chunk's shape along x, y, z: as requested, but within the extent and one request.

    A larger chunk is halved along its longest axis (of equal ones, the first of x, y, z) until it
    fits.

    Parameters
    ----------
    requested
        The requested shape in voxels.
    extent
        The shape of the level in voxels.
    item_size
        Bytes per voxel.
    limit
        Maximum bytes per request.

    Returns
    -------
    Triple
        The shape in voxels.

    Raises
    ------
    ValueError
        A voxel is larger than ``limit``.
    """
    chunk = [min(pair) for pair in zip(requested, extent, strict=True)]
    while math.prod(chunk) * item_size > limit:
        longest = chunk.index(max(chunk))
        if chunk[longest] == 1:
            raise ValueError(f"a request of {limit} bytes is smaller than a voxel of {item_size}")
        chunk[longest] = -(-chunk[longest] // 2)
    x, y, z = chunk
    return x, y, z


def blocks(volume: Volume) -> Iterator[Block]:
    """Yield all blocks: level by level, and within a level along t, z, y, x.

    Parameters
    ----------
    volume
        The volume.

    Yields
    ------
    Block
        A block.
    """
    for level in volume.levels:
        yield from level_blocks(volume, level)


def level_blocks(volume: Volume, level: Level) -> Iterator[Block]:
    """Yield the blocks of one level along t, z, y, x.

    Parameters
    ----------
    volume
        The volume.
    level
        A level of the volume.

    Yields
    ------
    Block
        A block.
    """
    cut = _LevelBlocks(volume, level)
    xs, ys, zs = (range(count) for count in level.grid)
    for t in range(1 if volume.times is None else len(volume.times)):
        for z in zs:
            for y in ys:
                for x in xs:
                    yield cut.block(t, z, y, x)


class _LevelBlocks:
    """Creates the blocks of one level, and computes their common parts once."""

    def __init__(self, volume: Volume, level: Level) -> None:
        self._level = level
        self._times = NO_TIMES if volume.times is None else volume.times
        self._size = volume.chunk_bytes(level)
        axes = zip(level.start, level.stop, level.chunk, level.grid, strict=True)
        self._x, self._y, self._z = (
            [(at, min(at + chunk, stop)) for at in range(start, stop, chunk)]
            for start, stop, chunk, _ in axes
        )
        self._base = url_base(volume.scheme, volume.host, volume.path, level.name)
        self._folder = f"{level.name}/c/"
        secure = is_secure(volume.host) if volume.secure is None else volume.secure
        like = BlockUrl(
            *(volume.scheme, volume.host, volume.path, level.name),
            *((self._x[0], self._y[0], self._z[0]), level.chunk),
            secure=secure,
        )
        dtype, scheme = dtype_parameter(volume.dtype), scheme_parameter(like)
        self._whole = query_string(None, dtype, scheme)
        self._padded = query_string(level.chunk, dtype, scheme)

    def block(self, t: int, z: int, y: int, x: int) -> Block:
        xs, ys, zs = self._x[x], self._y[y], self._z[z]
        time = self._times[t]
        wide, high, deep = self._level.chunk
        whole = xs[1] - xs[0] == wide and ys[1] - ys[0] == high and zs[1] - zs[0] == deep
        query_text = self._whole if whole else self._padded
        range_path = f"{xs[0]}:{xs[1]}/{ys[0]}:{ys[1]}/{zs[0]}:{zs[1]}"
        if time is None:
            path, sample = f"{self._folder}{z}/{y}/{x}", ""
        else:
            path, sample = f"{self._folder}{t}/{z}/{y}/{x}", f"/{time}"
        return Block(
            self._level,
            (t, z, y, x),
            (xs, ys, zs),
            time,
            path.encode(),
            self._size,
            f"{self._base}{range_path}{sample}{query_text}",
        )


def blocks_by_number(volume: Volume, numbers: Iterable[int]) -> Iterator[tuple[int, Block]]:
    """Yield blocks by number, where block 0 is the first of :func:`blocks`.

    The numbers must be ascending.
    """
    times = 1 if volume.times is None else len(volume.times)
    before = 0
    levels = iter(volume.levels)
    cut, count = None, 0
    for number in numbers:
        while cut is None or number >= before + count:
            before += count
            level = next(levels)
            cut, count = _LevelBlocks(volume, level), times * math.prod(level.grid)
            wide, high, deep = level.grid
        rest, x = divmod(number - before, wide)
        rest, y = divmod(rest, high)
        t, z = divmod(rest, deep)
        yield number, cut.block(t, z, y, x)


VERSION: Final = "0.5"
_METADATA: Final = "zarr.json"


def zarr_documents(volume: Volume) -> list[Document]:
    """Return ``zarr.json`` of the group and of each level; equal volumes give equal bytes.

    Points have the same physical coordinates as upstream: the center of voxel ``start`` of level 0
    is at ``start`` times the size of a voxel, and the center of a voxel of a coarser level is in
    the middle of the voxels that it covers.

    Parameters
    ----------
    volume
        The planned volume.

    Returns
    -------
    list[Document]
        The documents, with paths below the top of the dataset.

    Notes
    -----
    OME-Zarr 0.5 (NGFF) in Zarr format 3.
    """
    made = [_document(_METADATA, _group(volume))]
    made += [_document(f"{one.name}/{_METADATA}", _array(volume, one)) for one in volume.levels]
    return made


def _document(path: str, content: dict[str, Any]) -> Document:
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return Document(path.encode(), f"{text}\n".encode())


def _group(volume: Volume) -> dict[str, Any]:
    axes: list[dict[str, str]] = []
    if volume.times is not None:
        axes.append({"name": "t", "type": "time"})
        if volume.time_unit is not None:
            axes[0]["unit"] = volume.time_unit
    unit = {"unit": volume.unit} if volume.unit else {}
    axes += [{"name": name, "type": "space", **unit} for name in "zyx"]
    multiscale: dict[str, Any] = {
        "axes": axes,
        "datasets": [
            {"path": level.name, "coordinateTransformations": _transformations(volume, level)}
            for level in volume.levels
        ],
    }
    if volume.name:
        multiscale["name"] = volume.name
    ome: dict[str, Any] = {"version": VERSION, "multiscales": [multiscale]}
    if volume.labels:
        ome["image-label"] = {}
    return {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}}


def _transformations(volume: Volume, level: Level) -> list[dict[str, Any]]:
    """Return the transformations from array indices of a level to space and time."""
    base = volume.base_voxel or volume.levels[0].voxel
    scale = [float(size) for size in level.voxel]
    move = [
        start * size + (size - first) / 2
        for start, size, first in zip(level.start, level.voxel, base, strict=True)
    ]
    scale.reverse()
    move.reverse()
    if volume.times is not None:
        step = 1.0 if volume.time_step is None else float(volume.time_step)
        scale.insert(0, step)
        move.insert(0, volume.times[0] * step)
    return [{"type": "scale", "scale": scale}, {"type": "translation", "translation": move}]


def _array(volume: Volume, level: Level) -> dict[str, Any]:
    times = [] if volume.times is None else [len(volume.times)]
    bytes_codec: dict[str, Any] = {"name": "bytes"}
    if ITEM_SIZES[volume.dtype] > 1:
        bytes_codec["configuration"] = {"endian": "little"}
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [*times, *reversed(level.extent)],
        "data_type": volume.dtype,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [*(1 for _ in times), *reversed(level.chunk)]},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "codecs": [bytes_codec],
        "fill_value": 0.0 if volume.dtype.startswith("float") else 0,
        "attributes": {},
        "dimension_names": [*("t" for _ in times), "z", "y", "x"],
    }
