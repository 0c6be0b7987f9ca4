"""An ndstore on loopback that behaves like neurodata/ndstore; no code of ndstore is copied."""

from neuromirror_demo.ndstore.contents import (
    CALCIUM,
    CELLS,
    IMAGE_11,
    MEMBRANES,
    PRIVATE,
    SINGLE_12,
    SYNAPSES,
)
from neuromirror_demo.ndstore.server import FAULTS, DemoNdstore
from neuromirror_demo.ndstore.state import Box

__all__ = [
    "CALCIUM",
    "CELLS",
    "FAULTS",
    "IMAGE_11",
    "MEMBRANES",
    "PRIVATE",
    "SINGLE_12",
    "SYNAPSES",
    "Box",
    "DemoNdstore",
]
