"""Archives of volumes on loopback, a store that mirrors them, and its catalogue."""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image

from neuromirror_demo import DemoBuckets
from neuromirror_demo.boss import ACTIVITY, CELLS, SKETCH, TISSUE, DemoBoss
from neuromirror_demo.bucket_contents import layer_scales
from neuromirror_demo.ndstore import DemoNdstore
from support.mirror_harness import MirrorHarness
from support.running_catalogue import RunningCatalogue, run_catalogue

_BOSS = """
source = "boss"
[options]
api = "{api}"
block = [128, 128, 32]
hash = "{hash}"
include = {include}
"""
_NDSTORE = """
source = "ndstore"
[options]
api = "{api}"
block = [128, 128, 16]
hash = "fetch"
include = ["demo11/membranes", "demo11/image"]
"""
EM = f"b:{TISSUE}"
LAYER = "demo_cortex/sections/em"


@dataclass
class VolumeArchives:
    """Archives of volumes, and a store that mirrors them."""

    boss: DemoBoss
    ndstore: DemoNdstore
    buckets: DemoBuckets
    mirror_harness: MirrorHarness

    def voxels(self, name: str, level: int) -> tuple[Any, tuple[int, int, int]]:
        """Return upstream's voxels (axes [t,] z, y, x), and the first voxel (x, y, z)."""
        mirror, _, path = name.partition(":")
        if mirror == "demo-precomputed":
            scale = layer_scales(path)[level]
            return np.asarray(scale.voxels), scale.start
        if mirror == "n":
            return np.asarray(self.ndstore.voxels(path, level)), (0, 0, 1)
        x, y, z = self.boss.box(path, level)
        return np.asarray(self.boss.voxels(path, level)), (x[0], y[0], z[0])

    def count_voxel_requests(self) -> int:
        """Return the number of requests for voxels."""
        count = self.boss.count_requests("/cutout/") + self.ndstore.count_requests("/npz/")
        return count + self.buckets.count_requests(r"GET .*/\d+-\d+_")


@pytest.fixture(scope="session")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VolumeArchives]:
    """Mirror the archives once, with checksums except for the mirror ``plain``."""
    folder = tmp_path_factory.mktemp("volumes")
    with (
        DemoBoss(folder / "boss") as boss,
        DemoNdstore(folder / "ndstore") as ndstore,
        DemoBuckets(folder / "buckets", layers=True) as buckets,
    ):
        mirrors = folder / "mirrors"
        mirrors.mkdir()
        for name, hashing, include in (
            ("b", "fetch", [TISSUE, CELLS, ACTIVITY]),
            ("plain", "none", [SKETCH]),
        ):
            boss_config = _BOSS.format(api=boss.api, hash=hashing, include=json.dumps(include))
            (mirrors / f"{name}.toml").write_text(boss_config)
        (mirrors / "n.toml").write_text(_NDSTORE.format(api=ndstore.api))
        layers = "demo-precomputed.toml"
        (mirrors / layers).write_text((buckets.mirrors / layers).read_text())
        mirror_harness = MirrorHarness(mirrors, folder / "store")
        mirror_harness.sync()
        yield VolumeArchives(boss, ndstore, buckets, mirror_harness)


@pytest.fixture(scope="session")
def volume_site(volumes: VolumeArchives) -> Iterator[RunningCatalogue]:
    """The catalogue of this store."""
    with run_catalogue(volumes.mirror_harness.store) as found:
        yield found


@pytest.fixture
def quiet_volumes(volumes: VolumeArchives) -> Iterator[VolumeArchives]:
    """The archives for one test, which may configure faults."""
    for one in (volumes.boss, volumes.ndstore, volumes.buckets):
        one.clear_requests()
    yield volumes
    for one in (volumes.boss, volumes.ndstore, volumes.buckets):
        one.clear_faults()


def cutout_path(name: str, level: int = 0, box: str = "", **more: Any) -> str:
    """Return the address of a cutout; ``box`` has the format of ``neuromirror export``."""
    query = {"level": level, **more}
    for axis, span in zip("xyz", box.split(","), strict=False):
        query[f"{axis}0"], _, query[f"{axis}1"] = span.partition(":")
    return f"/cutout/{name}@latest?" + "&".join(f"{key}={value}" for key, value in query.items())


def expected_voxels(
    volumes: VolumeArchives, name: str, level: int, box: str, time: int | None = None
) -> Any:
    """Return the voxels of a box from upstream."""
    voxels, first = volumes.voxels(name, level)
    spans = [tuple(map(int, one.split(":"))) for one in box.split(",")]
    x, y, z = (slice(a - low, b - low) for (a, b), low in zip(spans, first, strict=True))
    return (voxels if time is None else voxels[time])[z, y, x]


def read_image(reply: requests.Response) -> Any:
    assert reply.status_code == 200, reply.text[:3000]
    return np.asarray(Image.open(io.BytesIO(reply.content)))
