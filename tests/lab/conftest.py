"""Stores to mint again from: of the demo archive, and of a source that says what a test wants."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# the places and the source of the crawl's tests
sys.path.append(str(Path(__file__).parents[1] / "crawl"))

from crawl_place import Place
from lab_again import Lab
from scripted import Box, Scripted

from neuromirror.demo import DemoArchive


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
