"""An ndstore on loopback, as neurodata/ndstore answered; its source was read, not copied."""

from neuromirror.demo.ndstore.contents import (
    CALCIUM,
    CELLS,
    IMAGE_11,
    MEMBRANES,
    PRIVATE,
    SINGLE_12,
    SYNAPSES,
)
from neuromirror.demo.ndstore.service import FAULTS, DemoNdstore
from neuromirror.demo.ndstore.state import Box

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
