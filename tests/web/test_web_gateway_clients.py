"""Programs that only read URLs open pinned states through the gateway, unchanged."""

import gzip
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import h5py
import numpy as np
import pytest
import requests
import zarr

from neuromirror_demo import DemoArchive
from neuromirror_demo.bucket_contents import FUSION, layer_scales
from support.mirror_harness import MirrorHarness
from support.running_catalogue import RunningCatalogue, allow_loopback, run_catalogue
from support.volume_archives import LAYER, VolumeArchives

MODES = ("redirect", "proxy")


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory, demo_files: Path) -> Iterator[MirrorHarness]:
    """A store of a dandiset with NWB files, and of an asset with a Zarr."""
    folder = tmp_path_factory.mktemp("read")
    with DemoArchive(folder / "demo", cache=demo_files, buckets=True) as demo:
        found = MirrorHarness(demo.mirrors, folder / "store")
        found.sync("demo:000002", f"demo-aind:{FUSION}")
        yield found


@pytest.fixture(scope="module", params=MODES)
def gateway(harness: MirrorHarness, request: pytest.FixtureRequest) -> Iterator[RunningCatalogue]:
    """The catalogue of the store, in each mode."""
    with pytest.MonkeyPatch.context() as patch:
        # the demo's object store is another host than the archive that the operator named
        allow_loopback(patch)
        with run_catalogue(harness.store, f"--gateway={request.param}") as site:
            yield site


@pytest.fixture(scope="module")
def nwb(harness: MirrorHarness) -> tuple[str, str]:
    """The path below the gateway and the sha256 of an NWB file."""
    with harness.index() as index:
        row = index.versions.resolve("demo:000002")
        file = next(one for one in index.files.of(row) if one.path.endswith(".nwb"))
    return f"/at/{row.name}/{file.path}", file.digest_values["sha256"]


def test_h5py_reads_an_nwb_file_over_fsspec(
    gateway: RunningCatalogue, nwb: tuple[str, str]
) -> None:
    address = gateway.address + nwb[0]
    with fsspec.open(address, block_size=1 << 14) as raw:
        assert hashlib.sha256(raw.read()).hexdigest() == nwb[1]
    with fsspec.open(address, block_size=1 << 14) as raw, h5py.File(raw) as file:
        assert file.attrs["nwb_version"]
        assert "session_description" in file


def test_fsspec_lists_and_finds_files(gateway: RunningCatalogue, nwb: tuple[str, str]) -> None:
    files = fsspec.filesystem("http")
    top = gateway.address + nwb[0].rpartition("/")[0]
    listed = [one["name"] for one in files.ls(f"{top}/")]
    assert gateway.address + nwb[0] in listed
    assert all(one.startswith(f"{top}/") for one in listed)
    assert files.info(gateway.address + nwb[0])["size"] > 0
    assert not files.exists(f"{top}/absent.nwb")


def test_zarr_python_reads_a_zarr(gateway: RunningCatalogue) -> None:
    address = f"{gateway.address}/at/demo-aind:{FUSION}@latest/fused.zarr"
    group = zarr.open_group(address, mode="r")
    assert sorted(group.array_keys()) == ["0", "1"]
    level = zarr.open_array(f"{address}/0", mode="r")
    voxels = level[:]
    assert voxels.any()
    for number in np.ndindex(*level.cdata_shape):
        chunk = "/".join(map(str, number))
        assert requests.get(f"{address}/0/c/{chunk}", timeout=60).status_code == 200
    assert requests.get(f"{address}/0/c/99/99/99", timeout=60).status_code == 404


@pytest.mark.parametrize("name", ["b:demo_cortex/sections/em", "n:demo11/image"])
def test_blocks_of_volumes_are_a_zarr_in_every_mode_but_off(
    volumes: VolumeArchives, volume_site: RunningCatalogue, name: str
) -> None:
    """No URL of the archive has the bytes of a block."""
    voxels, _ = volumes.voxels(name, 0)
    api = f"/api/v1/datasets/{name}@latest"
    assert "Read over HTTP" in volume_site.page(f"/dataset/{name}@latest")
    found = zarr.open_array(f"{volume_site.get(api).json()['at']}0", mode="r")[:]
    np.testing.assert_array_equal(found, voxels)
    # the operator does not want blocks to be read from the archive
    with run_catalogue(volumes.mirror_harness.store, "--no-cutouts") as site:
        assert "Read over HTTP" not in site.page(f"/dataset/{name}@latest")
        assert site.get(api).json()["at"] is None
        assert site.get(f"/at/{name}@latest/0/c/0/0/0").status_code == 403
    with run_catalogue(volumes.mirror_harness.store, "--no-cutouts", "--gateway=proxy") as site:
        assert site.get(f"/at/{name}@latest/0/c/0/0/0").status_code == 200


def test_chunks_of_a_precomputed_layer_have_the_names_of_the_layer(volumes: VolumeArchives) -> None:
    name = f"demo-precomputed:{LAYER}".replace("/em", "/cells")
    scale: Any = layer_scales(LAYER.replace("/em", "/cells"))[0]
    with run_catalogue(volumes.mirror_harness.store, "--gateway=proxy") as site:
        at = f"{site.address}/at/{name}@latest"
        info = requests.get(f"{at}/info", timeout=60).json()
        key = info["scales"][0]["key"]
        stored = next(
            one
            for one in requests.get(f"{at}/{key}/?format=json", timeout=60).json()["entries"]
            if one["name"].endswith(".gz")
        )
        raw = requests.get(stored["url"], timeout=60)
        chunk = requests.get(stored["url"].removesuffix(".gz"), timeout=60)
    assert "content-encoding" not in raw.headers
    assert chunk.headers["content-encoding"] == "gzip"
    assert chunk.content == gzip.decompress(raw.content)
    assert np.asarray(scale.voxels).any()
