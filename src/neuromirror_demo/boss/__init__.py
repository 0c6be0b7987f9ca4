"""A BOSS on loopback that is compatible with BOSS's clients; no code of BOSS is copied."""

from neuromirror_demo.boss.server import ACTIVITY, CELLS, PRIVATE, SKETCH, TISSUE, Box, DemoBoss

__all__ = ["ACTIVITY", "CELLS", "PRIVATE", "SKETCH", "TISSUE", "Box", "DemoBoss"]
