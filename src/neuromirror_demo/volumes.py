"""Small volumes with structure: tissue in sections, its cells as labels, activity over time.

Only integer arithmetic is used, so that every machine computes the same bytes. Arrays are in C
order, axes ``z, y, x`` (a time series ``t, z, y, x``); sizes and starts are ``(x, y, z)``.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Voxels = NDArray[Any]

XYZ = tuple[int, int, int]

TISSUE: Final[XYZ] = (300, 260, 70)
"""The default size of :func:`tissue` and :func:`cells`."""

ACTIVITY: Final[XYZ] = (150, 130, 36)
"""The default size of :func:`activity`."""

HALVING: Final[dict[str, XYZ]] = {"anisotropic": (2, 2, 1), "isotropic": (2, 2, 2)}
"""The factors by which the voxels of the next level are larger."""

FIRST_CELL: Final = (1 << 60) + 1
"""The label of the first cell: too large for a float, like the following ones."""

_SECTION: Final = 8
_PITCH: Final = 96
_MEMBRANE: Final = 900


@cache
def tissue(size: XYZ = TISSUE) -> NDArray[np.uint8]:
    """Return an image like electron microscopy: dark membranes, organelles, uneven light.

    The array is shared and read-only.
    """
    return _tissue_and_cells(size)[0]


@cache
def cells(size: XYZ = TISSUE) -> NDArray[np.uint64]:
    """Return the cell label of each voxel of :func:`tissue`; 0 on membranes.

    The array is shared and read-only.
    """
    return _tissue_and_cells(size)[1]


@cache
def _tissue_and_cells(size: XYZ) -> tuple[NDArray[np.uint8], NDArray[np.uint64]]:
    import numpy as np

    width, height, depth = size
    x, y = np.arange(width, dtype=np.int32), np.arange(height, dtype=np.int32)[:, None]
    image, labels = np.empty((depth, height, width), np.uint8), np.empty(size[::-1], np.uint64)
    for z, (owner, gap) in enumerate(_sections(size)):
        light = 150 + x // 10 - y // 13 + z % 7
        grain = ((x * 31) ^ (y * 17) ^ (z * 61)) % 11
        spot = (x % 29 - 14) ** 2 + (y % 31 - 15) ** 2 + (z % 9 - 4) ** 2 * 9
        inside = np.where((spot < 60) & ((x // 29 + y // 31 + z // 9) % 3 == 0), 70, 0)
        image[z] = np.where(gap < _MEMBRANE, 30 + grain, light + owner % 5 * 6 - inside + grain)
        labels[z] = np.where(gap < _MEMBRANE, 0, owner.astype(np.uint64) + np.uint64(FIRST_CELL))
    image.flags.writeable = labels.flags.writeable = False
    return image, labels


@cache
def activity(size: XYZ = ACTIVITY, samples: int = 3) -> NDArray[np.uint16]:
    """Return bright cells on a dim background, whose brightness changes from sample to sample."""
    import numpy as np

    width, height, depth = size
    z, y, x = np.ogrid[:depth, :height, :width]
    ground = 300 + 2 * x + y + 5 * z
    away = (x % 24 - 12) ** 2 + (y % 22 - 11) ** 2 + (z % 12 - 6) ** 2 * 4
    cell = x // 24 + 7 * (y // 22) + 31 * (z // 12)
    made = np.empty((samples, depth, height, width), np.uint16)
    for sample in range(samples):
        glow = 4000 + (cell * 37 + sample * 11) % 23 * 2500
        made[sample] = ground + 17 * sample + np.where(away < 70, glow * (70 - away) // 70, 0)
    return made


def _sections(size: XYZ) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32]]]:
    """Yield for each z the nearest seed, and how much farther the second one is (squared)."""
    import numpy as np

    width, height, depth = size
    x, y = np.arange(width, dtype=np.int32), np.arange(height, dtype=np.int32)[:, None]
    seeds = _seeds(size)
    for z in range(depth):
        nearest = np.zeros((height, width), np.int32)
        first = np.full((height, width), 1 << 30, np.int32)
        second = first.copy()
        for number, (sx, sy, sz) in enumerate(seeds):
            away = (x - sx) ** 2 + ((y - sy) ** 2 + ((z - sz) * _SECTION) ** 2)
            nearest[away < first] = number
            second = np.minimum(second, np.maximum(first, away))
            first = np.minimum(first, away)
        yield nearest, second - first


def _seeds(size: XYZ) -> list[XYZ]:
    """Return cell centres: a lattice whose points are displaced deterministically."""
    made = []
    for n, z in enumerate(range(_PITCH // 16, size[2] + 1, _PITCH // 3)):
        for m, y in enumerate(range(_PITCH // 2, size[1] + _PITCH // 2, _PITCH)):
            for k, x in enumerate(range(_PITCH // 2, size[0] + _PITCH // 2, _PITCH)):
                push = (k * 37 + m * 53 + n * 71) % 47 - 23
                made.append((x + push, y - push + (k * m * 29) % 31 - 15, z + push // 6))
    return made


def coarser(voxels: Voxels, start: XYZ, factor: XYZ, *, labels: bool = False) -> Voxels:
    """Return the next level of ``voxels``, whose first voxel is at ``start``.

    Voxels are merged on a grid that starts at 0, not at ``start``: the first voxel of the result is
    at ``start // factor``, and those at its ends may cover fewer voxels. Images use the rounded
    mean, labels the most frequent label other than 0 (of equally frequent ones the first).
    """
    import numpy as np

    axes = range(voxels.ndim - 3, voxels.ndim)
    pads, held = [(0, 0)] * voxels.ndim, np.ones((1, 1, 1), np.int64)
    for axis, low, by in zip(axes, start[::-1], factor[::-1], strict=True):
        size = voxels.shape[axis]
        pads[axis] = (low % by, -(low + size) % by)
        there = np.pad(np.ones(size, np.int64), pads[axis]).reshape(-1, by).sum(1)
        held = held * there.reshape([-1 if other == axis else 1 for other in axes])
    whole = np.pad(voxels, pads)
    corners = [
        whole[..., z :: factor[2], y :: factor[1], x :: factor[0]]
        for z in range(factor[2])
        for y in range(factor[1])
        for x in range(factor[0])
    ]
    if not labels:
        total = np.zeros(corners[0].shape, np.int64)
        for corner in corners:
            total += corner
        return ((total + held // 2) // held).astype(voxels.dtype)
    best, most = np.zeros_like(corners[0]), np.zeros(corners[0].shape, np.int8)
    for corner in corners:
        count = np.zeros_like(most)
        for other in corners:
            count += corner == other
        better = (count > most) & (corner != 0)
        best[better], most[better] = corner[better], count[better]
    return best


def coarser_box(start: XYZ, stop: XYZ, factor: XYZ) -> tuple[XYZ, XYZ]:
    """Return the box of :func:`coarser`, given that ``voxels`` are from ``start`` to ``stop``."""
    (ax, ay, az), (bx, by, bz), (fx, fy, fz) = start, stop, factor
    return (ax // fx, ay // fy, az // fz), (-(-bx // fx), -(-by // fy), -(-bz // fz))
