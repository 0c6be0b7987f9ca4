"""A store of the demo archives, mirrored once, and its catalogue on loopback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# the places and the source of the crawl's tests
sys.path.append(str(Path(__file__).parents[1] / "crawl"))

from crawl_place import Place
from scripted import Box, Scripted
from web_site import Running, running
from web_volumes import quiet_volumes, volume_site, volumes

from neuromirror_demo import DemoArchive

__all__ = ["quiet_volumes", "volume_site", "volumes"]


@pytest.fixture(scope="session")
def shown(still_demo: DemoArchive, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A store of the archive that stands still, to read only."""
    place = Place(still_demo.mirrors, tmp_path_factory.mktemp("shown") / "store")
    place.sync()
    return place


@pytest.fixture(scope="session")
def site(shown: Place) -> Iterator[Running]:
    """The catalogue of that store."""
    with running(shown.store) as found:
        yield found


@pytest.fixture
def source() -> Scripted:
    """A scripted source without datasets."""
    return Scripted()


@pytest.fixture
def box(tmp_path: Path, source: Scripted) -> Box:
    """An empty place for a store that mirrors the scripted source."""
    return Box(tmp_path / "box", source)


@pytest.fixture
def small(tmp_path: Path, demo_files: Path) -> Iterator[DemoArchive]:
    """A demo archive without dandisets, for tests that make their own."""
    with DemoArchive(tmp_path / "small", cache=demo_files, empty=True) as running_archive:
        yield running_archive
