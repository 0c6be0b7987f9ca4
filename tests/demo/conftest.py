"""Demo servers, fresh or shared by tests that only read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from neuromirror_demo import DemoBuckets
from neuromirror_demo.boss import DemoBoss


@pytest.fixture
def buckets(tmp_path: Path) -> Iterator[DemoBuckets]:
    """Fresh buckets, serving on a free loopback port."""
    with DemoBuckets(tmp_path / "buckets") as running:
        yield running


@pytest.fixture(scope="module")
def still_buckets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoBuckets]:
    """Buckets for all tests of a module that only read them: no verb, no fault."""
    with DemoBuckets(tmp_path_factory.mktemp("buckets")) as running:
        yield running


@pytest.fixture
def boss(tmp_path: Path) -> Iterator[DemoBoss]:
    """A fresh BOSS, serving on a free loopback port."""
    with DemoBoss(tmp_path / "boss") as running:
        yield running


@pytest.fixture(scope="module")
def still_boss(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoBoss]:
    """A BOSS for all tests of a module that only read it: no verb, no fault."""
    with DemoBoss(tmp_path_factory.mktemp("boss")) as running:
        yield running
