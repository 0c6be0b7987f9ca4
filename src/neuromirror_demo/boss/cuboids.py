"""Voxels in cuboids, as BOSS stores them; voxels that were never written are 0."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from neuromirror_demo.volumes import XYZ

if TYPE_CHECKING:
    from neuromirror_demo.volumes import Voxels

SIZE: Final[XYZ] = (512, 512, 16)
"""The size of a cuboid at every level (spdb/c_lib/ndtype.py)."""

_Piece = tuple[tuple[int, int, int], tuple[slice, ...], tuple[slice, ...]]


class Cuboids:
    """The cuboids of one channel; at every level all voxels are before ``stop``."""

    def __init__(self, datatype: str, stop: XYZ) -> None:
        self._datatype = datatype
        self._stop = stop
        self._cuboids: dict[tuple[int, int], dict[XYZ, Voxels]] = {}

    def read(self, level: int, sample: int, start: XYZ, stop: XYZ) -> Voxels:
        """Return a copy of a box, axes ``z, y, x``."""
        import numpy as np

        wide, high, deep = (b - a for a, b in zip(start, stop, strict=True))
        found = np.zeros((deep, high, wide), self._datatype)
        held = self._cuboids.get((level, sample), {})
        for corner, inside, outside in _pieces(start, stop):
            if corner in held:
                found[outside] = held[corner][inside]
        return found

    def write(self, level: int, sample: int, start: XYZ, voxels: Voxels) -> None:
        """Write a box, including its zeros."""
        import numpy as np

        depth, height, width = voxels.shape
        stop = (start[0] + width, start[1] + height, start[2] + depth)
        held = self._cuboids.setdefault((level, sample), {})
        for corner, inside, outside in _pieces(start, stop):
            if corner not in held:
                shape = tuple(
                    min(size, end - size * at)
                    for size, end, at in zip(SIZE, self._stop, corner, strict=True)
                )
                held[corner] = np.zeros(shape[::-1], self._datatype)
            held[corner][inside] = voxels[outside]

    def extent(self, level: int) -> tuple[XYZ, XYZ] | None:
        """Return the box, in whole cuboids, around all written voxels of a level."""
        corners = [one for (at, _), held in self._cuboids.items() if at == level for one in held]
        if not corners:
            return None
        (ax, bx), (ay, by), (az, bz) = (
            (min(axis), max(axis)) for axis in zip(*corners, strict=True)
        )
        w, h, d = SIZE
        return (ax * w, ay * h, az * d), ((bx + 1) * w, (by + 1) * h, (bz + 1) * d)


def _pieces(start: XYZ, stop: XYZ) -> Iterator[_Piece]:
    """Yield the cuboids of a box: the cuboid, the part in the cuboid, the part in the box."""
    spans = [
        [
            (at, slice(max(a - at * size, 0), min(b - at * size, size)), max(at * size - a, 0))
            for at in range(a // size, -(-b // size))
        ]
        for a, b, size in zip(start, stop, SIZE, strict=True)
    ]
    for z, in_z, from_z in spans[2]:
        for y, in_y, from_y in spans[1]:
            for x, in_x, from_x in spans[0]:
                inside = (in_z, in_y, in_x)
                outside = tuple(
                    slice(first, first + one.stop - one.start)
                    for first, one in zip((from_z, from_y, from_x), inside, strict=True)
                )
                yield (x, y, z), inside, outside
