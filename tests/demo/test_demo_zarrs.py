"""The demo's Zarrs are real ones, and what the archive says of them is what DANDI says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from neuromirror_demo import DemoArchive
from support.zarrs_of_every_kind import add_zarrs, pixel

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
