"""The volumes are the same everywhere, and their coarser levels are made of them."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest

from neuromirror_demo import volumes

MADE = {
    "tissue": ("uint8", (70, 260, 300), "1875fc11f3cba80a"),
    "cells": ("uint64", (70, 260, 300), "492542db2ddda83c"),
    "activity": ("uint16", (3, 36, 130, 150), "d46dc1de12d6ec32"),
}


@pytest.mark.parametrize("name", MADE)
def test_every_machine_makes_the_same_bytes(name: str) -> None:
    made = getattr(volumes, name)()
    digest = hashlib.sha256(made.astype(made.dtype.newbyteorder("<")).tobytes()).hexdigest()
    assert (made.dtype, made.shape, digest[:16]) == MADE[name]


def slowly(voxels: Any, start: volumes.XYZ, factor: volumes.XYZ, labels: bool) -> Any:
    """The next level, voxel by voxel."""
    stop = tuple(a + b for a, b in zip(start, voxels.shape[::-1], strict=True))
    low, high = volumes.coarser_box(start, (stop[0], stop[1], stop[2]), factor)
    made = np.zeros([b - a for a, b in zip(low, high, strict=True)][::-1], voxels.dtype)
    for z, y, x in np.ndindex(made.shape):
        corner = [(c + a) * f for c, a, f in zip((x, y, z), low, factor, strict=True)]
        part = voxels[
            tuple(
                slice(max(c - a, 0), c + f - a)
                for c, a, f in zip(corner[::-1], start[::-1], factor[::-1], strict=True)
            )
        ].ravel()
        if labels:
            found = [int(one) for one in part if one]
            made[z, y, x] = max(found, key=found.count) if found else 0
        else:
            made[z, y, x] = (int(part.sum(dtype=int)) * 2 + part.size) // (2 * part.size)
    return made


@pytest.mark.parametrize("factor", [(2, 2, 1), (2, 2, 2)])
@pytest.mark.parametrize("start", [(0, 0, 0), (3, 0, 5)])
@pytest.mark.parametrize("labels", [False, True])
def test_a_coarser_level_joins_voxels_on_a_grid_from_zero(
    start: volumes.XYZ, factor: volumes.XYZ, labels: bool
) -> None:
    ramp = np.arange(7 * 9 * 11).reshape(7, 9, 11) * 37
    voxels = (ramp % 4 if labels else ramp % 251).astype(np.uint64 if labels else np.uint8)
    made = volumes.coarser(voxels, start, factor, labels=labels)
    expected = slowly(voxels, start, factor, labels)
    assert made.dtype == voxels.dtype
    assert np.array_equal(made, expected)
