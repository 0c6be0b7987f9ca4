"""A BOSS with large channels, whose cut-outs are encoded when they are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from neuromirror_demo import volumes
from neuromirror_demo.boss import DemoBoss

BLOCK = (2048, 2048, 64)
LARGE = (10752, 13312, 1849)
_NOISE = 12
"""Gray levels of a microscope's noise, with which zlib compresses the tissue like real tissue."""


class VolumeBoss(DemoBoss):
    """``bench/bench/em`` has so many blocks side by side; ``bench/large/em`` the size of
    kasthuri11's and no voxels.
    """

    def __init__(self, directory: Path, blocks: int) -> None:
        super().__init__(directory, empty=True)
        self.add_collection("bench")
        for name, stop in (("bench", (BLOCK[0] * blocks, *BLOCK[1:])), ("large", LARGE)):
            self.add_frame(name, stop=stop, voxel=(4, 4, 40))
            self.add_experiment(f"bench/{name}", name, levels=1)
            self.add_channel(f"bench/{name}/em")
        _, channel = self._channel("bench/bench/em")
        channel.tables = _Array(_made_voxels(blocks))  # type: ignore[assignment]


class _Array:
    """An array in place of tables, of which a BOSS would have copies."""

    def __init__(self, voxels: Any) -> None:
        self._voxels = voxels

    def read(self, level: int, sample: int, start: volumes.XYZ, stop: volumes.XYZ) -> Any:
        (x0, y0, z0), (x1, y1, z1) = start, stop
        return np.ascontiguousarray(self._voxels[z0:z1, y0:y1, x0:x1])


def _made_voxels(blocks: int) -> Any:
    """Return repeated tissue with noise that does not repeat."""
    tile = volumes.tissue((512, 512, BLOCK[2]))
    voxels = np.tile(tile, (1, BLOCK[1] // 512, blocks * BLOCK[0] // 512))
    noise = np.random.default_rng(1)
    for z in range(BLOCK[2]):
        voxels[z] += noise.integers(0, _NOISE, voxels[z].shape, dtype=np.uint8)
    return voxels
