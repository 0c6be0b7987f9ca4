"""Planning of a volume: the levels, box and chunks that a mirror takes."""

from __future__ import annotations

import math

from msgspec.structs import replace

from neuromirror.model import ConfigurationError
from neuromirror.sources.protocol import Estimate
from neuromirror.sources.volumes.errors import TooManyFilesError
from neuromirror.sources.volumes.grid import (
    REQUEST_LIMIT,
    Level,
    Volume,
    choose_chunk,
)
from neuromirror.sources.volumes.options import VolumeOptions
from neuromirror.sources.volumes.urls import Box, to_triple


def plan_volume(volume: Volume, options: VolumeOptions, limit: int = REQUEST_LIMIT) -> Volume:
    """Return a volume with the levels, box and chunks that the options select.

    Parameters
    ----------
    volume
        The volume with all of upstream's levels and any chunks.
    options
        The mirror's options.
    limit
        Maximum bytes per request.

    Returns
    -------
    Volume
        The volume, as it is mirrored.

    Raises
    ------
    ConfigurationError
        If upstream lacks a selected level, or the box is outside of one.
    """
    base = volume.base_voxel or volume.levels[0].voxel
    levels = _selected_levels(volume, options)
    if options.box is not None:
        levels = [_crop(volume, level, options.box, base) for level in levels]
    made = tuple(
        replace(level, chunk=choose_chunk(options.block, level.extent, volume.item_size, limit))
        for level in levels
    )
    return replace(volume, levels=made, base_voxel=base)


def estimate_volume(volume: Volume, options: VolumeOptions) -> Estimate:
    """Return the cost of a first visit of a planned volume, without documents.

    Parameters
    ----------
    volume
        The volume, from :func:`plan_volume`.
    options
        The mirror's options.

    Returns
    -------
    Estimate
        Files, bytes, downloaded bytes and requests.

    Raises
    ------
    TooManyFilesError
        If the volume has too many files for a visit.
    """
    check_size(volume, options, volume.path)
    if options.hash == "fetch":
        return Estimate(volume.files, volume.bytes, fetched=volume.bytes, requests=volume.files)
    request_count = min(options.sample_count, volume.files)
    mean = volume.bytes // max(1, volume.files)
    return Estimate(
        volume.files, volume.bytes, fetched=request_count * mean, requests=request_count
    )


def check_size(volume: Volume, options: VolumeOptions, name: str) -> None:
    """Refuse a planned volume that has more files than allowed.

    Parameters
    ----------
    volume
        The volume, from :func:`plan_volume`.
    options
        The mirror's options, with ``max_files``.
    name
        The name of the volume in the error message.

    Raises
    ------
    TooManyFilesError
        The volume has more files.
    """
    if volume.files > options.max_files:
        blocks = ", ".join(
            f"{math.prod(level.grid):,} of level {level.name}" for level in volume.levels
        )
        raise TooManyFilesError(
            f"{name} would be {volume.files:,} chunk files with {volume.bytes:,} bytes in total"
            f" ({blocks}, for each time sample), more than max_files"
            f" = {options.max_files}; set a box, fewer levels, a larger block, or a higher"
            " max_files in the mirror's options"
        )


def _selected_levels(volume: Volume, options: VolumeOptions) -> list[Level]:
    if options.levels == "all":
        return list(volume.levels)
    by_name = {level.name: level for level in volume.levels}
    missing = [str(one) for one in options.levels if str(one) not in by_name]
    if missing:
        raise ConfigurationError(
            f"{volume.path}: upstream has no level {', '.join(missing)}, only"
            f" {', '.join(by_name)}; change 'levels' in the mirror's options"
        )
    return [by_name[str(one)] for one in options.levels]


def _crop(volume: Volume, level: Level, box: Box, base: tuple[float, float, float]) -> Level:
    """Crop a level to a box that is given in voxels of level 0."""
    start, stop = list(level.start), list(level.stop)
    for axis, (first, last) in enumerate(box):
        factor = max(1, round(level.voxel[axis] / base[axis]))
        start[axis] = max(start[axis], first // factor)
        stop[axis] = min(stop[axis], -(-last // factor))
    if any(a >= b for a, b in zip(start, stop, strict=True)):
        had = ", ".join(f"{a}:{b}" for a, b in zip(level.start, level.stop, strict=True))
        raise ConfigurationError(
            f"{volume.path}: the box in the mirror's options has no voxel of level {level.name},"
            f" which has {had} along x, y, z; change 'box', or exclude the channel"
        )
    return replace(level, start=to_triple(start), stop=to_triple(stop))
