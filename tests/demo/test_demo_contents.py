"""What the demo archives contain is the same at every start, and the field's libraries read it."""

import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from neuromirror_demo import DemoArchive, volumes
from neuromirror_demo.ndstore import DemoNdstore
from neuromirror_demo.ndstore.server import Project, Space
from neuromirror_demo.records import dandi_etag, zarr_checksum
from support.zarrs_of_every_kind import add_zarrs, pixel


def everything(demo: DemoArchive) -> dict[str, Any]:
    """All ids, times, checksums and object versions of the archive."""
    return {
        "versions": [
            (dandiset.identifier, version.label, str(version.created), str(version.modified))
            for dandiset in demo.dandisets.values()
            for version in dandiset.versions
        ],
        "assets": [
            (one.asset_id, one.path, str(one.modified), one.size) for one in demo.assets.values()
        ],
        "blobs": [
            (blob.blob_id, blob.sha256, blob.etag, blob.version_id) for blob in demo.blobs.values()
        ],
        "zarrs": [(zarr.zarr_id, zarr.checksum) for zarr in demo.zarrs.values()],
    }


def test_two_starts_give_the_same_ids_times_and_bytes(
    demo: DemoArchive, tmp_path: Path, demo_files: Path
) -> None:
    with DemoArchive(tmp_path / "second", cache=demo_files) as second:
        assert second.api_url != demo.api_url
        assert everything(second) == everything(demo)


def test_checksums_are_those_of_the_dandi_client(tmp_path: Path) -> None:
    from dandischema.digests.dandietag import DandiETag

    data = random.Random(1).randbytes(70_000)
    (tmp_path / "file").write_bytes(data)
    assert dandi_etag(data) == DandiETag.from_file(tmp_path / "file").as_str()
    assert zarr_checksum({}) == "481a2f77ab786a0f45aafd5db0971caa-0--0"


MADE = {
    "tissue": ("uint8", (70, 260, 300), "1875fc11f3cba80a"),
    "cells": ("uint64", (70, 260, 300), "492542db2ddda83c"),
    "activity": ("uint16", (3, 36, 130, 150), "d46dc1de12d6ec32"),
}


@pytest.mark.parametrize("name", MADE)
def test_every_machine_makes_the_same_bytes(name: str) -> None:
    made = getattr(volumes, name)()
    digest = hashlib.sha256(made.astype(made.dtype.newbyteorder("<")).tobytes()).hexdigest()
    assert (made.dtype, made.shape, digest[:16]) == MADE[name]


def test_the_info_of_kasthuri11_is_what_the_manual_shows() -> None:
    space = Space("kasthuri11", (21504, 26624, 1850), (0, 0, 1), (1.0, 1.0, 10.0), 8, "zslices")
    document = json.loads(json.dumps(Project("kasthuri11", space).info()))["dataset"]
    assert document["imagesize"]["7"] == [168, 208, 1850]
    assert [document["cube_dimension"][str(level)] for level in (4, 5)] == [
        [128, 128, 16],
        [64] * 3,
    ]
    assert [document["neariso_scaledown"][str(n)] for n in range(8)] == [1, 1, 1, 1, 2, 3, 6, 13]
    assert document["voxelres"]["7"] == [128.0, 128.0, 10.0]
    assert document["offset"]["7"] == [0, 0, 1]
    assert document["resolutions"] == [*range(8)]
    assert document["scalinglevels"] == 7


def test_sizes_are_rounded_up_and_offsets_down(tmp_path: Path) -> None:
    with DemoNdstore(tmp_path) as ndstore:
        document, ramon = (
            requests.get(f"{ndstore.api}/{project}/info/", timeout=300).json()
            for project in ("democube", "demo15_ramon")
        )
    document = document["dataset"]
    assert document["imagesize"] == {"0": [100, 90, 36], "1": [50, 45, 18], "2": [25, 23, 9]}
    assert document["offset"] == {"0": [10, 6, 4], "1": [5, 3, 2], "2": [2, 1, 1]}
    assert document["scaling"] == "xyz"
    assert "neariso_offset" not in document
    channel = ramon["channels"]["synapses"]
    assert channel["resolution"] == 1
    assert channel["channel_type"] == "annotation"


IMAGES = ("v2x40", "v3x40")

Made = dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def still(
    tmp_path_factory: pytest.TempPathFactory, demo_files: Path
) -> Iterator[tuple[DemoArchive, Made]]:
    """An archive of nothing but the dandisets with Zarrs, and where these are."""
    folder = tmp_path_factory.mktemp("zarrs")
    with DemoArchive(folder, cache=demo_files, empty=True) as running:
        yield running, add_zarrs(running)


def row_of(demo: DemoArchive, one: dict[str, str]) -> Any:
    url = f"{demo.api_url}/dandisets/{one['dandiset']}/versions/draft/assets/?metadata=true"
    headers = {"Authorization": f"token {demo.token}"}
    rows = requests.get(url, headers=headers, timeout=20).json()["results"]
    (row,) = [row for row in rows if row["path"] == one["path"]]
    return row


def on_disk(demo: DemoArchive, zarr_id: str, folder: Path) -> Path:
    for name, entry in demo.zarrs[zarr_id].entries.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(entry.data)
    return folder


def test_zarr_open_reads_images_of_both_formats_and_all_their_entries(
    still: tuple[DemoArchive, Made], tmp_path: Path
) -> None:
    import zarr

    demo, made = still
    for seed, name in enumerate(IMAGES, 1):
        count = int(name.partition("x")[2])
        assert len(demo.zarrs[made[name]["zarr"]].entries) == count
        image = zarr.open(on_disk(demo, made[name]["zarr"], tmp_path / name), mode="r")
        assert image.metadata.zarr_format == int(name[1])
        assert sorted(image) == ["0", "1", "10"]
        for level, array in enumerate(("0", "1", "10")):
            data = image[array][:]
            height, width = data.shape
            assert data[height - 1, width - 1] == pixel(seed, level, height - 1, width - 1)
            assert data.min() == pixel(seed, level, 0, 0) > 0  # no chunk is missing


def test_the_stated_checksums_are_those_of_the_fields_library(
    still: tuple[DemoArchive, Made],
) -> None:
    from zarr_checksum.tree import ZarrChecksumTree

    demo, made = still
    for name, one in made.items():
        zarr = demo.zarrs[one["zarr"]]
        tree = ZarrChecksumTree()
        for path, entry in zarr.entries.items():
            tree.add_leaf(Path(path), len(entry.data), entry.etag)
        true = str(tree.process())
        stated = row_of(demo, one)["metadata"]["digest"]["dandi:dandi-zarr-checksum"]
        if name == "pending":
            assert stated is None
        else:
            assert (stated == true) is (name != "wrong")
            assert stated.split("-", 1)[1] == true.split("-", 1)[1]
