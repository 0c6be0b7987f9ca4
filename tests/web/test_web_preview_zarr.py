"""Previews of Zarrs: their arrays and a slice, from verified chunks."""

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr
from PIL import Image

from neuromirror.index import Index
from neuromirror.previews import Preview
from neuromirror.previews.images import draw_plane
from neuromirror.previews.zarr import preview_zarr
from neuromirror.web.async_index import UnavailableError
from neuromirror.web.previews import PreviewService, find_zarr
from neuromirror_demo import DemoArchive
from neuromirror_demo.bucket_contents import FUSION
from support.mirror_harness import MirrorHarness
from support.running_catalogue import RunningCatalogue, allow_loopback, run_catalogue, visible_text
from support.scripted_source import (
    ScriptedDataset,
    ScriptedHarness,
    ScriptedSource,
    ScriptedZarr,
    files,
)

NAME = f"demo-aind:{FUSION}"


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory, demo_files: Path) -> Iterator[MirrorHarness]:
    """A store of an asset in a bucket, with an OME-Zarr."""
    folder = tmp_path_factory.mktemp("zarr")
    with DemoArchive(folder / "demo", cache=demo_files, buckets=True) as demo:
        found = MirrorHarness(demo.mirrors, folder / "store")
        found.sync(NAME)
        yield found


@pytest.fixture(scope="module")
def catalogue(harness: MirrorHarness) -> Iterator[RunningCatalogue]:
    with pytest.MonkeyPatch.context() as patch:
        # the demo's object store is another host than the archive that the operator named
        allow_loopback(patch)
        with run_catalogue(harness.store) as site:
            yield site


def test_the_arrays_and_a_slice_of_an_ome_zarr(catalogue: RunningCatalogue) -> None:
    page = catalogue.page(f"/preview/{NAME}@latest?path=fused.zarr")
    text = visible_text(page)
    assert "Path Shape Chunks Type" in text
    assert "which were verified" in text
    picture = catalogue.get(f"/thumbnail/{NAME}@latest?path=fused.zarr")
    assert picture.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(picture.content)).width > 1


def test_a_zarr_that_cannot_be_read_has_none(tmp_path: Path) -> None:
    source = ScriptedSource()
    box = ScriptedHarness(tmp_path / "box", source, "[zarr]\ninline = 1\n")
    source.zarrs["z"] = ScriptedZarr(files(".zattrs", "0/0"))
    source.scripted_datasets["imaged"] = ScriptedDataset(files("a.txt"), zarrs={"b.zarr": "z"})
    box.sync()
    with Index.open_readonly(box.store.index_path) as index:
        found = find_zarr(index, index.versions.resolve("box:imaged"), "b.zarr")
    assert found is not None
    version, zarr = found
    assert version.dataset_name != "box:imaged"  # it is a subdataset
    assert zarr.folder == ""
    service = PreviewService(box.store, seconds=30)

    async def run() -> Preview:
        return await service.preview(version, zarr)

    with pytest.raises(UnavailableError) as error:
        asyncio.run(run())
    assert error.value.status in (422, 502)


def test_a_plane_is_drawn_from_dark_to_bright() -> None:
    plane = np.linspace(0, 1e6, 40 * 30).reshape(30, 40)
    plane[0, 0] = np.nan
    picture = draw_plane(plane, "A plane")
    image = Image.open(io.BytesIO(picture.data))
    assert (image.width, image.height, image.mode) == (40, 30, "L")
    assert image.getpixel((5, 0)) < 20
    assert image.getpixel((39, 29)) > 250
    flat = draw_plane(np.full((2000, 3000), 7, "uint16"), "Flat")
    assert max(flat.width, flat.height) <= 768


class FolderFiles:
    """A folder as the files of a version."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.read: set[str] = set()

    def git_document(self, path: str) -> bytes | None:
        self.read.add(path)
        file = self.folder / path
        return file.read_bytes() if file.is_file() else None

    def read_object(self, path: str, max_bytes: int) -> bytes | None:
        return None

    def has(self, path: str) -> bool:
        return (self.folder / path).exists()

    def entries(self, folder: str) -> Iterator[tuple[str, bool]]:
        for one in sorted((self.folder / folder).iterdir()):
            yield one.name, one.is_dir()


def test_only_the_listed_arrays_of_a_large_zarr_are_read(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path)
    for number in range(60):
        inner = group.create_group(f"{number:02}") if number % 2 else group
        inner.create_array(f"{number:02}-array", shape=(2,), dtype="u1")
    found = FolderFiles(tmp_path)
    preview = preview_zarr(found, "")  # type: ignore[arg-type]
    (table,) = preview.tables
    assert len(table.rows) == 40
    assert {row[0] for row in table.rows} >= {"00-array", "01/01-array"}
    assert not {path for path in found.read if path.startswith("58")}
