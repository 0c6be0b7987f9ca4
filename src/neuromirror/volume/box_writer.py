"""Write voxels to their positions in files that store them in C order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from neuromirror.sources.volumes.urls import Box

if TYPE_CHECKING:
    from neuromirror.volume.layouts import TargetFile


def overlap(one: Box, other: Box) -> Box | None:
    """Return the intersection of two boxes; None if it is empty."""
    xs, ys, zs = ((max(a, c), min(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))
    return (xs, ys, zs) if all(start < stop for start, stop in (xs, ys, zs)) else None


def write_box(
    handle: int, offset: int, target: TargetFile, box: Box, voxels: memoryview, item_size: int
) -> None:
    """Write the voxels of a box to a file of an export, as far as the file covers them.

    Raises OSError if the file cannot be written.

    Parameters
    ----------
    handle
        The file descriptor of the open file.
    offset
        The position of the file's first voxel in bytes.
    target
        The region that the file covers, and the shape of its array.
    box
        The ranges of the voxels along x, y, z.
    voxels
        The bytes of the voxels in C order (z, y, x).
    item_size
        Bytes per voxel.
    """
    common = overlap(target.box, box)
    if common is None:
        return
    (x0, x1), (y0, y1), (z0, z1) = common
    (bx, bx1), (by, by1), (bz, _) = box
    _, high, wide = target.shape
    tall, broad = by1 - by, bx1 - bx
    (tx, _), (ty, _), (tz, _) = target.box
    # rows as wide as the file's are contiguous in both
    rows = y1 - y0 if x1 - x0 == wide == broad else 1
    length = rows * (x1 - x0) * item_size
    for z in range(z0, z1):
        for y in range(y0, y1, rows):
            taken = (((z - bz) * tall + y - by) * broad + x0 - bx) * item_size
            placed = (((z - tz) * high + y - ty) * wide + x0 - tx) * item_size
            _write(handle, voxels[taken : taken + length], offset + placed)


def row_boxes(block: Box, first: int, rows: int) -> Iterator[tuple[Box, int]]:
    """Divide consecutive rows of a block into boxes; yield each with its number of rows.

    Rows run along x and are numbered in C order from the start of the block. A box contains all
    rows of one or more planes, or some rows of one plane.

    Parameters
    ----------
    block
        The block.
    first
        The number of the first row.
    rows
        The number of rows.
    """
    xs, (y0, y1), (z0, _) = block
    high = y1 - y0
    stop = first + rows
    while first < stop:
        z, y = divmod(first, high)
        planes = (stop - first) // high if y == 0 else 0
        taken = planes * high or min(high - y, stop - first)
        ys = (y0, y1) if planes else (y0 + y, y0 + y + taken)
        yield (xs, ys, (z0 + z, z0 + z + max(planes, 1))), taken
        first += taken


def _write(handle: int, left: memoryview, at: int) -> None:
    while left:
        done = os.pwrite(handle, left, at)
        left, at = left[done:], at + done
