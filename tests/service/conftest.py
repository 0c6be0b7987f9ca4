"""A store beside a demo archive, and a desk that workers of it can come to."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# the places of the crawl's tests
sys.path.append(str(Path(__file__).parents[1] / "crawl"))
# and the simulation
sys.path.append(str(Path(__file__).parents[2] / "scripts"))

from crawl_place import Place
from service_office import Office, office_of
from service_store import copy_of, synced

from neuromirror_demo import DemoArchive


@pytest.fixture
def place(demo: DemoArchive, tmp_path: Path) -> Place:
    """An empty place for a store, beside a fresh demo archive."""
    return Place(demo.mirrors, tmp_path / "store")


@pytest.fixture
def office(place: Place) -> Iterator[Office]:
    """A desk over the place's store, with its schedule."""
    with office_of(place) as running:
        yield running


@pytest.fixture(scope="session")
def still_place(still_demo: DemoArchive, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A store of the archive that stands still, to read only."""
    return synced(still_demo, tmp_path_factory.mktemp("synced"))


@pytest.fixture
def copied(still_place: Place, tmp_path: Path) -> Place:
    """A copy of that store, to write to."""
    return copy_of(still_place, tmp_path / "copied")
