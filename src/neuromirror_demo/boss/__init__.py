"""A BOSS on loopback that is compatible with BOSS's clients; no code of BOSS is copied."""

from neuromirror_demo.boss.contents import ACTIVITY, CELLS, PRIVATE, SKETCH, TISSUE
from neuromirror_demo.boss.server import FAULTS, DemoBoss
from neuromirror_demo.boss.state import Box

__all__ = ["ACTIVITY", "CELLS", "FAULTS", "PRIVATE", "SKETCH", "TISSUE", "Box", "DemoBoss"]
