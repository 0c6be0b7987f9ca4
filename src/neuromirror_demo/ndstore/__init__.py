"""An ndstore on loopback that behaves like neurodata/ndstore; no code of ndstore is copied."""

from neuromirror_demo.ndstore.server import (
    CALCIUM,
    CELLS,
    IMAGE_11,
    MEMBRANES,
    PRIVATE,
    SINGLE_12,
    SYNAPSES,
    Box,
    DemoNdstore,
)

__all__ = [
    "CALCIUM",
    "CELLS",
    "IMAGE_11",
    "MEMBRANES",
    "PRIVATE",
    "SINGLE_12",
    "SYNAPSES",
    "Box",
    "DemoNdstore",
]
