"""Initial projects of the demo ndstore."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import Final

from neuromirror_demo import volumes
from neuromirror_demo.ndstore.records import (
    ANNOTATION,
    IMAGE,
    NOT_PROPAGATED,
    TIMESERIES,
    NdstoreChannel,
    Project,
    Space,
)

IMAGE_11: Final = "demo11/image"
"""uint8 images of sections, three levels; like kasthuri11's, the first section is number 1."""

MEMBRANES: Final = "demo11/membranes"
"""float32 probabilities."""

CELLS: Final = "demo11_anno/cells"
"""uint64 labels of :data:`IMAGE_11`, open for writing, with exceptions."""

CALCIUM: Final = "democube/calcium"
"""uint16 images, three levels halved along all axes, samples 5, 6 and 7; with an offset."""

SYNAPSES: Final = "demo15_ramon/synapses"
"""uint32 labels that were uploaded at resolution 1."""

SINGLE_12: Final = "demo12/image"
"""uint8 images that were never propagated; its extent is a multiple of the cuboid size."""

PRIVATE: Final = "demo13_private/image"
"""A project that only its owner can read."""

SECTIONS: Final = Space("demo11", (200, 150, 40), (0, 0, 1), (3.0, 3.0, 30.0), 3, "zslices")
CUBE: Final = Space("democube", (100, 90, 36), (10, 6, 4), (500.0, 500.0, 500.0), 3, "xyz")
PAINTED: Final = Space("demo15", (150, 120, 20), (0, 0, 1), (6.0, 6.0, 5.0), 3, "zslices")
SINGLE: Final = Space("demo12", (256, 128, 32), (0, 0, 0), (4.0, 4.0, 40.0), 3, "zslices")


def projects() -> list[Project]:
    """Return new instances of the projects."""
    return deepcopy(_projects())


@cache
def _projects() -> list[Project]:
    tissue = volumes.tissue(SECTIONS.image_size)[None]
    sections = Project("demo11", SECTIONS, description="Tissue in sections (demo)")
    sections.lims = {"species": "none", "subvolumes": []}
    _add(
        sections,
        NdstoreChannel("image", IMAGE, "uint8", {0: tissue}, description="Sections (demo)"),
    )
    _add(
        sections,
        NdstoreChannel("membranes", IMAGE, "float32", {0: (tissue / 255).astype("float32")}),
    )

    annotated = Project("demo11_anno", SECTIONS, description="Cells (demo)")
    cells = volumes.cells(SECTIONS.image_size)[None]
    _add(
        annotated,
        NdstoreChannel("cells", ANNOTATION, "uint64", {0: cells}, readonly=0, exceptions=1),
    )

    cube = Project("democube", CUBE, description="Cells that glow (demo)")
    calcium = NdstoreChannel(
        "calcium", TIMESERIES, "uint16", {0: volumes.activity(CUBE.image_size)}
    )
    calcium.timerange, calcium.windowrange = (5, 8), (300, 60000)
    _add(cube, calcium)

    painted = Project("demo15_ramon", PAINTED, description="Annotations (demo)")
    _add(painted, _synapses())

    single = Project("demo12", SINGLE, description="Never propagated (demo)")
    single.channels["image"] = NdstoreChannel(
        *("image", IMAGE, "uint8", {0: volumes.tissue(SINGLE.image_size)[None]}),
        propagate=NOT_PROPAGATED,
    )

    private = Project("demo13_private", PAINTED, description="Private (demo)", private=True)
    _add(
        private,
        NdstoreChannel("image", IMAGE, "uint8", {0: volumes.tissue(PAINTED.image_size)[None]}),
    )
    return [sections, annotated, cube, painted, single, private]


def _add(project: Project, channel: NdstoreChannel) -> None:
    project.propagate(channel, channel.resolution)
    project.channels[channel.name] = channel


def _synapses() -> NdstoreChannel:
    import numpy as np

    owners = volumes.cells(PAINTED.image_size)[:, ::2, ::2]
    numbers = np.where(owners > 0, owners - np.uint64(volumes.FIRST_CELL) + np.uint64(1), 0)
    painted = numbers.astype(np.uint32)[None]
    return NdstoreChannel("synapses", ANNOTATION, "uint32", {1: painted}, resolution=1, readonly=0)
