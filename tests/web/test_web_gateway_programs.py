"""SpikeInterface opens a pinned recording through the gateway, and reads what a download has.

Its packages contradict those of neuromirror, so it runs in an environment of its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

from neuromirror.lab.clone import download
from neuromirror_demo import DemoBuckets
from neuromirror_demo.bucket_contents import RAW
from support.client_programs import client_python, run_client
from support.mirror_harness import MirrorHarness
from support.running_catalogue import allow_loopback, run_catalogue

RECORDING = "ecephys/ecephys_compressed/experiment1_Record Node 101#ProbeA.zarr"


@dataclass
class Pinned:
    """Assets of AIND in a store, and the address of their gateway."""

    mirror: MirrorHarness
    at: str

    def url(self, asset: str, path: str) -> str:
        return f"{self.at}/demo-aind:{asset}@latest/{quote(path)}"

    def downloaded(self, asset: str, path: str, folder: Path) -> Path:
        url = f"ria+{self.mirror.folder.as_uri()}#~demo-aind--{asset}"
        outcomes = [*download(url, path, folder, jobs=2)]
        assert outcomes
        assert {outcome.status for outcome in outcomes} == {"ok"}
        return folder / path


@pytest.fixture(scope="module")
def pinned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pinned]:
    """A recording that SpikeInterface wrote, behind the gateway, read-only."""
    client_python("spikeinterface")
    folder = tmp_path_factory.mktemp("programs")
    run_client("spikeinterface", "spikeinterface_recording", "write", folder / "recording.zarr")
    with DemoBuckets(folder / "buckets") as buckets, pytest.MonkeyPatch.context() as patch:
        for path in (folder / "recording.zarr").rglob("*"):
            if path.is_file():
                inner = path.relative_to(folder / "recording.zarr").as_posix()
                buckets.put(f"{RAW}/{RECORDING}/{inner}", path.read_bytes())
        mirror = MirrorHarness(buckets.mirrors, folder / "store")
        mirror.sync(f"demo-aind:{RAW}")
        allow_loopback(patch)
        with run_catalogue(mirror.store, "--gateway=proxy") as site:
            yield Pinned(mirror, f"{site.address}/at")


def assert_equal(found: Path, expected: Path) -> dict[str, np.ndarray]:
    """Compare the arrays of two files to the bit; return them."""
    with np.load(found) as one, np.load(expected) as other:
        assert one.files == other.files
        for name in one.files:
            assert one[name].dtype == other[name].dtype
            assert one[name].shape == other[name].shape
            assert one[name].tobytes() == other[name].tobytes()
        return {name: one[name] for name in one.files}


def test_spikeinterface_reads_a_recording(pinned: Pinned, tmp_path: Path) -> None:
    local = pinned.downloaded(RAW, RECORDING, tmp_path / "download")
    both = (local, tmp_path / "local.npz", pinned.url(RAW, RECORDING), tmp_path / "remote.npz")
    run_client("spikeinterface", "spikeinterface_recording", "read", *both)
    found = assert_equal(tmp_path / "remote.npz", tmp_path / "local.npz")
    assert found["traces1"].shape == (12_345, 8)
    assert np.array_equal(found["part"], found["traces1"][8_900:9_100][:, [2, 5]])
