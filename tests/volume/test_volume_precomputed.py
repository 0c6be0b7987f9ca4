"""Precomputed layers as arrays and exports: each scale equals what the archive has."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import neuromirror.volume
from neuromirror.volume import BlockUnavailableError
from neuromirror.volume.read_only_store import BlockStore
from neuromirror_demo.bucket_contents import EM, LAYERS, layer_scales
from support.layer_mirror import LAYER_MIRROR, LayerMirror, layer_mirror
from support.mirror_harness import run_git


def open_level(layers: LayerMirror, layer: str, level: int = 0) -> neuromirror.volume.OpenVolume:
    return neuromirror.volume.open_volume(layers.version(layer), level, store=layers.store)


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LayerMirror]:
    """The layers, mirrored; tests do not change them."""
    with layer_mirror(tmp_path_factory.mktemp("layers")) as found:
        yield found


@pytest.mark.parametrize("layer", LAYERS)
def test_every_scale_is_what_upstream_has(layers: LayerMirror, layer: str) -> None:
    for level, scale in enumerate(layer_scales(layer)):
        opened = open_level(layers, layer, level)
        array = opened.array()
        assert (array.dtype, array.shape) == (scale.voxels.dtype, scale.voxels.shape)
        assert np.array_equal(array[...], scale.voxels)
        assert opened.level.start == scale.start


def test_a_chunk_of_other_bytes_is_an_error_that_names_it(layers: LayerMirror) -> None:
    key = f"{EM}/4_4_40/64-128_64-128_12-28"
    bucket = layers.buckets.precomputed
    content = layers.buckets.data(key, bucket=bucket)
    array = open_level(layers, EM).array()
    try:
        layers.buckets.put(key, content[:-1] + b"\1", bucket=bucket, encoding="br")
        with pytest.raises(BlockUnavailableError, match=r"4_4_40/64-128_64-128_12-28.br"):
            array[0, 70, 70]
    finally:
        layers.buckets.put(key, content, bucket=bucket, encoding="br")


def test_a_missing_object_is_zeros_only_if_the_version_lacks_it(layers: LayerMirror) -> None:
    array = open_level(layers, EM).array()
    layers.buckets.clear_requests()
    assert not array[:16, :64, :64].any()
    assert not [request for request in layers.buckets.requests if "0-64_0-64_12-28" in request]


def test_a_tracked_chunk_that_the_work_tree_lacks_is_an_error(
    layers: LayerMirror, tmp_path: Path
) -> None:
    clone = tmp_path / "clone"
    source = layers.harness.repository(f"{LAYER_MIRROR}:{EM}")
    run_git(tmp_path, "clone", "-q", str(source), str(clone))
    run_git(clone, "annex", "get", "-q", "4_4_40")
    (clone / "4_4_40" / "64-128_64-128_12-28.br").unlink()
    array = neuromirror.volume.open(clone, 0)
    with pytest.raises(BlockUnavailableError, match=r"4_4_40/64-128_64-128_12-28.br"):
        array[0, 70, 70]
    # a chunk that the version lacks, too, is zeros
    assert not array[:16, :64, :64].any()


def test_store_lists_every_chunk_of_the_grid(layers: LayerMirror) -> None:
    opened = open_level(layers, EM, 2)
    store = BlockStore(opened.files, opened.volume)

    async def keys() -> list[str]:
        return [key async for key in store.list()]

    x, y, z = opened.level.grid
    found = asyncio.run(keys())
    assert len([key for key in found if "/c/" in key]) == x * y * z
    assert {"zarr.json", "2/zarr.json"} <= set(found)
