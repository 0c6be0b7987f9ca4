"""A BOSS with large channels, whose cut-outs are encoded when they are asked for."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import numpy as np

from neuromirror_demo import volumes
from neuromirror_demo.boss import DemoBoss

BLOCK = (2048, 2048, 64)
LARGE = (10752, 13312, 1849)
EDGES = (1080, 1800, 105)
"""A channel of 24 blocks of 512 x 512 x 64, half of whose chunk files is padding."""
EDGE_BLOCK = (512, 512, 64)
_CUTOUT = re.compile(r"/edges/em/0/(\d+):(\d+)/(\d+):(\d+)/(\d+):(\d+)/")
_FIRST_BYTE = 0.02
_VOXELS_PER_S = 200e6
"""A real BOSS needs 0.12 s for 16 MiB; requests at the same time do not slow each other down."""
_NOISE = 12
"""Gray levels of a microscope's noise, with which zlib compresses the tissue like real tissue."""


class VolumeBoss(DemoBoss):
    """``bench/bench/em`` has so many blocks side by side; ``bench/large/em`` the size of
    kasthuri11's and no voxels; ``bench/edges/em`` an extent that is no multiple of a block.
    """

    def __init__(self, directory: Path, blocks: int) -> None:
        super().__init__(directory, empty=True)
        self.add_collection("bench")
        whole = BLOCK[0] * blocks, *BLOCK[1:]
        for name, stop in (("bench", whole), ("large", LARGE), ("edges", EDGES)):
            self.add_frame(name, stop=stop, voxel=(4, 4, 40))
            self.add_experiment(f"bench/{name}", name, levels=1)
            self.add_channel(f"bench/{name}/em")
        voxels = _made_voxels(blocks)
        # the edges repeat the first planes
        for name, made in (
            ("bench", voxels),
            ("edges", np.tile(voxels[:, :, : EDGES[0]], (2, 1, 1))),
        ):
            _, channel = self._channel(f"bench/{name}/em")
            channel.tables = _Array(made)  # type: ignore[assignment]

    def _start(self, app: Any, port: int) -> str:
        def wait_and_answer(environ: Any, start_response: Any) -> Any:
            if found := _CUTOUT.search(environ["PATH_INFO"]):
                x0, x1, y0, y1, z0, z1 = map(int, found.groups())
                time.sleep(_FIRST_BYTE + (x1 - x0) * (y1 - y0) * (z1 - z0) / _VOXELS_PER_S)
            return app(environ, start_response)

        return super()._start(wait_and_answer, port)  # type: ignore[arg-type]


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
