"""A short simulation of a lab's vaults: nothing pinned is lost, every shortage is announced."""

from __future__ import annotations

from pathlib import Path

from simulation.custody import CustodyResult, CustodySimulation
from simulation.world import draw


def simulate(folder: Path, datasets: int, days: float, down: float) -> CustodyResult:
    return CustodySimulation(draw(5, datasets, days, 0.0), folder, 5, down=down).run()


def test_no_pinned_content_is_lost_and_copies_are_repaired(tmp_path: Path) -> None:
    found = simulate(tmp_path, 100, 100.0, 14.0)
    assert found.deleted_upstream > 3
    assert found.flips > 1
    assert found.repaired > 0
    assert (found.lost, found.late, found.unread) == (0, 0, 0)


def test_a_vault_that_is_down_for_long_leads_to_shortages_that_are_all_announced(
    tmp_path: Path,
) -> None:
    found = simulate(tmp_path, 200, 90.0, 45.0)
    assert found.short > 0
    assert found.announced >= found.short
    assert (found.lost, found.late) == (0, 0)
