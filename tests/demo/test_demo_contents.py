"""The contents of the demo are real data, consistent, and the same at every start."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import requests

from neuromirror_demo import SHARED, ZARR, DemoArchive
from neuromirror_demo.records import dandi_etag, zarr_checksum


def everything(demo: DemoArchive) -> dict[str, Any]:
    """All ids, times, checksums and object versions of the archive."""
    return {
        "versions": [
            (one.identifier, version.label, str(version.created), str(version.modified))
            for one in demo.dandisets.values()
            for version in one.versions
        ],
        "assets": [
            (one.asset_id, one.path, str(one.modified), one.size) for one in demo.assets.values()
        ],
        "blobs": [
            (one.blob_id, one.sha256, one.etag, one.version_id) for one in demo.blobs.values()
        ],
        "zarrs": [(one.zarr_id, one.checksum) for one in demo.zarrs.values()],
    }


def test_two_starts_give_the_same_ids_times_and_bytes(
    demo: DemoArchive, tmp_path: Path, demo_files: Path
) -> None:
    with DemoArchive(tmp_path / "second", cache=demo_files) as second:
        assert second.api_url != demo.api_url
        assert everything(second) == everything(demo)


_OTHER_PROCESS = """
import json, sys
from pathlib import Path
from pynwb import NWBHDF5IO
from neuromirror_demo.archive import nwb_bytes, parse_recipe
folder, read = Path(sys.argv[1]), {}
for path in folder.iterdir():
    with NWBHDF5IO(path, mode="r") as reader:
        nwb = reader.read()
        (series,) = nwb.acquisition.values()
        read[path.name] = len(series.data), nwb.subject.subject_id
for number, path in enumerate(sys.argv[2:]):
    (folder / f"written-{number}").write_bytes(nwb_bytes(parse_recipe(path), folder / "cache"))
print(json.dumps(read))
"""


def test_nwb_files_open_in_pynwb_and_are_written_with_the_same_bytes_by_another_process(
    demo: DemoArchive, tmp_path: Path
) -> None:
    assets = {one.asset_id: one for one in demo.assets.values() if one.path.endswith(".nwb")}
    files = tmp_path / "files"
    files.mkdir()
    for identifier, asset in assets.items():
        assert asset.blob is not None
        assert 20_000 < asset.blob.size < 100_000
        (files / identifier).write_bytes(asset.blob.data)
    first = {one.path: one.blob for one in demo.dandisets["000002"].published[0].assets.values()}
    paths = (SHARED, "sub-202/sub-202_ses-01_behavior.nwb")
    other = subprocess.run(
        [sys.executable, "-c", _OTHER_PROCESS, files, *paths],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    read = json.loads(other.stdout)
    assert read.keys() == assets.keys()
    assert len(read) > 15
    for identifier, (count, subject) in read.items():
        assert count in {500, 2000}
        assert subject in assets[identifier].path
    for number, path in enumerate(paths):
        blob = first[path]
        assert blob is not None
        assert (files / f"written-{number}").read_bytes() == blob.data


def test_the_zarr_opens_in_zarr_and_has_the_checksum_that_dandi_computes(
    demo: DemoArchive, tmp_path: Path
) -> None:
    import zarr

    image = demo.dandisets["000005"].draft.assets[ZARR].zarr
    assert image is not None
    for name, entry in image.entries.items():
        target = tmp_path / "image.ome.zarr" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(entry.data)
    group = zarr.open_group(tmp_path / "image.ome.zarr", mode="r")
    assert group["0"].shape == (96, 16)
    assert int(group["1"][3, 2]) == int(group["0"][6, 4]) == (6 * 16 + 4) * 7
    from zarr_checksum import compute_zarr_checksum
    from zarr_checksum.generators import yield_files_local

    files = yield_files_local(tmp_path / "image.ome.zarr")
    assert str(compute_zarr_checksum(files)) == image.checksum


def test_checksums_are_those_of_the_dandi_client(tmp_path: Path) -> None:
    from dandischema.digests.dandietag import DandiETag

    data = random.Random(1).randbytes(70_000)
    (tmp_path / "file").write_bytes(data)
    assert dandi_etag(data) == DandiETag.from_file(tmp_path / "file").as_str()
    assert zarr_checksum({}) == "481a2f77ab786a0f45aafd5db0971caa-0--0"


def test_counts_sizes_and_times_agree_everywhere(demo: DemoArchive) -> None:
    for row in requests.get(f"{demo.api_url}/dandisets/", timeout=300).json()["results"]:
        for brief in (row["draft_version"], row["most_recent_published_version"]):
            if brief is None:
                continue
            base = f"{demo.api_url}/dandisets/{row['identifier']}/versions/{brief['version']}"
            assets = requests.get(f"{base}/assets/", timeout=300).json()["results"]
            info = requests.get(f"{base}/info/", timeout=300).json()
            assert brief["asset_count"] == info["asset_count"] == len(assets)
            assert brief["size"] == sum(one["size"] for one in assets)
            assert brief["modified"] == info["modified"] >= brief["created"]
            assert info["metadata"]["assetsSummary"]["numberOfBytes"] == brief["size"]
            assert all(one["created"] <= brief["modified"] for one in assets)
