"""Stores to mint again from: of the demo archive, and of a source that says what a test wants."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# the places and the source of the crawl's tests
sys.path.append(str(Path(__file__).parents[1] / "crawl"))

from crawl_place import Place
from lab_again import Lab
from lab_cite import Shelf, filled_shelf, odd_shelf
from lab_get import get_template, world
from scripted import Box, Scripted

from neuromirror_demo import DemoArchive, DemoBuckets
from neuromirror_demo.bucket_contents import RAW

__all__ = ["get_template", "world"]


@pytest.fixture
def lab(demo: DemoArchive, tmp_path: Path) -> Lab:
    """An empty place for a store, beside a fresh demo archive."""
    return Lab(Place(demo.mirrors, tmp_path / "store"), tmp_path)


@pytest.fixture(scope="session")
def still_lab(still_demo: DemoArchive, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A store of the archive that stands still, to read only."""
    folder = tmp_path_factory.mktemp("still-lab")
    still = Lab(Place(still_demo.mirrors, folder / "store"), folder)
    still.place.sync()
    return still


@pytest.fixture
def source() -> Scripted:
    """A scripted source without datasets."""
    return Scripted()


@pytest.fixture
def box(tmp_path: Path, source: Scripted) -> Lab:
    """An empty place for a store of the scripted source, for which five files are a large Zarr."""
    settings = "[zarr]\ninline = 4\nmanifest = 12\n"
    return Lab(Box(tmp_path / "box", source, settings), tmp_path)


def _narrow(mirrors: Path, folder: Path, settings: str) -> Place:
    """A place beside mirrors like these, but with other settings for Zarrs."""
    made = folder / "mirrors"
    made.mkdir()
    for path in mirrors.glob("*.toml"):
        text = path.read_text("utf-8")
        (made / path.name).write_text(f"{text}\n[zarr]\n{settings}\n", "utf-8")
    return Place(made, folder / "store")


@pytest.fixture(scope="session")
def parted(still_demo: DemoArchive, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A store in which a Zarr is a dataset of its own, to read only."""
    place = _narrow(still_demo.mirrors, tmp_path_factory.mktemp("parted"), "inline = 4")
    place.sync("demo:000005")
    return place


@pytest.fixture(scope="session")
def bucketed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A store of buckets, one with hostile names, in which Zarrs are too large for git."""
    folder = tmp_path_factory.mktemp("bucketed")
    with DemoBuckets(folder / "buckets") as running:
        (running.mirrors / "hostile.toml").write_text(
            'source = "s3"\n[options]\nbucket = "demo-hostile"\ndepth = 0\n'
            f'endpoint = "{running.endpoint}"\n'
        )
        place = _narrow(running.mirrors, folder, "inline = 4\nmanifest = 8")
        place.sync("hostile", "demo-aind-benchmark", f"demo-aind:{RAW}")
        yield place


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory, demo_files: Path) -> Iterator[Shelf]:
    """A store with datasets of all kinds of sources, to read only."""
    with filled_shelf(tmp_path_factory.mktemp("shelf"), demo_files) as filled:
        yield filled


@pytest.fixture(scope="session")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """A store of dandisets that say odd things of themselves, to read only."""
    return odd_shelf(tmp_path_factory.mktemp("odd") / "box")
