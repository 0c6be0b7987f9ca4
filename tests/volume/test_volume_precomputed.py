"""Precomputed layers as arrays and exports: each scale equals what the archive has."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile

import neuromirror.volume
from neuromirror.volume import BlockUnavailableError, NotAVolumeError, UnknownLevelError, export
from neuromirror.volume.block_store import BlockStore
from neuromirror_demo import DemoBuckets
from neuromirror_demo.layer_contents import CELLS, EM, GCAMP, LAYERS, layer_scales
from support.mirror_harness import MirrorHarness, run_git

MIRROR = "demo-precomputed"


class LayerMirror:
    """The demo's layers, and a store that mirrors them."""

    def __init__(self, buckets: DemoBuckets, harness: MirrorHarness) -> None:
        self.buckets = buckets
        self.harness = harness

    def open(self, layer: str, level: int = 0) -> neuromirror.volume.OpenVolume:
        return neuromirror.volume.open_volume(
            f"{MIRROR}:{layer}@latest", level, store=self.harness.folder
        )


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LayerMirror]:
    """The layers, mirrored; tests do not change them."""
    folder = tmp_path_factory.mktemp("layers")
    with DemoBuckets(folder / "buckets", layers=True) as running:
        for path in running.mirrors.iterdir():
            if path.stem != MIRROR:
                path.unlink()
        harness = MirrorHarness(running.mirrors, folder / "store")
        harness.sync()
        yield LayerMirror(running, harness)


@pytest.mark.parametrize("layer", LAYERS)
def test_every_scale_is_what_upstream_has(layers: LayerMirror, layer: str) -> None:
    for level, scale in enumerate(layer_scales(layer)):
        opened = layers.open(layer, level)
        array = opened.array()
        assert (array.dtype, array.shape) == (scale.voxels.dtype, scale.voxels.shape)
        assert np.array_equal(array[...], scale.voxels)
        assert opened.level.start == scale.start


def test_a_slice_requests_its_own_chunks(layers: LayerMirror) -> None:
    array = layers.open(EM).array()
    layers.buckets.clear_requests()
    expected = layer_scales(EM)[0].voxels
    assert np.array_equal(array[20:24, 70:80, 70:100], expected[20:24, 70:80, 70:100])
    found = [one for one in layers.buckets.requests if one.startswith("GET") and "4_4_40/" in one]
    assert len(found) == 1, found


def test_region_is_exported_as_the_same_voxels(layers: LayerMirror, tmp_path: Path) -> None:
    name = f"{MIRROR}:{CELLS}@latest"
    box = ((10, 140), (3, 100), (14, 40))
    done = export(name, tmp_path, box=box, level=0, format="npy", store=layers.harness.folder)
    expected = layer_scales(CELLS)[0].voxels[2:28, 3:100, 10:140]
    assert np.array_equal(np.load(tmp_path / done.paths[0]), expected)
    tiffs = export(name, tmp_path / "tiff", box=box, format="tiff", store=layers.harness.folder)
    assert np.array_equal(tifffile.imread(tmp_path / "tiff" / tiffs.paths[5]), expected[5])


def test_clone_is_opened(layers: LayerMirror, tmp_path: Path) -> None:
    for layer in (GCAMP, CELLS):
        clone = tmp_path / layer.rpartition("/")[2]
        run_git(
            tmp_path, "clone", "-q", str(layers.harness.repository(f"{MIRROR}:{layer}")), str(clone)
        )
        run_git(clone, "annex", "get", "-q", ".")
        voxels = neuromirror.volume.open(clone, 1)[...]
        assert np.array_equal(voxels, layer_scales(layer)[1].voxels)


def test_a_chunk_of_other_bytes_is_an_error_that_names_it(layers: LayerMirror) -> None:
    key = f"{EM}/4_4_40/64-128_64-128_12-28"
    bucket = layers.buckets.precomputed
    content = layers.buckets.data(key, bucket=bucket)
    array = layers.open(EM).array()
    try:
        layers.buckets.put(key, content[:-1] + b"\1", bucket=bucket, encoding="br")
        with pytest.raises(BlockUnavailableError, match=r"4_4_40/64-128_64-128_12-28.br"):
            array[0, 70, 70]
    finally:
        layers.buckets.put(key, content, bucket=bucket, encoding="br")


def test_a_missing_object_is_zeros_only_if_the_version_lacks_it(layers: LayerMirror) -> None:
    array = layers.open(EM).array()
    layers.buckets.clear_requests()
    assert not array[:16, :64, :64].any()
    assert not [one for one in layers.buckets.requests if "0-64_0-64_12-28" in one]


def test_unknown_levels_and_other_datasets_are_refused(layers: LayerMirror) -> None:
    with pytest.raises(UnknownLevelError):
        layers.open(EM, 3)
    with pytest.raises(NotAVolumeError):
        neuromirror.volume.open_volume("x", store=layers.harness.folder)


def test_store_lists_every_chunk_of_the_grid(layers: LayerMirror) -> None:
    opened = layers.open(EM, 2)
    store = BlockStore(opened.files, opened.volume)

    async def keys() -> list[str]:
        return [key async for key in store.list()]

    x, y, z = opened.level.grid
    found = asyncio.run(keys())
    assert len([key for key in found if "/c/" in key]) == x * y * z
    assert {"zarr.json", "2/zarr.json"} <= set(found)


def test_open_layer_is_pickled(layers: LayerMirror) -> None:
    array = pickle.loads(pickle.dumps(layers.open(GCAMP, 1))).array()
    assert np.array_equal(array[...], layer_scales(GCAMP)[1].voxels)
