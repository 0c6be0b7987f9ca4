"""A store of the demo archives, mirrored once, and its catalogue on loopback."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.mirror_harness import MirrorHarness
from support.running_catalogue import RunningCatalogue, run_catalogue
from support.scripted_source import ScriptedHarness, ScriptedSource
from support.volume_archives import quiet_volumes, volume_site, volumes

__all__ = ["quiet_volumes", "volume_site", "volumes"]


@pytest.fixture(scope="session")
def site(demo_harness: MirrorHarness) -> Iterator[RunningCatalogue]:
    """The catalogue of that store."""
    with run_catalogue(demo_harness.store) as found:
        yield found


@pytest.fixture
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the cache of the machine, in which contents would outlive a fault."""
    monkeypatch.setenv("NEUROMIRROR_CACHE", "off")


@pytest.fixture
def source() -> ScriptedSource:
    """A scripted source without datasets."""
    return ScriptedSource()


@pytest.fixture
def box(tmp_path: Path, source: ScriptedSource) -> ScriptedHarness:
    """An empty place for a store that mirrors the scripted source."""
    return ScriptedHarness(tmp_path / "box", source)


@pytest.fixture(scope="module")
def catalogue(box: ScriptedHarness) -> Iterator[RunningCatalogue]:
    """The catalogue of the store of a module whose tests only look at it."""
    with run_catalogue(box.store) as site:
        yield site
