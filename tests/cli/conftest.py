"""A store synced once from an unchanging demo archive, and copies of it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from neuromirror_demo import DemoArchive
from support.command_shell import Shell
from support.mirror_harness import MirrorHarness
from support.synced_mirror import copy_mirror, sync_mirror


@pytest.fixture
def shell(demo: DemoArchive, tmp_path: Path) -> Shell:
    """A missing store, and a demo archive of its own."""
    return Shell(demo.mirrors, tmp_path / "store")


@pytest.fixture(scope="session")
def still_mirror(
    shared_demo: DemoArchive, tmp_path_factory: pytest.TempPathFactory
) -> MirrorHarness:
    """A store synced from the unchanging archive."""
    return sync_mirror(shared_demo, tmp_path_factory.mktemp("synced"))


@pytest.fixture
def synced(still_mirror: MirrorHarness) -> Shell:
    """The unchanging archive and its store, read-only."""
    return Shell(still_mirror.mirrors, still_mirror.folder)


@pytest.fixture
def copied(still_mirror: MirrorHarness, tmp_path: Path) -> Shell:
    """A writable copy of that store."""
    copy = copy_mirror(still_mirror, tmp_path / "copy")
    return Shell(copy.mirrors, copy.folder)


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A bound port without a listener."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]
