"""Estimate a first crawl of all archives: their sizes times the figures of benchmarks.md."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from simulation.big_plan import ASSETS, DANDISETS, ENTRIES, ZARRS
from simulation.costs import COSTS, Cost
from simulation.world import ARCHIVES, World

MINTED, PACKED, INDEXED = 889, 562, 675
"""Bytes per file: in the store as minted, after housekeeping ('clone'), in the index ('index')."""

_ASSET = 2750
"""The same per asset of DANDI, whose metadata are in the store too ('archive')."""

_ZARR = Cost(1, True, 2, 2.5e-6, 6.8e-5, 0, 0)
"""A Zarr, which has its own checksum; its entries are listed in pages as in a bucket."""

_ZARR_INDEX = 6e9
"""Bytes of the index for DANDI's Zarrs, with the default ``index_entries``, see mirrors.md."""


@dataclass(frozen=True, slots=True)
class _Part:
    what: str
    datasets: int
    files: int
    cost: Cost
    index: float
    minted: int = MINTED
    packed: int = PACKED

    def line(self, rate: float, jobs: int) -> dict[str, Any]:
        """Return the line of an archive; all files count as those of the mean dataset."""
        mean = max(1, self.files // self.datasets)
        requests, seconds = self.cost.visit(mean, first=True)
        requests *= self.datasets
        asking, working = requests / rate, seconds * self.datasets / jobs
        return {
            "what": self.what,
            "n": self.files,
            "datasets": self.datasets,
            "requests": requests,
            "hours": round(max(asking, working) / 3600, 1),
            "store_gb": round(self.files * self.minted / 1e9, 1),
            "packed_gb": round(self.files * self.packed / 1e9, 1),
            "index_gb": round(self.index / 1e9, 1),
        }


def plan(world: World, rate: float, jobs: int) -> Iterator[dict[str, Any]]:
    """Return lines for DANDI, whose sizes are known, and AIND and BossDB, with random sizes."""
    assets = (DANDISETS, ASSETS, COSTS["dandi"], ASSETS * INDEXED, _ASSET, _ASSET)
    yield _Part("DANDI, without Zarrs", *assets).line(rate, jobs)
    yield _Part("DANDI's Zarrs", ZARRS, ENTRIES, _ZARR, _ZARR_INDEX).line(rate, jobs)
    for what, source, names in (
        ("AIND (sizes assumed)", "s3", ("aind", "aind-docdb")),
        ("BossDB's bucket (sizes assumed)", "precomputed", ("bossdb-bucket",)),
        ("BossDB, not all voxels read (sizes assumed)", "boss", ("bossdb",)),
    ):
        sizes = [one.files for one in world.subjects if ARCHIVES[one.archive].name in names]
        files = sum(sizes)
        yield _Part(what, len(sizes), files, COSTS[source], files * INDEXED).line(rate, jobs)


def table(lines: list[dict[str, Any]], rate: float, jobs: int) -> str:
    """Return the lines in Markdown, with their sum."""
    heads = ("datasets", "files", "requests", "hours", "store GB", "packed GB", "index GB")
    names = ("datasets", "n", "requests", "hours", "store_gb", "packed_gb", "index_gb")
    text = [f"| | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads)]
    total = {name: round(sum(one[name] for one in lines), 1) for name in names}
    for one in [*lines, {"what": "total", **total}]:
        cells = (f"{one[name]:,}" for name in names)
        text.append(f"| {one['what']} | {' | '.join(cells)} |")
    return "\n".join(
        [
            *text,
            "",
            f"At {rate:g} requests per second and {jobs} jobs, one archive after the other.",
        ]
    )
