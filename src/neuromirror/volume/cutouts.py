"""Cut-outs of versions of the store, as arrays and as images."""

from __future__ import annotations

import math
import re
import struct
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from neuromirror.sources.volumes.grid import Level, Volume
from neuromirror.sources.volumes.urls import Box
from neuromirror.volume.description import LevelStorage, VolumeDescription
from neuromirror.volume.errors import (
    BlockUnavailableError,
    CutoutTooLargeError,
    ExportRefusedError,
    UnreadableVolumeError,
)
from neuromirror.volume.geometry import (
    Region,
    boxes_by_block,
    containing_block,
    format_box,
    sample_index,
    tiff_maker,
    validate_box,
)
from neuromirror.volume.precomputed_files import PrecomputedFiles

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neuromirror.volume.files import VersionFiles
    from neuromirror.volume.read_only_store import VolumeFiles

MAX_VOXEL_BYTES: Final = 64_000_000
"""Maximum bytes of voxels of one cut-out."""

MAX_READ_BYTES: Final = 1_000_000_000
"""Maximum bytes of blocks read for a cut-out: blocks are verified whole."""

_MAX_CONCURRENT: Final = 3


class Cutout(Struct, frozen=True):
    """A region to read, validated against the volume and the limits; from :func:`plan_cutout`.

    Attributes
    ----------
    region
        The box of voxels at a level.
    storage
        How the level is stored.
    sample
        The index along the time axis; None without one.
    blocks
        Number of blocks that must be read.
    read_bytes
        Size of these blocks in bytes.
    sparse
        Whether the blocks are objects of a bucket: one without an object has the fill value.
    """

    region: Region
    storage: LevelStorage
    sample: int | None
    blocks: int
    read_bytes: int
    sparse: bool


def plan_cutout(
    description: VolumeDescription,
    level: str,
    box: Box | None,
    time: int | None = None,
    *,
    max_bytes: int = MAX_VOXEL_BYTES,
    max_read_bytes: int = MAX_READ_BYTES,
) -> Cutout:
    """Validate a region of a volume before anything is read.

    Parameters
    ----------
    description
        The volume.
    level
        The name of the level.
    box
        Ranges along x, y, z in upstream's voxels of the level; None for the whole level.
    time
        Upstream's time sample, required if there is a time axis.
    max_bytes
        Maximum size of the voxels in bytes.
    max_read_bytes
        Maximum size of the blocks that must be read, in bytes.

    Returns
    -------
    Cutout
        The region, for :func:`read_voxels`.

    Raises
    ------
    UnknownLevelError
        The volume has no such level.
    UnreadableVolumeError
        The level has an unsupported encoding.
    OutsideVolumeError
        The box or the time is outside of the volume.
    CutoutTooLargeError
        A limit is exceeded.
    """
    found, stored = description.level(level)
    where = description.version
    if stored.unreadable_reason:
        raise UnreadableVolumeError(
            f"level {level} of {where} cannot be cut out: {stored.unreadable_reason}; "
            f"a reader of {description.format} may read it in a clone"
        )
    checked = validate_box(found.volume, box, where)
    sample = sample_index(found.volume, time, where)
    region = Region(found, checked, time)
    if region.bytes > max_bytes:
        raise CutoutTooLargeError(
            f"the box has {region.bytes:,} bytes of voxels, at most {max_bytes:,} are allowed;"
            " use a smaller box or a coarser level, or export a clone with 'neuromirror export'"
        )
    axes = zip(checked, found.level.start, found.level.chunk, strict=True)
    blocks = math.prod(
        -(-(stop - first) // size) - (start - first) // size for (start, stop), first, size in axes
    )
    read = blocks * found.volume.chunk_bytes(found.level)
    if read > max_read_bytes:
        raise CutoutTooLargeError(
            f"the box needs {blocks:,} whole blocks with {read:,} bytes in total, at most"
            f" {max_read_bytes:,} are allowed; use a smaller box or a coarser level, or export a"
            " clone with 'neuromirror export'"
        )
    return Cutout(region, stored, sample, blocks, read, description.sparse)


def read_voxels(files: VersionFiles, cutout: Cutout) -> NDArray[Any]:
    """Return the voxels of a region, axes z, y, x, little-endian, of verified blocks.

    Parameters
    ----------
    files
        The files of the version.
    cutout
        The region, from :func:`plan_cutout`.

    Returns
    -------
    NDArray[Any]
        The voxels, of shape (z, y, x).

    Raises
    ------
    BlockUnavailableError
        A block is unavailable or differs from the version, or the files were closed meanwhile.
    MissingExtraError
        A required package is not installed.
    """
    import numpy

    region, level = cutout.region, cutout.region.volume.level
    blocks: VolumeFiles = files
    if cutout.sparse:
        blocks = PrecomputedFiles(files, region.volume.volume, [cutout.storage])
    made = numpy.zeros(region.shape, _dtype(region.volume.volume))
    (x0, _), (y0, _), (z0, _) = region.box

    def put(box: Box) -> None:
        (xa, xb), (ya, yb), (za, zb) = box
        made[za - z0 : zb - z0, ya - y0 : yb - y0, xa - x0 : xb - x0] = _read_part(
            blocks, cutout, box
        )

    with ThreadPoolExecutor(_MAX_CONCURRENT, "neuromirror-cutout") as pool:
        try:
            list(pool.map(put, boxes_by_block(level, region.box)))
        except BaseException:
            # abort running requests
            pool.shutdown(wait=False, cancel_futures=True)
            files.close()
            raise
    return made


def _dtype(volume: Volume) -> Any:
    import numpy

    return numpy.dtype(volume.dtype).newbyteorder("<")


def _read_part(files: VolumeFiles, cutout: Cutout, box: Box) -> Any:
    import numpy

    volume, level = cutout.region.volume.volume, cutout.region.volume.level
    (x, y, z), whole = containing_block(level, box)
    sample = "" if cutout.sample is None else f"{cutout.sample}/"
    path = f"{level.name}/c/{sample}{z}/{y}/{x}"
    content = files.block(path)
    if len(content) != volume.chunk_bytes(level):
        expected_size = volume.chunk_bytes(level)
        raise BlockUnavailableError(
            path, files.where, f"it has {len(content)} bytes, not {expected_size}"
        )
    block = numpy.frombuffer(content, _dtype(volume)).reshape(level.chunk[::-1])
    slices = tuple(
        slice(start - first, stop - first)
        for (start, stop), (first, _) in zip(reversed(box), reversed(whole), strict=True)
    )
    return block[slices]


_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_GRAY, _RGB = 0, 2
_MIN_SIDE: Final = 256
_MAX_SIDE: Final = 768
_MAX_READ_BYTES: Final = 128_000_000
_MAX_BLOCKS: Final = 64
_LOW, _HIGH = 1.0, 99.0
_BAND: Final = 1 << 20
"""Bytes of pixels compressed at a time."""
_SPREAD: Final = 0x9E3779B97F4A7C15
"""2**64 divided by the golden ratio: successive labels get distant colours."""


class MiddlePlane(Struct, frozen=True):
    """The plane that represents a volume.

    Attributes
    ----------
    cutout
        The region: the plane of a level at one z, or a block in the plane.
    whole
        Whether the region is the whole plane, and not only the block in its middle.
    step
        The image shows every ``step``-th voxel of the region along x and y, to be small enough.
    """

    cutout: Cutout
    whole: bool
    step: int


def middle_plane(description: VolumeDescription) -> MiddlePlane:
    """Choose the plane that represents a volume in an image, at its middle z.

    The plane is that of the coarsest level with at least 256 voxels along x or y, or of the largest
    level if all are smaller. If it needs too many bytes, a coarser level is taken; if all do, only
    the block in the middle of the plane.

    Parameters
    ----------
    description
        The volume.

    Returns
    -------
    MiddlePlane
        The plane or block, which is not read yet.

    Raises
    ------
    UnreadableVolumeError
        No level is readable.
    CutoutTooLargeError
        The blocks of the level are too large.
    """
    pairs = zip(description.volume.levels, description.storage, strict=True)
    levels = sorted((one for one, stored in pairs if not stored.unreadable_reason), key=_side)
    if not levels:
        raise UnreadableVolumeError(description.storage[0].unreadable_reason)
    large = [one for one in levels if _side(one) >= _MIN_SIDE]
    best = large[0] if large else levels[-1]
    tried = [one for one in reversed(levels) if _side(one) <= _side(best)]
    time = None if description.volume.times is None else description.volume.times[0]
    for whole in (True, False):
        for level in tried:
            _, plane, block, _ = nested_boxes(level)
            box = plane if whole else block
            try:
                cutout = plan_cutout(
                    description, level.name, box, time, max_read_bytes=_MAX_READ_BYTES
                )
            except CutoutTooLargeError:
                continue
            if cutout.blocks <= _MAX_BLOCKS:
                _, height, width = cutout.region.shape
                return MiddlePlane(cutout, whole, -(-max(height, width) // _MAX_SIDE))
    raise CutoutTooLargeError("the blocks are too large for an image")


def _side(level: Level) -> int:
    return max(level.extent[:2])


def nested_boxes(level: Level) -> tuple[Box, Box, Box, Box]:
    """Return nested boxes around the middle of a level.

    Parameters
    ----------
    level
        The level.

    Returns
    -------
    tuple[Box, Box, Box, Box]
        The whole level, its middle plane, the part of that plane in the middle block, and one
        voxel.
    """
    at = [first + size // 2 for first, size in zip(level.start, level.extent, strict=True)]
    whole = list(zip(level.start, level.stop, strict=True))
    one = [(middle, middle + 1) for middle in at]
    voxel = one[0], one[1], one[2]
    _, block = containing_block(level, voxel)
    return (
        (whole[0], whole[1], whole[2]),
        (whole[0], whole[1], one[2]),
        (block[0], block[1], one[2]),
        voxel,
    )


def to_display(plane: NDArray[Any], *, labels: bool) -> tuple[NDArray[Any], str]:
    """Return a plane (y, x) as 8-bit gray or (y, x, 3) colours, and how it was converted.

    Each label has a colour, 0 is black. Other 8-bit values are unchanged; the contrast of larger
    types is stretched between the 1st and 99th percentile.

    Parameters
    ----------
    plane
        The voxels, of shape (y, x).
    labels
        Whether the voxels are labels and not intensities.

    Returns
    -------
    tuple[NDArray[Any], str]
        The pixels, and a description of the conversion.
    """
    import numpy

    if labels:
        return color_labels(plane), "one colour per label, 0 black"
    if plane.dtype.name == "uint8":
        return plane, "original brightness"
    finite = plane[numpy.isfinite(plane)]
    if not finite.size:
        return numpy.zeros(plane.shape, numpy.uint8), "no voxel has a finite value"
    low, high = (float(one) for one in numpy.percentile(finite, (_LOW, _HIGH)))
    spread = (numpy.nan_to_num(plane.astype(numpy.float64)) - low) / ((high - low) or 1.0)
    made = numpy.rint(numpy.clip(spread, 0.0, 1.0) * 255).astype(numpy.uint8)
    return made, f"contrast stretched from {low:,.6g} (black) to {high:,.6g} (white)"


def color_labels(plane: NDArray[Any]) -> NDArray[Any]:
    """Return labels as colours of shape (y, x, 3).

    Equal labels have equal colours; 0 is black, and no other label is dark.
    """
    import numpy

    ids = plane.astype(numpy.uint64)
    mixed = ids * numpy.uint64(_SPREAD)
    shifts = numpy.array([40, 48, 56], numpy.uint64)
    bright = ((mixed[..., None] >> shifts) & numpy.uint64(0x9F)) + numpy.uint64(0x60)
    return numpy.where(ids[..., None] == 0, 0, bright).astype(numpy.uint8)


def encode_png(
    pixels: NDArray[Any], convert: Callable[[NDArray[Any]], NDArray[Any]] | None = None
) -> Iterator[bytes]:
    """Yield a PNG in pieces: gray with 8 or 16 bits (y, x), or 8-bit colours (y, x, 3).

    Parameters
    ----------
    pixels
        The plane, of shape (y, x) or (y, x, 3).
    convert
        Converts rows of ``pixels`` to pixels of a PNG; None if they are such pixels.

    Yields
    ------
    bytes
        Bytes of the file.
    """
    import numpy

    height, width = pixels.shape[:2]
    first = pixels[:1] if convert is None else convert(pixels[:1])
    colour = _RGB if first.ndim == 3 else _GRAY
    depth = first.dtype.itemsize * 8
    yield _SIGNATURE
    yield _png_chunk(b"IHDR", struct.pack(">2I5B", width, height, depth, colour, 0, 0, 0))
    packing = zlib.compressobj(6)
    above = numpy.zeros((1, first.nbytes), numpy.uint8)
    band = max(1, _BAND // first.nbytes)
    for start in range(0, height, band):
        some = pixels[start : start + band]
        some = some if convert is None else convert(some)
        some = numpy.ascontiguousarray(some, some.dtype.newbyteorder(">"))
        rows = some.view(numpy.uint8).reshape(len(some), -1)
        # the filter type before each row: 2 (Up), the difference from the row above
        lines = numpy.full((len(rows), rows.shape[1] + 1), 2, numpy.uint8)
        lines[:, 1:] = rows - numpy.concatenate((above, rows[:-1]))
        above = rows[-1:]
        yield _png_chunk(b"IDAT", packing.compress(lines.data))
    yield _png_chunk(b"IDAT", packing.flush())
    yield _png_chunk(b"IEND", b"")


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


# --- regions as single files for viewing: a TIFF with one page per z-slice, or PNGs


_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._+=-]")
_MAX_NAME_LENGTH: Final = 180
_EXACT_DTYPES: Final = ("uint8", "uint16")
_OME_UNITS: Final = {
    "angstrom": "Å",
    "nanometer": "nm",
    "micrometer": "µm",
    "millimeter": "mm",
    "centimeter": "cm",
    "meter": "m",
}
_OME_TYPES: Final = ("int8", "int16", "int32", "uint8", "uint16", "uint32", "float32", "float64")
_NO_DATE: Final = (1980, 1, 1, 0, 0, 0)


class OutputFile(Struct, frozen=True):
    """A file of a region, to be written.

    Attributes
    ----------
    name
        The file name.
    media_type
        The media type, such as ``image/tiff``.
    write
        Writes voxels of shape (z, y, x) to a path.
    """

    name: str
    media_type: str
    write: Callable[[Path, NDArray[Any]], None]


def has_ome_type(dtype: str) -> bool:
    """Return whether OME-TIFF supports a data type, such as ``uint16``."""
    return dtype in _OME_TYPES


def tiff(region: Region) -> OutputFile:
    """Return one TIFF: an OME-TIFF if OME has the data type, else plain pages."""
    is_ome = has_ome_type(region.volume.volume.dtype)
    make = tiff_maker(region, region.shape, ome=_ome_metadata(region) if is_ome else None)

    def write(path: Path, voxels: NDArray[Any]) -> None:
        offset = make(path)
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(voxels.reshape(-1).view("B").data)

    name = f"{region.whole_stem}{'.ome' if is_ome else ''}.tif"
    return OutputFile(_safe_name(name), "image/tiff", write)


def _ome_metadata(region: Region) -> dict[str, Any]:
    volume, level, box = region.volume, region.volume.level.name, format_box(region.box)
    sample = "" if region.time is None else f"/{region.time}"
    region_id = f"{volume.source}@{volume.state}/{level}/{box}{sample}"
    metadata: dict[str, Any] = {
        "axes": "ZYX",
        "Creator": "neuromirror",
        "Name": f"{volume.name} level {level} {box}",
        "UUID": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, region_id)}",
    }
    unit = _OME_UNITS.get(volume.volume.unit)
    for axis, size in zip("XYZ", volume.level.voxel, strict=True):
        if unit is not None:
            metadata |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": unit}
    return metadata


def pngs(region: Region) -> OutputFile:
    """Return a PNG of one z-slice, or a zip of PNGs named like ndpull's TIFFs.

    8 and 16 bits are written unchanged; labels of other types are coloured. Raises
    ExportRefusedError for other data types.
    """
    volume = region.volume.volume
    if volume.dtype not in _EXACT_DTYPES and not volume.labels:
        raise ExportRefusedError(
            f"PNG does not support voxels of type {volume.dtype}, only 8 and 16 bits; use TIFF"
        )
    drawn = None if volume.dtype in _EXACT_DTYPES else color_labels
    z0, z1 = region.box[2]
    if z1 - z0 == 1:

        def write(path: Path, voxels: NDArray[Any]) -> None:
            with path.open("wb") as file:
                file.writelines(encode_png(voxels[0], drawn))

        return OutputFile(_safe_name(f"{region.stem}_z{z0}.png"), "image/png", write)
    digits = len(str(z1))

    def write_all(path: Path, voxels: NDArray[Any]) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
            for z, plane in enumerate(voxels, z0):
                name = _safe_name(f"{region.stem}_z{z:0{digits}d}.png")
                with file.open(zipfile.ZipInfo(name, _NO_DATE), "w") as one:
                    one.writelines(encode_png(plane, drawn))

    return OutputFile(_safe_name(f"{region.stem}_z{z0}-{z1}.zip"), "application/zip", write_all)


CUTOUT_FORMATS: Final[Mapping[str, Callable[[Region], OutputFile]]] = {"tiff": tiff, "png": pngs}
"""The formats of cut-outs, by name."""


def _safe_name(name: str) -> str:
    """Return a file name that is safe in headers and on all systems."""
    made = _UNSAFE.sub("_", name).lstrip(".")
    stem, dot, ending = made.rpartition(".")
    return f"{stem[:_MAX_NAME_LENGTH]}{dot}{ending}"
