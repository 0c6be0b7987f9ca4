"""A store synced once from an unchanging demo archive, and copies of it."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from neuromirror_demo import DemoArchive
from support.command_shell import Shell
from support.mirror_harness import MirrorHarness


@pytest.fixture
def shell(demo: DemoArchive, tmp_path: Path) -> Shell:
    """A missing store, and a demo archive of its own."""
    return Shell(demo.mirrors, tmp_path / "store")


@pytest.fixture
def synced(demo_harness: MirrorHarness) -> Shell:
    """The unchanging archive and its store, read-only."""
    return Shell(demo_harness.mirrors, demo_harness.folder)


@pytest.fixture
def copied(copied_harness: MirrorHarness) -> Shell:
    """A writable copy of that store."""
    return Shell(copied_harness.mirrors, copied_harness.folder)


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A bound port without a listener."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]
