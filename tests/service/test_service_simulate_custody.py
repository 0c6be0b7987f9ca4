"""A short simulation of a lab's vaults: nothing pinned is lost, every shortage is announced."""

from __future__ import annotations

from pathlib import Path

from simulation.custody import CustodySimulation
from simulation.world import draw


def test_nothing_pinned_is_lost_copies_are_repaired_and_shortages_announced(tmp_path: Path) -> None:
    world = draw(5, 150, 80.0, 0.0)
    # one of three vaults is down for so long that copies are short
    found = CustodySimulation(world, tmp_path, 5, down=45.0).run()
    assert found.deleted_upstream > 3
    assert found.flips > 1
    assert found.repaired > 0
    assert found.short > 0
    assert found.announced >= found.short
    assert (found.lost, found.late, found.unread) == (0, 0, 0)
