"""A store of the demo archives, mirrored once, and its catalogue on loopback."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from neuromirror_demo import DemoArchive
from support.mirror_harness import MirrorHarness
from support.running_catalogue import RunningCatalogue, run_catalogue
from support.scripted_source import ScriptedHarness, ScriptedSource
from support.volume_archives import quiet_volumes, volume_site, volumes

__all__ = ["quiet_volumes", "volume_site", "volumes"]


@pytest.fixture(scope="session")
def demo_harness(
    shared_demo: DemoArchive, tmp_path_factory: pytest.TempPathFactory
) -> MirrorHarness:
    """A store of the archive that stands still, to read only."""
    mirror_harness = MirrorHarness(shared_demo.mirrors, tmp_path_factory.mktemp("shown") / "store")
    mirror_harness.sync()
    return mirror_harness


@pytest.fixture(scope="session")
def site(demo_harness: MirrorHarness) -> Iterator[RunningCatalogue]:
    """The catalogue of that store."""
    with run_catalogue(demo_harness.store) as found:
        yield found


@pytest.fixture(scope="session")
def sql_catalogue(demo_harness: MirrorHarness) -> Iterator[RunningCatalogue]:
    """The catalogue of that store, which runs the SQL of its visitors."""
    with run_catalogue(demo_harness.store, "--sql") as found:
        yield found


@pytest.fixture
def copied_harness(demo_harness: MirrorHarness, tmp_path: Path) -> MirrorHarness:
    """A copy of that store, for tests that change it."""
    shutil.copytree(demo_harness.folder, tmp_path / "store", symlinks=True)
    return MirrorHarness(demo_harness.mirrors, tmp_path / "store")


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


@pytest.fixture
def empty_archive(tmp_path: Path, demo_files: Path) -> Iterator[DemoArchive]:
    """A demo archive without dandisets, for tests that make their own."""
    with DemoArchive(tmp_path / "small", cache=demo_files, empty=True) as running_archive:
        yield running_archive
