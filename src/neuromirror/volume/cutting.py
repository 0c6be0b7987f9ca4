"""Regions cut out of a version of the store at once, in memory, with bounds on all of it."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from neuromirror.sources.volumes import Box, Level, Volume
from neuromirror.volume.described import DescribedVolume, Stored
from neuromirror.volume.errors import BlockMissing, NotReadable, TooMuch
from neuromirror.volume.layouts import Region
from neuromirror.volume.regions import checked_box, cut, sample_index

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neuromirror.volume.version_files import VersionFiles

MOST_VOXELS: Final = 64_000_000
"""Bytes of voxels of one cut-out."""

MOST_READ: Final = 1_000_000_000
"""Bytes of the blocks that a cut-out takes voxels from: only whole ones can be checked."""

_AT_ONCE: Final = 3
_SLACK: Final = 1 << 16
"""Bytes by which an encoded chunk may be larger than its voxels."""

_ENDINGS: Final = ("", ".br", ".gz")
_BROTLI: Final = "chunks stored as brotli need brotli: pip install 'neuromirror[volumes]'"


@dataclass(frozen=True, slots=True)
class Cutout:
    """A region that may be cut out: checked against the volume and the bounds.

    ``sample`` is its place along the time axis, None where there is none; ``blocks`` are read for
    it, ``read`` bytes of them.
    """

    region: Region
    stored: Stored
    sample: int | None
    blocks: int
    read: int
    sparse: bool


def cutout(
    described: DescribedVolume,
    level: str,
    box: Box | None,
    time: int | None = None,
    *,
    most: int = MOST_VOXELS,
    most_read: int = MOST_READ,
) -> Cutout:
    """A region of a volume, if it may be cut out; ``box`` None is all of the level.

    Raises NoSuchLevel, NotReadable, OutsideVolume and TooMuch.
    """
    found, stored = described.at(level)
    where = described.version
    if stored.unread:
        raise NotReadable(
            f"level {level} of {where} cannot be cut out here: {stored.unread}; in a clone,"
            " CloudVolume reads it"
        )
    checked = checked_box(found.volume, box, where)
    sample = sample_index(found.volume, time, where)
    region = Region(found, checked, time)
    if region.bytes > most:
        raise TooMuch(
            f"the box has {region.bytes:,} bytes of voxels, and at most {most:,} are given at once;"
            " ask for a smaller box, or a coarser level, or use 'neuromirror export'"
        )
    grids = [_count(*span, first, size) for span, first, size in _axes(found.level, checked)]
    blocks = math.prod(grids)
    read = blocks * found.volume.chunk_bytes(found.level)
    if read > most_read:
        raise TooMuch(
            f"the box lies in {blocks:,} blocks of together {read:,} bytes, which must be read"
            f" whole to be checked, and at most {most_read:,} are read at once; ask for a smaller"
            " box, or a coarser level, or use 'neuromirror export'"
        )
    return Cutout(region, stored, sample, blocks, read, described.sparse)


def _axes(level: Level, box: Box) -> Iterator[tuple[tuple[int, int], int, int]]:
    yield from zip(box, level.start, level.chunk, strict=True)


def _count(start: int, stop: int, origin: int, size: int) -> int:
    return -(-(stop - origin) // size) - (start - origin) // size


def voxels(files: VersionFiles, asked: Cutout) -> NDArray[Any]:
    """The voxels of a region, axes z, y, x, little-endian; each block is had whole, and checked.

    A few blocks are had at a time. Raises BlockMissing, for a volume whose files were closed
    meanwhile too, and ExtraMissing without a package that this takes.
    """
    import numpy

    region, level = asked.region, asked.region.volume.level
    files.volume = region.volume.volume
    made = numpy.zeros(region.shape, _dtype(region.volume.volume))
    (x0, _), (y0, _), (z0, _) = region.box

    def put(box: Box) -> None:
        (xa, xb), (ya, yb), (za, zb) = box
        found = _zarr_block(files, asked, box) if not asked.sparse else _chunk(files, asked, box)
        if found is not None:
            made[za - z0 : zb - z0, ya - y0 : yb - y0, xa - x0 : xb - x0] = found

    with ThreadPoolExecutor(_AT_ONCE, "neuromirror-cutout") as pool:
        waiting = [pool.submit(put, box) for box in _parts(level, region.box)]
        try:
            for one in waiting:
                one.result()
        except BaseException:
            # what is under way need not come to its end
            pool.shutdown(wait=False, cancel_futures=True)
            files.close()
            raise
    return made


def _dtype(volume: Volume) -> Any:
    import numpy

    return numpy.dtype(volume.dtype).newbyteorder("<")


def _parts(level: Level, box: Box) -> Iterator[Box]:
    """Yields the parts of a box, each in one block."""
    xs, ys, zs = box
    for z in cut(*zs, level.start[2], level.chunk[2]):
        for y in cut(*ys, level.start[1], level.chunk[1]):
            for x in cut(*xs, level.start[0], level.chunk[0]):
                yield x, y, z


def _block_of(level: Level, box: Box) -> tuple[tuple[int, int, int], Box]:
    """The block that a part lies in: its place in the grid (x, y, z), and its own box."""
    at, ranges = [], []
    for (start, _), first, last, size in zip(
        box, level.start, level.stop, level.chunk, strict=True
    ):
        number = (start - first) // size
        low = first + number * size
        at.append(number)
        ranges.append((low, min(low + size, last)))
    return (at[0], at[1], at[2]), (ranges[0], ranges[1], ranges[2])


def _zarr_block(files: VersionFiles, asked: Cutout, box: Box) -> Any:
    volume, level = asked.region.volume.volume, asked.region.volume.level
    (x, y, z), whole = _block_of(level, box)
    sample = "" if asked.sample is None else f"{asked.sample}/"
    path = f"{asked.stored.folder}/c/{sample}{z}/{y}/{x}"
    content = files.block(path)
    if len(content) != volume.chunk_bytes(level):
        wanted = volume.chunk_bytes(level)
        raise BlockMissing(path, files.where, f"it has {len(content)} bytes, not {wanted}")
    return _part(content, _dtype(volume), level.chunk, whole, box)


def _chunk(files: VersionFiles, asked: Cutout, box: Box) -> Any:
    """A part of a precomputed chunk; None where it is all zeros and has no object."""
    volume, level = asked.region.volume.volume, asked.region.volume.level
    _, whole = _block_of(level, box)
    shape = whole[0][1] - whole[0][0], whole[1][1] - whole[1][0], whole[2][1] - whole[2][0]
    size = math.prod(shape) * volume.item_size
    stem = f"{asked.stored.folder}/" + "_".join(f"{start}-{stop}" for start, stop in whole)
    for ending in _ENDINGS:
        content = files.object(stem + ending, size + _SLACK)
        if content is None:
            continue
        try:
            decoded = _decoded(bytes(content), ending, size)
        except ImportError as error:
            raise NotReadable(_BROTLI) from error
        if len(decoded) != size:
            why = f"it does not hold the {size} bytes of its voxels"
            raise BlockMissing(stem + ending, files.where, why)
        return _part(decoded, _dtype(volume), shape, whole, box)
    return None


def _part(content: Any, dtype: Any, shape: tuple[int, int, int], whole: Box, box: Box) -> Any:
    """The voxels of ``box`` from a block's, whose sides are ``shape`` (x, y, z)."""
    import numpy

    block = numpy.frombuffer(content, dtype).reshape(shape[::-1])
    places = tuple(
        slice(start - first, stop - first)
        for (start, stop), (first, _) in zip(reversed(box), reversed(whole), strict=True)
    )
    return block[places]


def _decoded(content: bytes, ending: str, size: int) -> bytes:
    """The voxels of a stored chunk; never more than a byte too many, empty for damaged ones."""
    if ending == ".gz":
        try:
            return zlib.decompressobj(wbits=31).decompress(content, size + 1)
        except zlib.error:
            return b""
    if ending == ".br":
        import brotli  # type: ignore[import-not-found,import-untyped,unused-ignore]

        try:
            made: bytes = brotli.Decompressor().process(content, output_buffer_limit=size + 1)
        except brotli.error:
            return b""
        return made
    return content
