"""Unmodified libraries read pinned states over the network; the results equal a download's."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import fsspec
import h5py
import numpy as np
import pytest
import tifffile

from neuromirror import stream
from neuromirror.lab.clone import download
from neuromirror_demo import DemoBuckets
from neuromirror_demo.bucket_contents import BEHAVIOR
from support.mirror_harness import MirrorHarness
from support.pinned_locks import pin_latest

NWB = "sub-101/sub-101_ses-01_ecephys.nwb"
CSV = "behavior/trials.csv"
TIFF = "behavior/plane.tif"
PLANES = np.arange(3 * 500 * 400, dtype=np.uint16).reshape(3, 500, 400)


@pytest.fixture(scope="session")
def bucket_mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MirrorHarness]:
    """A store with an asset of a bucket that has a table and an image, read-only."""
    folder = tmp_path_factory.mktemp("bucketed")
    image = io.BytesIO()
    tifffile.imwrite(image, PLANES, tile=(64, 64), compression="zlib", photometric="minisblack")
    with DemoBuckets(folder / "buckets") as running:
        running.put(f"{BEHAVIOR}/{TIFF}", image.getvalue())
        mirror = MirrorHarness(running.mirrors, folder / "store")
        mirror.sync(f"demo-aind:{BEHAVIOR}")
        yield mirror


def downloaded(mirror: MirrorHarness, dataset: str, path: str, folder: Path) -> Path:
    url = f"ria+{mirror.folder.as_uri()}#~{dataset.replace(':', '--')}"
    outcomes = [*download(url, path, folder, jobs=2)]
    assert [one.status for one in outcomes] == ["ok"], outcomes
    return folder / path


def all_values(file: h5py.File) -> dict[str, object]:
    """Return the values of all datasets of a file; for references the names that they refer to."""
    found: dict[str, object] = {}

    def add(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if not isinstance(item, h5py.Dataset):
            found[name] = sorted(item.attrs)
        elif h5py.check_ref_dtype(item.dtype) is h5py.Reference:
            found[name] = [file[one].name for one in np.ravel(item[()])]
        else:
            value = np.asarray(item[()])
            found[name] = value.tolist() if value.dtype.hasobject else value.tobytes()

    file.visititems(add)
    return found


@pytest.mark.parametrize("form", ["store", "lock", "fsspec", "fsspec lock"])
def test_h5py_reads_what_a_download_has(
    demo_harness: MirrorHarness, tmp_path: Path, form: str
) -> None:
    local = downloaded(demo_harness, "demo:000001", NWB, tmp_path / "download")
    lock = pin_latest(demo_harness, tmp_path / "datasets.lock", "demo:000001")
    options = {"store": str(demo_harness.folder)}
    with demo_harness.index() as index:
        version = index.resolve("demo:000001").name
    opened = {
        "store": lambda: stream.open(version, NWB, store=demo_harness.folder),
        "lock": lambda: stream.open(lock, NWB),
        "fsspec": lambda: fsspec.open(f"neuromirror://{version}/{NWB}", **options).open(),
        "fsspec lock": lambda: fsspec.open(f"lock://{lock}/{NWB}").open(),
    }[form]()
    with opened, h5py.File(opened, "r") as remote, h5py.File(local, "r") as expected:
        assert all_values(remote) == all_values(expected)
        opened.seek(0)
        assert opened.read() == local.read_bytes()


def test_pynwb_reads_from_a_lock_file(demo_harness: MirrorHarness, tmp_path: Path) -> None:
    import pynwb

    local = downloaded(demo_harness, "demo:000001", NWB, tmp_path / "download")
    lock = pin_latest(demo_harness, tmp_path / "datasets.lock", "demo:000001")
    with (
        stream.open(lock, NWB) as opened,
        h5py.File(opened, "r") as file,
        pynwb.NWBHDF5IO(file=file) as reader,
        pynwb.NWBHDF5IO(str(local), "r") as local_reader,
    ):
        found, expected = reader.read(), local_reader.read()
        assert found.identifier == expected.identifier
        assert found.acquisition.keys() == expected.acquisition.keys()
        for name, series in expected.acquisition.items():
            assert np.array_equal(found.acquisition[name].data[:], series.data[:])


def test_pandas_reads_a_table(bucket_mirror: MirrorHarness, tmp_path: Path) -> None:
    import pandas as pd

    dataset = f"demo-aind:{BEHAVIOR}"
    expected = pd.read_csv(downloaded(bucket_mirror, dataset, CSV, tmp_path / "download"))
    lock = pin_latest(bucket_mirror, tmp_path / "datasets.lock", dataset)
    with stream.open(lock, CSV) as opened:
        pd.testing.assert_frame_equal(pd.read_csv(opened), expected)
    pd.testing.assert_frame_equal(pd.read_csv(f"lock://{lock}/{CSV}"), expected)


def test_tifffile_reads_planes(bucket_mirror: MirrorHarness, tmp_path: Path) -> None:
    lock = pin_latest(bucket_mirror, tmp_path / "datasets.lock", f"demo-aind:{BEHAVIOR}")
    with stream.open(lock, TIFF) as opened, tifffile.TiffFile(opened) as file:
        assert np.array_equal(file.pages[1].asarray(), PLANES[1])
        assert np.array_equal(file.asarray(), PLANES)
