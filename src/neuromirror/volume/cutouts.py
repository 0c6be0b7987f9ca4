"""Cut regions out of a version of the store, in memory and within limits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from neuromirror.sources.volumes.grid import Level, Volume
from neuromirror.sources.volumes.urls import Box
from neuromirror.volume.description import LevelStorage, VolumeDescription
from neuromirror.volume.errors import (
    BlockUnavailableError,
    CutoutTooLargeError,
    UnreadableVolumeError,
)
from neuromirror.volume.geometry import boxes_by_block, sample_index, validate_box
from neuromirror.volume.layouts import Region
from neuromirror.volume.precomputed_files import LevelChunks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neuromirror.volume.version_files import VersionFiles

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
        Whether a block without a file is all zeros.
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
            "CloudVolume reads it in a clone"
        )
    checked = validate_box(found.volume, box, where)
    sample = sample_index(found.volume, time, where)
    region = Region(found, checked, time)
    if region.bytes > max_bytes:
        raise CutoutTooLargeError(
            f"the box has {region.bytes:,} bytes of voxels, at most {max_bytes:,} are allowed;"
            " use a smaller box or a coarser level, or export a clone with 'neuromirror export'"
        )
    grids = [_count(*span, first, size) for span, first, size in _axes(found.level, checked)]
    blocks = math.prod(grids)
    read = blocks * found.volume.chunk_bytes(found.level)
    if read > max_read_bytes:
        raise CutoutTooLargeError(
            f"the box needs {blocks:,} whole blocks with {read:,} bytes in total, at most"
            f" {max_read_bytes:,} are allowed; use a smaller box or a coarser level, or export a"
            " clone with 'neuromirror export'"
        )
    return Cutout(region, stored, sample, blocks, read, description.sparse)


def _axes(level: Level, box: Box) -> Iterator[tuple[tuple[int, int], int, int]]:
    yield from zip(box, level.start, level.chunk, strict=True)


def _count(start: int, stop: int, origin: int, size: int) -> int:
    return -(-(stop - origin) // size) - (start - origin) // size


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
    files.volume = region.volume.volume
    chunks = LevelChunks(files, region.volume.volume, cutout.storage)
    made = numpy.zeros(region.shape, _dtype(region.volume.volume))
    (x0, _), (y0, _), (z0, _) = region.box

    def put(box: Box) -> None:
        (xa, xb), (ya, yb), (za, zb) = box
        found = (
            _zarr_block(files, cutout, box) if not cutout.sparse else _chunk(chunks, cutout, box)
        )
        if found is not None:
            made[za - z0 : zb - z0, ya - y0 : yb - y0, xa - x0 : xb - x0] = found

    with ThreadPoolExecutor(_MAX_CONCURRENT, "neuromirror-cutout") as pool:
        waiting = [pool.submit(put, box) for box in boxes_by_block(level, region.box)]
        try:
            for one in waiting:
                one.result()
        except BaseException:
            # abort running requests
            pool.shutdown(wait=False, cancel_futures=True)
            files.close()
            raise
    return made


def _dtype(volume: Volume) -> Any:
    import numpy

    return numpy.dtype(volume.dtype).newbyteorder("<")


def _containing_block(level: Level, box: Box) -> tuple[tuple[int, int, int], Box]:
    """Return the position of a part's block in the grid (x, y, z), and the block's box."""
    at, ranges = [], []
    for (start, _), first, last, size in zip(
        box, level.start, level.stop, level.chunk, strict=True
    ):
        number = (start - first) // size
        low = first + number * size
        at.append(number)
        ranges.append((low, min(low + size, last)))
    return (at[0], at[1], at[2]), (ranges[0], ranges[1], ranges[2])


def _zarr_block(files: VersionFiles, cutout: Cutout, box: Box) -> Any:
    volume, level = cutout.region.volume.volume, cutout.region.volume.level
    (x, y, z), whole = _containing_block(level, box)
    sample = "" if cutout.sample is None else f"{cutout.sample}/"
    path = f"{cutout.storage.folder}/c/{sample}{z}/{y}/{x}"
    content = files.block(path)
    if len(content) != volume.chunk_bytes(level):
        expected_size = volume.chunk_bytes(level)
        raise BlockUnavailableError(
            path, files.where, f"it has {len(content)} bytes, not {expected_size}"
        )
    return _block_slice(content, _dtype(volume), level.chunk, whole, box)


def _chunk(chunks: LevelChunks, cutout: Cutout, box: Box) -> Any:
    """Return a part of a precomputed chunk; None if it has no object because it is all zeros."""
    volume, level = cutout.region.volume.volume, cutout.region.volume.level
    position, whole = _containing_block(level, box)
    shape = whole[0][1] - whole[0][0], whole[1][1] - whole[1][0], whole[2][1] - whole[2][0]
    found = chunks.voxels(position, whole)
    return None if found is None else _block_slice(found, _dtype(volume), shape, whole, box)


def _block_slice(
    content: Any, dtype: Any, shape: tuple[int, int, int], whole: Box, box: Box
) -> Any:
    """Return the voxels of ``box`` from a block with the sides ``shape`` (x, y, z)."""
    import numpy

    block = numpy.frombuffer(content, dtype).reshape(shape[::-1])
    slices = tuple(
        slice(start - first, stop - first)
        for (start, stop), (first, _) in zip(reversed(box), reversed(whole), strict=True)
    )
    return block[slices]
