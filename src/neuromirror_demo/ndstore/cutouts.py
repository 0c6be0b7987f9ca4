"""Cutouts as ndstore returns them, including its defects.

Follows neurodata/ndstore (``webservices/restargs.py``, ``webservices/ndwsrest.py``) and
neurodata/spdb (``spatialdb.py``). Levels with a table are correct: the channel's resolution, and
coarser levels after propagation. Other levels are not:

- A coarser level before propagation is read from the channel's resolution. An image is then not
  scaled down: the voxels are from another position, and there are too many of them if the request
  is aligned with cuboids.
- A finer level is scaled up along x and y only, and the remainder of the division is subtracted
  twice: the reply can be too small, and if z is scaled too, it has the wrong slices.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from neuromirror_demo.ndstore.records import (
    ANNOTATION,
    PROPAGATED,
    UNDER_PROPAGATION,
    NdstoreChannel,
    Project,
    Space,
)
from neuromirror_demo.volumes import XYZ

if TYPE_CHECKING:
    from neuromirror_demo.volumes import Voxels

_ARGUMENTS: Final = re.compile(
    r"([0-9]+)/([0-9]+),([0-9]+)/([0-9]+),([0-9]+)/([0-9]+),([0-9]+)(.*)?$"
)
_TIMES: Final = re.compile(r"/(\d+),(\d+)/")


class NdstoreError(Exception):
    """An error that ndstore returns as 404; ``body`` is its text."""

    def __init__(self, body: str, *, wrapped: int = 0) -> None:
        for _ in range(wrapped):
            body = repr(body)
        super().__init__(body)
        self.body = body


@dataclass(frozen=True, slots=True)
class NdstoreCutoutRequest:
    """The requested region: voxels of a level, counted from the dataset's offset.

    ``times`` is None if the reply has no time axis.
    """

    level: int
    corner: XYZ
    size: XYZ
    times: tuple[int, int] | None


def parse(arguments: str, space: Space) -> NdstoreCutoutRequest:
    """Parse a request ``RES/x0,x1/y0,y1/z0,z1[/t0,t1]/…``; raise :class:`NdstoreError`.

    A range of times is recognized only with a final slash.
    """
    found = _ARGUMENTS.match(arguments)
    if found is None:
        nothing = "'NoneType' object has no attribute 'groups'"
        raise NdstoreError(f"Incorrect cutout arguments {arguments}. {nothing}", wrapped=1)
    level, x0, x1, y0, y1, z0, z1 = map(int, found.groups()[:-1])
    rest = found[8]
    if level not in space.resolutions:
        raise NdstoreError(f"Illegal scaling level {arguments}", wrapped=1)
    start = space.offset_at(level)
    low = (x0 - start[0], y0 - start[1], z0 - start[2])
    high = (x1 - start[0], y1 - start[1], z1 - start[2])
    whole = space.size_at(level)
    if not all(0 <= a < b <= n for a, b, n in zip(low, high, whole, strict=True)):
        message = f"Illegal range. Image size: {list(whole)} at offset {list(start)}"
        failed = f"Illegal arguments to cutout. Check cube failed {message!r}"
        raise NdstoreError(failed, wrapped=1)
    times = _TIMES.match(rest)
    return NdstoreCutoutRequest(
        level,
        low,
        (high[0] - low[0], high[1] - low[1], high[2] - low[2]),
        None if times is None else (int(times[1]), int(times[2])),
    )


def cut_out(project: Project, channel: NdstoreChannel, request: NdstoreCutoutRequest) -> Voxels:
    """Return the voxels in (z, y, x), or (time, z, y, x) if times were requested."""
    times = request.times or (channel.timerange[0], channel.timerange[0] + 1)
    voxels = _cube(project.space, channel, request, times)
    return voxels if request.times is not None else voxels[0]


def _cube(
    space: Space, channel: NdstoreChannel, request: NdstoreCutoutRequest, times: tuple[int, int]
) -> Voxels:
    base, level = channel.resolution, request.level
    made_up = base < level and channel.propagate not in (PROPAGATED, UNDER_PROPAGATION)
    by = 2 ** abs(base - level)
    if base > level:
        cuboid = space.cuboid_at(base)
        corner, size = _finer(request.corner, request.size, by)
        voxels = _read_cuboids(channel, base, cuboid, corner, size, times)
        voxels = voxels.repeat(by, axis=2).repeat(by, axis=3)
        x, y, z = request.corner
        # spdb adds the remainder of a division a second time
        start = (x % (cuboid[0] * by) + x % by, y % (cuboid[1] * by) + y % by, z % cuboid[2])
        return _trim(voxels, start, request.size)
    if made_up:
        cuboid = space.cuboid_at(base)
        (x, y, z), (width, height, depth) = request.corner, request.size
        corner, size = (x * by, y * by, z), (width * by, height * by, depth)
        voxels = _read_cuboids(channel, base, cuboid, corner, size, times)
        if channel.kind == ANNOTATION:
            voxels = voxels[:, :, ::by, ::by]
            start = (x % (cuboid[0] // by), y % (cuboid[1] // by), z % cuboid[2])
            return _trim(voxels, start, request.size)
    else:
        cuboid = space.cuboid_at(level)
        voxels = _read_cuboids(channel, level, cuboid, request.corner, request.size, times)
    start = (
        request.corner[0] % cuboid[0],
        request.corner[1] % cuboid[1],
        request.corner[2] % cuboid[2],
    )
    if not any(start) and not any(n % c for n, c in zip(request.size, cuboid, strict=True)):
        return voxels
    return _trim(voxels, start, request.size)


def _finer(corner: XYZ, size: XYZ, by: int) -> tuple[XYZ, XYZ]:
    """Return the region of the coarser level around a region of the finer one; z is not scaled."""
    x, y, z = corner
    low = (x // by, y // by, z)
    high = ((x + size[0] - 1) // by + 1, (y + size[1] - 1) // by + 1, z + size[2])
    return low, (high[0] - low[0], high[1] - low[1], high[2] - low[2])


def _read_cuboids(
    channel: NdstoreChannel,
    level: int,
    cuboid: XYZ,
    corner: XYZ,
    size: XYZ,
    times: tuple[int, int],
) -> Voxels:
    """Return the whole cuboids around a region; voxels that were never written are zero."""
    import numpy as np

    table = channel.tables.get(level)
    low = [c // n * n for c, n in zip(corner, cuboid, strict=True)]
    high = [-(-(c + s) // n) * n for c, s, n in zip(corner, size, cuboid, strict=True)]
    sides = [b - a for a, b in zip(low, high, strict=True)]
    made = np.zeros((times[1] - times[0], *sides[::-1]), np.dtype(channel.datatype))
    if table is None:
        return made
    for number, time in enumerate(range(*times)):
        sample = time - channel.timerange[0]
        if 0 <= sample < len(table):
            there = table[sample, low[2] : high[2], low[1] : high[1], low[0] : high[0]]
            made[number, : there.shape[0], : there.shape[1], : there.shape[2]] = there
    return made


def _trim(voxels: Voxels, start: XYZ, size: XYZ) -> Voxels:
    (x, y, z), (width, height, depth) = start, size
    return voxels[:, z : z + depth, y : y + height, x : x + width]
