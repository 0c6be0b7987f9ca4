"""Initial contents of the demo BOSS."""

from __future__ import annotations

from typing import Final

from neuromirror_demo import volumes
from neuromirror_demo.boss.state import BossState
from neuromirror_demo.templates import read_data

TISSUE: Final = "demo_cortex/sections/em"
"""uint8 images, three anisotropic levels; the first section is number 12."""

CELLS: Final = "demo_cortex/sections/cells"
"""uint64 labels of :data:`TISSUE`, too large for a float."""

SKETCH: Final = "demo_cortex/sections/sketch"
"""uint64 labels in a single cuboid, never downsampled: coarser levels cannot be read."""

ACTIVITY: Final = "demo_activity/calcium/gcamp"
"""uint16 images, three isotropic levels, three samples."""

PRIVATE: Final = "demo_private/notes/draft"
"""A collection that only its owner can read."""


def fill(boss: BossState) -> None:
    """Create three collections, one of them private, with the same operations that tests use."""
    voxels = {"$tissue": volumes.tissue, "$cells": volumes.cells, "$activity": volumes.activity}
    for verb, arguments, named in read_data("boss"):
        given = dict(named)
        if "voxels" in given:
            given["voxels"] = voxels[given["voxels"]]
        getattr(boss, verb)(*arguments, **given)
