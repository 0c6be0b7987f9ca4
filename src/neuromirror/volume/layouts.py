"""The positions of voxels in the files of each format.

Every format stores voxels uncompressed in C order, between a header and a trailer. A block can
therefore be written at its position without buffering, and equal voxels give equal bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct
from msgspec.structs import replace

from neuromirror.model import Document
from neuromirror.sources.volumes.grid import choose_chunk
from neuromirror.sources.volumes.ngff import zarr_documents
from neuromirror.sources.volumes.urls import Box, Triple
from neuromirror.volume.errors import MissingExtraError
from neuromirror.volume.geometry import split_range

if TYPE_CHECKING:
    from neuromirror.volume.array import OpenVolume
    from neuromirror.volume.description import LevelDescription

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


LAYOUTS: Final[Mapping[str, Callable[[Region], Layout]]] = {
    "tiff": tiff,
    "zarr": zarr,
    "npy": npy,
}
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
