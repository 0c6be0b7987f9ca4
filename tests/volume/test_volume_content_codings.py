"""Chunks in every content coding: each reader returns the voxels that were written, or refuses.

A reader takes a chunk that is missing as zeros, so no chunk that the archive lists may be missing.
"""

import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
from cloudfiles.compression import compress

import neuromirror
import neuromirror.volume
from neuromirror.model import NeuromirrorError
from neuromirror_demo import DemoBuckets
from neuromirror_demo.volumes import LayerScale, layer_objects
from support.layer_mirror import LAYER_MIRROR
from support.mirror_harness import MirrorHarness, run_git
from support.running_catalogue import RunningCatalogue, allow_loopback, run_catalogue

VOXELS = (np.arange(16 * 64 * 192) % 251 + 1).astype("uint8").reshape(16, 64, 192)
VOXELS[:, :, 128:] = 0
"""Three chunks along x, of which the last one has no object."""

STATED = {
    **{one: one for one in ("br", "gzip", "zstd", "xz", "bzip2")},
    "bz2": "bzip2",  # as CloudVolume writes it to Google's buckets
    **{"deflate": "", "gzip, br": ""},
}
"""Content-Encoding → the coding; empty for one that CloudVolume does not know."""
ENDINGS = {".br": "br", ".gz": "gzip", ".zstd": "zstd", ".xz": "xz", ".bz2": "bzip2"} | {".lz4": ""}
"""Endings of names, as CloudVolume writes them to a disk, from which they were copied."""
SHARDS = "shards-gzip"
LAYERS = [*(f"stated-{one}" for one in STATED), *(f"named-{one[1:]}" for one in ENDINGS), SHARDS]
REFUSED = {
    **{"stated-deflate": "Content-Encoding deflate", "stated-gzip, br": "Content-Encoding gzip,br"},
    **{"named-lz4": r"files that end in \.lz4", SHARDS: r"files that end in \.shard\.gz"},
}
READABLE = set(LAYERS) - set(REFUSED)


CLOUDVOLUME = """
import hashlib, sys
from cloudvolume import CloudVolume
for url in sys.argv[1:]:
    try:
        found = CloudVolume(url, fill_missing=True, progress=False)[:]
    except Exception:
        print("read: ")
    else:
        print("read:", hashlib.sha256(found[..., 0].transpose().tobytes()).hexdigest())
"""
"""Reads layers with the real CloudVolume, which no test imports into its process."""


@dataclass
class CodedLayers:
    """The layers, mirrored, and their catalogue."""

    harness: MirrorHarness
    site: RunningCatalogue

    def version(self, layer: str) -> str:
        return f"{LAYER_MIRROR}:{layer.replace(', ', '-')}/em@latest"


@pytest.fixture(scope="module")
def coded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CodedLayers]:
    folder = tmp_path_factory.mktemp("coded")
    scale = LayerScale(VOXELS, (0, 0, 0), (4, 4, 40))
    with (
        DemoBuckets(folder / "buckets", layers=True, empty=True) as buckets,
        pytest.MonkeyPatch.context() as patch,
    ):
        for path in buckets.mirrors.iterdir():
            if path.stem != LAYER_MIRROR:
                path.unlink()

        def put(layer: str, coding: str, stated: str = "", ending: str = "") -> None:
            objects = layer_objects([scale], sharded=layer == SHARDS)
            for name, stored in objects.items():
                is_chunk = "/" in name
                data = compress(stored.data, coding) if is_chunk else stored.data
                key = f"{layer.replace(', ', '-')}/em/{name}{ending if is_chunk else ''}"
                encoding = stated if is_chunk else ""
                buckets.put(key, data, bucket=buckets.precomputed, encoding=encoding)

        for stated, coding in STATED.items():
            put(f"stated-{stated}", coding or "gzip", stated=stated)
        for ending, coding in ENDINGS.items():
            put(f"named-{ending[1:]}", coding or "gzip", ending=ending)
        put(SHARDS, "gzip", stated="gzip")
        harness = MirrorHarness(buckets.mirrors, folder / "store")
        harness.sync()
        allow_loopback(patch)
        with run_catalogue(harness.store, "--gateway=proxy") as site:
            yield CodedLayers(harness, site)


@pytest.mark.parametrize("layer", LAYERS)
def test_arrays_and_clones_are_equal_to_the_truth_or_raise(
    coded: CodedLayers, layer: str, tmp_path: Path
) -> None:
    version = coded.version(layer)
    clone = tmp_path / "clone"
    source = coded.harness.repository(version.removesuffix("@latest"))
    run_git(tmp_path, "clone", "-q", str(source), str(clone))

    reads: list[Callable[[], Any]] = [
        lambda: neuromirror.volume.open(version, store=coded.harness.folder)[...],
        lambda: neuromirror.open_zarr(version, "", store=coded.harness.folder)["0"][...],
        lambda: neuromirror.volume.open(clone)[...],
    ]
    for read in reads:
        if layer in READABLE:
            assert np.array_equal(read(), VOXELS)
        else:
            with pytest.raises(NeuromirrorError, match=REFUSED[layer]):
                read()


def test_tensorstore_at_the_gateway_reads_the_truth_or_fails(coded: CodedLayers) -> None:
    for layer in LAYERS:
        at = f"{coded.site.address}/at/{coded.version(layer)}/"
        store = tensorstore.open({"driver": "neuroglancer_precomputed", "kvstore": at}).result()
        try:
            found = store[..., 0].read().result().transpose()
        except ValueError:
            assert layer not in ("stated-gzip", "stated-br", "named-gz")
        else:
            assert np.array_equal(found, VOXELS), layer


def test_cloudvolume_at_the_gateway_reads_the_truth_or_fails(coded: CodedLayers) -> None:
    urls = [f"precomputed://{coded.site.address}/at/{coded.version(layer)}" for layer in LAYERS]
    done = subprocess.run(
        [sys.executable, "-c", CLOUDVOLUME, *urls], capture_output=True, text=True, check=True
    )
    expected = hashlib.sha256(VOXELS).hexdigest()
    found = [line for line in done.stdout.splitlines() if line.startswith("read: ")]
    assert found == [f"read: {expected if one in READABLE else ''}" for one in LAYERS], done.stderr
