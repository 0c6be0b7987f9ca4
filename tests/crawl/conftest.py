"""Fixtures: a demo archive, a store and a sync of one to the other."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from neuromirror_demo import DemoArchive
from neuromirror_demo.records import Description
from support.embargo_harness import EmbargoHarness, prepare_embargo
from support.mirror_harness import MirrorHarness
from support.scripted_source import ScriptedHarness, ScriptedSource

ZARR_LIMITS = "[zarr]\ninline_components = 4\n"


@pytest.fixture
def mirror_harness(demo: DemoArchive, tmp_path: Path) -> MirrorHarness:
    """An empty store for a fresh demo archive."""
    return MirrorHarness(demo.mirrors, tmp_path / "store")


@pytest.fixture
def second_harness(demo: DemoArchive, tmp_path: Path) -> MirrorHarness:
    """A second empty store for the same archive."""
    return MirrorHarness(demo.mirrors, tmp_path / "another")


@pytest.fixture
def empty_archive(tmp_path: Path, demo_files: Path) -> Iterator[DemoArchive]:
    """A demo archive without dandisets."""
    with DemoArchive(tmp_path / "small", cache=demo_files, empty=True) as running:
        yield running


@pytest.fixture
def two_dandisets(empty_archive: DemoArchive) -> DemoArchive:
    """An archive of a dandiset with a published version, and of one with a Zarr."""
    for number in (1, 2):
        dandiset = empty_archive.create_dandiset(Description(f"Number {number}"))
        empty_archive.add_file(dandiset, "a.txt", "a")
    empty_archive.publish("000001")
    empty_archive.add_file("000001", "b.txt", "b")
    empty_archive.add_zarr("000002", "z.zarr", {".zgroup": b"{}", "0/0": b"chunk"})
    return empty_archive


@pytest.fixture
def small_archive_harness(empty_archive: DemoArchive, tmp_path: Path) -> MirrorHarness:
    """An empty store for a small archive."""
    return MirrorHarness(empty_archive.mirrors, tmp_path / "here")


@pytest.fixture
def source() -> ScriptedSource:
    """A scripted source without datasets."""
    return ScriptedSource()


@pytest.fixture
def harness(tmp_path: Path, source: ScriptedSource) -> ScriptedHarness:
    """An empty store that mirrors the scripted source."""
    return ScriptedHarness(tmp_path / "box", source)


@pytest.fixture
def zarr_harness(tmp_path: Path, source: ScriptedSource) -> ScriptedHarness:
    """An empty store whose mirror stores Zarrs of up to three files inline."""
    return ScriptedHarness(tmp_path / "zarrs", source, ZARR_LIMITS)


@pytest.fixture
def other_harness(tmp_path: Path, source: ScriptedSource) -> ScriptedHarness:
    """A second empty store for the same source."""
    return ScriptedHarness(tmp_path / "another-box", source)


@pytest.fixture
def embargo(empty_archive: DemoArchive, tmp_path: Path) -> EmbargoHarness:
    """An archive with an open and an embargoed dandiset, with canaries, and two stores."""
    return prepare_embargo(empty_archive, tmp_path / "stores")
