"""The positions of a volume's voxels: in its Zarr metadata, and in the files of each format.

Read the positions of a volume's voxels from its Zarr metadata (OME-Zarr 0.5).

The inverse of :mod:`neuromirror.sources.volumes.grid`.

The positions of voxels in the files of each format.

Every format stores voxels uncompressed in C order, between a header and a trailer. A block can
therefore be written at its position without buffering, and equal voxels give equal bytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from neuromirror.model import Document
from neuromirror.model.validation import analysed_type
from neuromirror.sources.volumes.grid import Level, Volume, choose_chunk, zarr_documents
from neuromirror.sources.volumes.urls import ITEM_SIZES, Box, Triple, to_triple
from neuromirror.volume.errors import (
    MissingExtraError,
    NotAVolumeError,
    OutsideVolumeError,
    UnknownLevelError,
)

if TYPE_CHECKING:
    from zarr.core.metadata import ArrayV2Metadata, ArrayV3Metadata

    from neuromirror.volume.array import OpenVolume
    from neuromirror.volume.description import LevelDescription

METADATA = "zarr.json"

_SPACE = ["z", "y", "x"]
_AXES = re.compile(r"t?c?zyx")
OME_VERSIONS = ("0.4", "0.5")
_ROUNDING_TOLERANCE = 1e-6
"""Tolerance when lengths are converted to whole voxels."""
_MAX_TIMES = 1 << 20

Point = tuple[float, float, float]
"""Three lengths along x, y, z."""

_Count = Annotated[int, msgspec.Meta(ge=1, le=1 << 48)]
_Lengths = Annotated[list[float], msgspec.Meta(max_length=5)]


class _NamedObject(msgspec.Struct):
    name: str
    unit: str | None = None


class _CoordinateTransformation(msgspec.Struct):
    type: str
    scale: _Lengths = []
    translation: _Lengths = []


class _Dataset(msgspec.Struct):
    path: str
    coordinateTransformations: list[_CoordinateTransformation]


class _Multiscale(msgspec.Struct):
    axes: list[_NamedObject]
    datasets: list[_Dataset]
    name: str = ""
    version: str | None = None
    coordinateTransformations: list[_CoordinateTransformation] = []


class _Ome(msgspec.Struct, rename="kebab"):
    multiscales: Annotated[list[_Multiscale], msgspec.Meta(min_length=1)]
    image_label: Any = msgspec.UNSET
    version: str | None = None


class _Attributes(msgspec.Struct):
    ome: _Ome


class _Group(msgspec.Struct):
    attributes: _Attributes


class _Grid(msgspec.Struct):
    configuration: dict[Literal["chunk_shape"], list[_Count]]


class _Array(msgspec.Struct):
    shape: list[_Count]
    chunk_grid: _Grid
    codecs: list[_NamedObject]
    data_type: str


_Document = TypeVar("_Document", _Group, _Ome, _Array)


def read_volume(read: Callable[[str], bytes | None], level: str, where: str) -> Volume:
    """Return the description of one level of a volume, from its Zarr metadata.

    ``scheme``, ``host`` and ``path`` are empty, because the metadata lacks them.

    Parameters
    ----------
    read
        Returns the content of a metadata file by its path; None if it is missing.
    level
        The name of the level.
    where
        The name of the volume in error messages.

    Raises
    ------
    NotAVolumeError
        The metadata is missing or not that of a volume.
    UnknownLevelError
        The volume has no such level.
    """
    ome = _group(read(METADATA), where)
    multiscale = ome.multiscales[0]
    names = [one.path for one in multiscale.datasets]
    if level not in names:
        raise UnknownLevelError(f"{where} has no level {level}, only {', '.join(names)}")
    found = _decode(read(f"{level}/{METADATA}"), _Array, where)
    try:
        axes = "".join(axis.name for axis in multiscale.axes)
        if axes not in ("zyx", "tzyx") or [codec.name for codec in found.codecs] != ["bytes"]:
            raise ValueError("other axes, or encoded chunks")
        dataset = multiscale.datasets[names.index(level)]
        chunk, timed = found.chunk_grid.configuration["chunk_shape"], "t" in axes
        return _volume(ome, dataset, found.shape, chunk, found.data_type, timed=timed)
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise _not_a_volume_error(where) from error


def read_arrays(
    read: Callable[[str], bytes | None], where: str
) -> Iterator[tuple[str, Volume, ArrayV2Metadata | ArrayV3Metadata, dict[str, Any], str]]:
    """Yield folder, level, metadata, their document, and axes of each array of an OME-Zarr.

    The axes are x, y, z for the level, even if the array has others.

    Raises
    ------
    ValueError, NotAVolumeError
        The metadata have a form that is not known.
    """
    from zarr.core.metadata import ArrayV2Metadata, ArrayV3Metadata

    content = read(METADATA)
    ome = _decode(read(".zattrs"), _Ome, where) if content is None else _group(content, where)
    multiscale = ome.multiscales[0]
    axes, version = "".join(one.name for one in multiscale.axes), ome.version or multiscale.version
    if version not in OME_VERSIONS or not _AXES.fullmatch(axes):
        raise ValueError(f"OME-Zarr {version} with the axes {axes[:40]!r} is not supported")
    for dataset in multiscale.datasets:
        content = read(f"{dataset.path}/{METADATA}")
        kind = ArrayV2Metadata if content is None else ArrayV3Metadata
        content = content or read(f"{dataset.path}/.zarray")
        if content is None:
            raise ValueError(f"it lacks the array {dataset.path[:200]!r}")
        document = msgspec.json.decode(content, type=dict[str, Any])
        array = kind.from_dict(document.copy())
        dtype = array.dtype.to_native_dtype().name
        volume = _volume(ome, dataset, array.shape, array.chunks, dtype)
        yield dataset.path, volume, array, document, axes


def level_names(content: bytes | None, where: str) -> list[str]:
    """Return the names of a volume's levels from the metadata of its group.

    ``content`` is the ``zarr.json`` of the group, None if missing; ``where`` names the volume in
    messages. Raises :class:`NotAVolumeError` for any other content.
    """
    return [dataset.path for dataset in _group(content, where).multiscales[0].datasets]


def block_box(volume: Volume, path: str) -> tuple[Box, int | None] | None:
    """Return the box and the time sample that a chunk file (``0/c/0/3/1``) covers.

    The result is None for a path that is not a chunk of the volume's level.
    """
    level = volume.levels[0]
    name, _, rest = path.partition("/c/")
    index = [int(one) for one in rest.split("/") if one.isdecimal()]
    axes = 3 if volume.times is None else 4
    if name != level.name or len(index) != axes or rest != "/".join(map(str, index)):
        return None
    *times, z, y, x = index
    if any(at >= count for at, count in zip((x, y, z), level.grid, strict=True)):
        return None
    if volume.times is not None and times[0] >= len(volume.times):
        return None
    low = [
        first + at * size
        for first, at, size in zip(level.start, (x, y, z), level.chunk, strict=True)
    ]
    high = [min(at + size, end) for at, size, end in zip(low, level.chunk, level.stop, strict=True)]
    xs, ys, zs = zip(low, high, strict=True)
    return (xs, ys, zs), volume.times[times[0]] if volume.times else None


def _group(content: bytes | None, where: str) -> _Ome:
    return _decode(content, _Group, where).attributes.ome


def _decode(content: bytes | None, kind: type[_Document], where: str) -> _Document:
    try:
        return msgspec.json.decode(content or b"", type=analysed_type(kind))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _not_a_volume_error(where) from error


def _not_a_volume_error(where: str) -> NotAVolumeError:
    return NotAVolumeError(
        f"{where} has no volume that can be exported. Only an OME-Zarr 0.5 with the axes [t,] "
        "z, y, x and uncompressed chunks can be, as in the mirrors of BOSS and ndstore, or a "
        "volume in a bucket; open other files with another program"
    )


def _volume(
    ome: _Ome,
    dataset: _Dataset,
    shape: Sequence[int],
    chunk: Sequence[int],
    dtype: str,
    *,
    timed: bool = False,
) -> Volume:
    multiscale = ome.multiscales[0]
    axes = {axis.name: axis for axis in multiscale.axes}
    if not len(shape) == len(chunk) == len(axes) or len({axes[one].unit for one in _SPACE}) > 1:
        raise ValueError("another number of axes, or several units")
    if dtype not in ITEM_SIZES:
        raise ValueError(f"its data type is {dtype[:40]!r}")
    scale, move = [1.0] * len(axes), [0.0] * len(axes)
    steps = [*dataset.coordinateTransformations, *multiscale.coordinateTransformations]
    for step in steps:
        if step.type not in ("scale", "translation", "identity"):
            raise ValueError(f"it has a transformation {step.type[:40]!r}")
        factors, more = step.scale or [1.0] * len(axes), step.translation or [0.0] * len(axes)
        scale = [one * by for one, by in zip(scale, factors, strict=True)]
        move = [one * by + add for one, by, add in zip(move, factors, more, strict=True)]
    if "scale" not in [step.type for step in steps] or not 0 < min(scale) <= max(scale) < math.inf:
        raise ValueError("it has no valid voxel size")
    voxel = scale[-1], scale[-2], scale[-3]
    level, base = place_level(dataset.path, voxel, move[:-4:-1], shape[:-4:-1], chunk[:-4:-1])
    first_time = round(move[0] / scale[0]) if timed else 0
    if timed and shape[0] > _MAX_TIMES:
        raise ValueError("too many times")
    return Volume(
        scheme="",
        host="",
        path="",
        dtype=dtype,
        unit=axes["x"].unit or "",
        levels=(level,),
        times=tuple(range(first_time, first_time + shape[0])) if timed else None,
        time_step=scale[0] if timed else None,
        time_unit=axes["t"].unit if timed else None,
        labels=ome.image_label is not msgspec.UNSET,
        name=multiscale.name,
        base_voxel=base,
    )


def place_level(
    name: str, voxel: Point, move: Sequence[float], extent: Sequence[int], chunk: Sequence[int]
) -> tuple[Level, Point]:
    """Return a level whose first voxel has its center at ``move``, and the volume's base voxel.

    Everything is along x, y, z.
    """
    # the centre of a coarse voxel is up to half of it beyond that of the first fine voxel
    ratios = [at / size for at, size in zip(move, voxel, strict=True)]
    start = to_triple([math.floor(ratio + _ROUNDING_TOLERANCE) for ratio in ratios])
    beyond = [at - first * size for at, first, size in zip(move, start, voxel, strict=True)]
    x, y, z = (size - 2 * more for size, more in zip(voxel, beyond, strict=True))
    stop = to_triple([first + size for first, size in zip(start, extent, strict=True)])
    return Level(name, start, stop, voxel, to_triple(chunk)), (x, y, z)


# --- regions of a volume, in upstream's coordinates and in indices of the array


_BOX: Final = re.compile(r"\s*,\s*".join([r"(-?\d{1,15}):(-?\d{1,15})"] * 3))


def parse_box(text: str) -> Box:
    """Parse a box such as ``0:512,0:512,10:20``.

    Parameters
    ----------
    text
        Ranges along x, y, z in voxels; the end is exclusive.

    Returns
    -------
    Box
        The box.

    Raises
    ------
    OutsideVolumeError
        The text is not a box.
    """
    found = _BOX.fullmatch(text.strip())
    if found is None:
        raise OutsideVolumeError(f"'{text}' is not a box; write x0:x1,y0:y1,z0:z1 in whole voxels")
    x0, x1, y0, y1, z0, z1 = map(int, found.groups())
    return (x0, x1), (y0, y1), (z0, z1)


def format_box(box: Box) -> str:
    """Return a box as the text that :func:`parse_box` reads.

    Parameters
    ----------
    box
        Ranges along x, y, z in voxels.

    Returns
    -------
    str
        ``x0:x1,y0:y1,z0:z1``.
    """
    return ",".join(f"{start}:{stop}" for start, stop in box)


def validate_box(volume: Volume, box: Box | None, where: str) -> Box:
    """Return a box that is inside the volume's level; the whole level if no box is given.

    Parameters
    ----------
    volume
        The level.
    box
        Ranges along x, y, z in voxels, or None.
    where
        The name of the level in the error message.

    Returns
    -------
    Box
        The box, in voxels of the level.

    Raises
    ------
    OutsideVolumeError
        The box is empty or not inside the level.
    """
    level = volume.levels[0]
    (x, y, z), (x1, y1, z1) = level.start, level.stop
    whole = (x, x1), (y, y1), (z, z1)
    if box is None:
        return whole
    for name, (start, stop), (least, most) in zip("xyz", box, whole, strict=True):
        if start >= stop:
            raise OutsideVolumeError(
                f"the box {format_box(box)} is empty: {start}:{stop} along {name}"
            )
        if start < least or stop > most:
            raise OutsideVolumeError(
                f"the box {format_box(box)} is not completely inside {where}: level "
                f"{level.name} has"
                f" {format_box(whole)} (x, y, z), and {name} is {start}:{stop}"
            )
    return box


def sample_index(volume: Volume, time: int | None, where: str) -> int | None:
    """Return the index along the array's time axis of a time sample; None without a time axis.

    ``time`` is upstream's number of the sample; ``where`` names the volume in messages.

    Raises
    ------
    OutsideVolumeError
        The volume lacks the sample, or the time is missing or not applicable.
    """
    if volume.times is None:
        if time is not None:
            raise OutsideVolumeError(f"{where} has no time axis; leave the time out")
        return None
    if time is None or time not in volume.times:
        hint = "specify one of them" if time is None else f"{time} is not one of them"
        raise OutsideVolumeError(
            f"{where} has the time samples {volume.times[0]} to {volume.times[-1]}; {hint}"
        )
    return volume.times.index(time)


def boxes_by_block(level: Level, box: Box) -> Iterator[Box]:
    """Yield the parts of a box, each within one block."""
    xs, ys, zs = box
    for z in split_range(*zs, level.start[2], level.chunk[2]):
        for y in split_range(*ys, level.start[1], level.chunk[1]):
            for x in split_range(*xs, level.start[0], level.chunk[0]):
                yield x, y, z


def containing_block(level: Level, box: Box) -> tuple[Triple, Box]:
    """Return the position in the grid (x, y, z) and the box of the block that has a part."""
    at, ranges = [], []
    for (start, _), first, last, size in zip(
        box, level.start, level.stop, level.chunk, strict=True
    ):
        number = (start - first) // size
        low = first + number * size
        at.append(number)
        ranges.append((low, min(low + size, last)))
    return to_triple(at), (ranges[0], ranges[1], ranges[2])


def split_range(start: int, stop: int, origin: int, size: int) -> Iterator[tuple[int, int]]:
    """Split the range from ``start`` to ``stop`` at ``origin`` and every ``size`` from there."""
    while start < stop:
        end = min(stop, start + size - (start - origin) % size)
        yield start, end
        start = end


_BIGTIFF_BYTES: Final = (1 << 32) - (1 << 25)
"""Size of the voxels in bytes from which a BigTIFF (64-bit offsets) is written."""

_IN_CENTIMETRES: Final = {
    "angstrom": 1e-8,
    "nanometer": 1e-7,
    "micrometer": 1e-4,
    "millimeter": 0.1,
    "centimeter": 1.0,
    "meter": 100.0,
}


class TargetFile(Struct, frozen=True):
    """A file of an export to which voxels are written.

    Attributes
    ----------
    path
        The path in the folder of the export.
    box
        The region that the file covers: ranges along x, y, z in upstream's voxels.
    shape
        The shape of the array in the file (z, y, x, in voxels). It may exceed the box; the first
        voxel of the box is the first one of the array.
    make
        Creates the file at a path with everything but the voxels, and returns the offset of the
        first voxel in bytes.
    """

    path: str
    box: Box
    shape: Triple
    make: Callable[[Path], int]


class Layout(Struct, frozen=True):
    """The files of an export: those with voxels, and documents, which are written last."""

    targets: tuple[TargetFile, ...]
    documents: tuple[Document, ...] = ()


class Region(Struct, frozen=True):
    """The exported region: a box of a volume, at one time sample if there are several."""

    volume: OpenVolume | LevelDescription
    box: Box
    time: int | None

    @property
    def shape(self) -> Triple:
        """The number of voxels along z, y, x."""
        z, y, x = (stop - start for start, stop in reversed(self.box))
        return z, y, x

    @property
    def bytes(self) -> int:
        """The size of all voxels in bytes."""
        return self.shape[0] * self.plane_bytes

    @property
    def plane_bytes(self) -> int:
        """The size of the voxels of one z-slice in bytes."""
        return self.shape[1] * self.shape[2] * self.volume.volume.item_size

    @property
    def stem(self) -> str:
        """The common start of the file names, up to z, as in ndpull."""
        channel = self.volume.name.partition(":")[2] or self.volume.name
        (x0, x1), (y0, y1), _ = self.box
        sample = "" if self.time is None else f"_t{self.time}"
        return f"{channel.replace('/', '_')}_x{x0}-{x1}_y{y0}-{y1}{sample}"

    @property
    def whole_stem(self) -> str:
        """The file name of the whole region, without its ending."""
        return f"{self.stem}_z{self.box[2][0]}-{self.box[2][1]}"


def tiff(region: Region) -> Layout:
    """Return a layout with one TIFF per z-slice, named like those of ndpull."""
    xs, ys, (z0, z1) = region.box
    _, height, width = region.shape
    digits = len(str(z1))
    make = tiff_maker(region, (height, width))
    return Layout(
        tuple(
            TargetFile(
                f"{region.stem}_z{z:0{digits}d}.tif", (xs, ys, (z, z + 1)), (1, height, width), make
            )
            for z in range(z0, z1)
        )
    )


def npy(region: Region) -> Layout:
    """Return a layout with one array in NumPy's format, with the axes z, y, x."""
    from numpy.lib.format import write_array_header_1_0

    dtype = _little_endian(region)
    head = {"descr": dtype, "fortran_order": False, "shape": region.shape}

    def make(path: Path) -> int:
        with path.open("wb") as file:
            write_array_header_1_0(file, head)
            return file.tell()

    return Layout((TargetFile(f"{region.whole_stem}.npy", region.box, region.shape, make),))


def zarr(region: Region) -> Layout:
    """Return the layout of an OME-Zarr with one level, in chunks of the size of the volume."""
    found = region.volume.volume
    extent = region.shape[2], region.shape[1], region.shape[0]
    chunk = choose_chunk(region.volume.level.chunk, extent, found.item_size)
    (x0, x1), (y0, y1), (z0, z1) = region.box
    level = replace(region.volume.level, start=(x0, y0, z0), stop=(x1, y1, z1), chunk=chunk)
    made = replace(found, levels=(level,), times=None, time_step=None, time_unit=None)
    folder = f"{region.whole_stem}.ome.zarr"
    shape = chunk[2], chunk[1], chunk[0]
    size = math.prod(shape) * found.item_size

    def make(path: Path) -> int:
        with path.open("wb") as file:
            file.truncate(size)
        return 0

    targets = [
        TargetFile(f"{folder}/{level.name}/c/{z}/{y}/{x}", (xs, ys, zs), shape, make)
        for z, zs in enumerate(split_range(z0, z1, z0, chunk[2]))
        for y, ys in enumerate(split_range(y0, y1, y0, chunk[1]))
        for x, xs in enumerate(split_range(x0, x1, x0, chunk[0]))
    ]
    described = [
        Document(f"{folder}/".encode() + one.path, one.content) for one in zarr_documents(made)
    ]
    # the group is written last: arrays that it does not list are not opened
    return Layout(tuple(targets), tuple(reversed(described)))


LAYOUTS: Final[Mapping[str, Callable[[Region], Layout]]] = {"tiff": tiff, "zarr": zarr, "npy": npy}
"""The formats by name."""


def tiff_maker(
    region: Region, shape: tuple[int, ...], ome: dict[str, Any] | None = None
) -> Callable[[Path], int]:
    """Return a function that writes a TIFF without its voxels, dates and program names."""
    try:
        from tifffile import TiffWriter
    except ImportError as error:
        raise MissingExtraError(error) from error
    dtype = _little_endian(region)
    size = math.prod(shape) * region.volume.volume.item_size
    options: dict[str, Any] = {}
    unit = _IN_CENTIMETRES.get(region.volume.volume.unit)
    if unit is not None:
        x, y, _ = region.volume.level.voxel
        options = {"resolution": (1 / (x * unit), 1 / (y * unit)), "resolutionunit": "CENTIMETER"}

    def make(path: Path) -> int:
        with TiffWriter(
            path, bigtiff=size >= _BIGTIFF_BYTES, byteorder="<", ome=ome is not None
        ) as file:
            offset_and_size = file.write(
                None,
                shape=shape,
                dtype=dtype,
                photometric="minisblack",
                software=False,
                metadata=ome,
                returnoffset=True,
                **options,
            )
        assert offset_and_size is not None
        return offset_and_size[0]

    return make


def _little_endian(region: Region) -> str:
    import numpy

    return numpy.dtype(region.volume.volume.dtype).newbyteorder("<").str


def targets_in_range(targets: tuple[TargetFile, ...], zs: tuple[int, int]) -> Iterator[TargetFile]:
    """Yield the files of an export that cover a part of a range along z."""
    for target in targets:
        start, stop = target.box[2]
        if start < zs[1] and stop > zs[0]:
            yield target
