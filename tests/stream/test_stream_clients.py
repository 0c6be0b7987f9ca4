"""Unmodified libraries read pinned states over the network; the results equal a download's."""

from __future__ import annotations

from pathlib import Path

import fsspec
import h5py
import numpy as np
import pytest

from neuromirror import stream
from neuromirror.lab.clone import download
from support.mirror_harness import MirrorHarness
from support.pinned_locks import pin_latest

NWB = "sub-101/sub-101_ses-01_ecephys.nwb"


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
