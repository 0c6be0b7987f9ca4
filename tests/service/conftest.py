"""Fixtures: a store with a small demo archive, and a writer for jobs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from neuromirror_demo import DemoArchive
from support.job_harness import JobHarness, open_job_harness
from support.mirror_harness import MirrorHarness
from support.small_archive import small_archive


@pytest.fixture
def dandisets() -> int:
    """The number of dandisets of the small archive."""
    return 3


@pytest.fixture
def demo(tmp_path: Path, dandisets: int) -> Iterator[DemoArchive]:
    """A new archive of small dandisets; see ``full_demo`` for one with all kinds of files."""
    with small_archive(tmp_path / "demo", dandisets) as running:
        yield running


@pytest.fixture
def full_demo(tmp_path: Path, demo_files: Path) -> Iterator[DemoArchive]:
    """A new archive with the dandisets of the demonstration."""
    with DemoArchive(tmp_path / "full", cache=demo_files) as running:
        yield running


@pytest.fixture
def mirror_harness(demo: DemoArchive, tmp_path: Path) -> MirrorHarness:
    """An empty place for a store, beside a fresh demo archive."""
    return MirrorHarness(demo.mirrors, tmp_path / "store")


@pytest.fixture
def job_harness(mirror_harness: MirrorHarness) -> Iterator[JobHarness]:
    """A writer of the mirror's store, with its schedule."""
    with open_job_harness(mirror_harness) as running:
        yield running
