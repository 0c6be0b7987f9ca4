"""Voxels into their places in files that hold them in C order."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from neuromirror.sources.volumes import Box

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neuromirror.volume.layouts import Target


def overlap(one: Box, other: Box) -> Box | None:
    """What two boxes have in common; None where it is nothing."""
    xs, ys, zs = ((max(a, c), min(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))
    return (xs, ys, zs) if all(start < stop for start, stop in (xs, ys, zs)) else None


def put(handle: int, offset: int, target: Target, box: Box, voxels: NDArray[Any]) -> None:
    """Writes the voxels of a box into an open file, as far as they belong there.

    ``voxels`` has the axes z, y, x and is in C order; ``offset`` is the place of the file's first
    voxel. Raises OSError.
    """
    common = overlap(target.box, box)
    if common is None:
        return
    (x0, x1), (y0, y1), (z0, z1) = common
    (bx, _), (by, _), (bz, _) = box
    _, high, wide = target.shape
    _, tall, broad = voxels.shape
    size = voxels.itemsize
    (tx, _), (ty, _), (tz, _) = target.box
    flat = voxels.reshape(-1).view("B").data
    # rows that fill the file's lie one after the other in both
    rows = y1 - y0 if x1 - x0 == wide == broad else 1
    length = rows * (x1 - x0) * size
    for z in range(z0, z1):
        for y in range(y0, y1, rows):
            taken = (((z - bz) * tall + y - by) * broad + x0 - bx) * size
            placed = (((z - tz) * high + y - ty) * wide + x0 - tx) * size
            _write(handle, flat[taken : taken + length], offset + placed)


def _write(handle: int, left: memoryview, at: int) -> None:
    while left:
        done = os.pwrite(handle, left, at)
        left, at = left[done:], at + done
