"""A demo archive, a store, and a run over both, as the command line makes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from crawl_place import Place
from embargo_place import Embargo, prepared
from scripted import Box, Scripted

from neuromirror_demo import DemoArchive

ZARR_LIMITS = "[zarr]\ninline_parts = 4\n"


@pytest.fixture
def place(demo: DemoArchive, tmp_path: Path) -> Place:
    """An empty place for a store, beside a fresh demo archive."""
    return Place(demo.mirrors, tmp_path / "store")


@pytest.fixture
def another(demo: DemoArchive, tmp_path: Path) -> Place:
    """A second empty place, for the same archive."""
    return Place(demo.mirrors, tmp_path / "another")


@pytest.fixture
def small(tmp_path: Path, demo_files: Path) -> Iterator[DemoArchive]:
    """A demo archive without dandisets, for tests that make their own."""
    with DemoArchive(tmp_path / "small", cache=demo_files, empty=True) as running:
        yield running


@pytest.fixture
def source() -> Scripted:
    """A scripted source without datasets."""
    return Scripted()


@pytest.fixture
def box(tmp_path: Path, source: Scripted) -> Box:
    """An empty place for a store that mirrors the scripted source."""
    return Box(tmp_path / "box", source)


@pytest.fixture
def zarrs(tmp_path: Path, source: Scripted) -> Box:
    """A store of a mirror for which three files are few."""
    return Box(tmp_path / "zarrs", source, ZARR_LIMITS)


@pytest.fixture
def another_box(tmp_path: Path, source: Scripted) -> Box:
    """A second empty place, for the same source."""
    return Box(tmp_path / "another-box", source)


@pytest.fixture
def embargo(small: DemoArchive, tmp_path: Path) -> Embargo:
    """An archive of an open and an embargoed dandiset, with canaries, and places for stores."""
    return prepared(small, tmp_path / "stores")
