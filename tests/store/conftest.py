"""Fixtures: a store, and a small file system."""

from collections.abc import Callable
from pathlib import Path

import pytest

from neuromirror.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store.open(tmp_path / "store", create=True)


@pytest.fixture
def small_disk(mount_disk: Callable[[str], Path]) -> Path:
    """A file system of 4 MiB."""
    return mount_disk("4m")
