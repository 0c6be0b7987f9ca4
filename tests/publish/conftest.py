"""Stores to publish."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from neuromirror_demo import DemoArchive
from support.mirror_harness import MirrorHarness


@pytest.fixture(scope="session")
def _still_store(shared_demo: DemoArchive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "store"
    MirrorHarness(shared_demo.mirrors, folder).sync()
    return folder


@pytest.fixture
def synced(shared_demo: DemoArchive, _still_store: Path, tmp_path: Path) -> MirrorHarness:
    """A copy of a store with the demo archive."""
    shutil.copytree(_still_store, tmp_path / "store", symlinks=True)
    return MirrorHarness(shared_demo.mirrors, tmp_path / "store")
