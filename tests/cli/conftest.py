"""A store synced once from an unchanging demo archive, and copies of it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from neuromirror_demo import DemoArchive
from support.command_shell import PROGRAM, Shell


@pytest.fixture
def shell(demo: DemoArchive, tmp_path: Path) -> Shell:
    """A missing store, and a demo archive of its own."""
    return Shell(demo.mirrors, tmp_path / "store")


@pytest.fixture(scope="session")
def still_store(shared_demo: DemoArchive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store synced from the unchanging archive."""
    folder = tmp_path_factory.mktemp("synced")
    subprocess.run(
        [*PROGRAM, "--mirrors", str(shared_demo.mirrors), "--store", str(folder / "store"), "sync"],
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "NO_PROXY": "127.0.0.1"},
        check=True,
        capture_output=True,
    )
    return folder / "store"


@pytest.fixture
def synced(shared_demo: DemoArchive, still_store: Path) -> Shell:
    """The unchanging archive and its store, read-only."""
    return Shell(shared_demo.mirrors, still_store)


@pytest.fixture
def copied(synced: Shell, tmp_path: Path) -> Shell:
    """A writable copy of that store."""
    shutil.copytree(synced.store, tmp_path / "copy", symlinks=True)
    return synced.with_changes(store=tmp_path / "copy")


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A bound port without a listener."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]
