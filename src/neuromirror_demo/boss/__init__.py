"""A BOSS on loopback, faithful enough for its own clients; its source was read, not copied."""

from neuromirror_demo.boss.contents import ACTIVITY, CELLS, PRIVATE, SKETCH, TISSUE
from neuromirror_demo.boss.server import FAULTS, DemoBoss
from neuromirror_demo.boss.state import Box

__all__ = ["ACTIVITY", "CELLS", "FAULTS", "PRIVATE", "SKETCH", "TISSUE", "Box", "DemoBoss"]
