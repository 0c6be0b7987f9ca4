"""Stores of the demo archive, read-only."""

from __future__ import annotations

import pytest

from neuromirror_demo import DemoArchive
from support.mirror_harness import MirrorHarness
from support.synced_mirror import sync_mirror


@pytest.fixture(scope="session")
def streamed_mirror(
    shared_demo: DemoArchive, tmp_path_factory: pytest.TempPathFactory
) -> MirrorHarness:
    """A store of the unchanging demo archive, read-only."""
    return sync_mirror(shared_demo, tmp_path_factory.mktemp("streamed"))
