"""Initial contents of the demo BOSS."""

from __future__ import annotations

from typing import Final

from neuromirror_demo import volumes
from neuromirror_demo.boss.state import BossState

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
    """Create three collections, one of them private."""
    width, height, depth = volumes.TISSUE
    boss.add_collection("demo_cortex", description="A block of cortex (demo), made up")
    boss.add_frame(
        "demo_sections",
        start=(0, 0, 12),
        stop=(width, height, 12 + depth),
        voxel=(4, 4, 40),
        description="Sections are counted from the block's face.",
    )
    boss.add_experiment(
        "demo_cortex/sections",
        "demo_sections",
        levels=3,
        time_step=0,
        time_step_unit="seconds",  # as intern does without a unit of time
        description="Serial sections (demo)",
    )
    boss.add_channel(TISSUE, voxels=volumes.tissue, description="Electron microscopy (demo)")
    boss.add_channel(
        CELLS,
        "uint64",
        "annotation",
        voxels=volumes.cells,
        sources=["em"],
        description="Cells (demo)",
    )
    boss.add_channel(
        SKETCH,
        "uint64",
        "annotation",
        downsampled=False,
        sources=["em"],
        related=["cells"],
        description="Begun, and left (demo)",
    )
    boss.edit(SKETCH, ((40, 90), (30, 70), (20, 24)), 7, spread=False)
    boss.set_metadata("demo_cortex", "license", "CC-BY-4.0")
    boss.set_metadata("demo_cortex/sections", "citation & doi", "Doe 2024, 10.0000/demo?a=1")
    boss.set_metadata(TISSUE, "instrument", "made up in µm and nm")

    boss.add_collection("demo_activity", description="Activity (demo), made up")
    boss.add_frame("demo_calcium", stop=volumes.ACTIVITY, voxel=(1.5, 1.5, 1.5), unit="micrometers")
    boss.add_experiment(
        "demo_activity/calcium",
        "demo_calcium",
        levels=3,
        method="isotropic",
        samples=3,
        time_step=50,
        time_step_unit="milliseconds",
        description="Cells that glow (demo)",
    )
    boss.add_channel(ACTIVITY, "uint16", voxels=volumes.activity, description="GCaMP (demo)")

    boss.add_collection("demo_private", public=False)
    boss.add_frame("demo_notes", stop=(64, 64, 16))
    boss.add_experiment("demo_private/notes", "demo_notes", public=False)
    boss.add_channel(PRIVATE, public=False)
    boss.edit(PRIVATE, ((0, 64), (0, 64), (0, 16)), 1)
