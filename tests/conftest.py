"""Shared fixtures. Tests never use the user's home directory, git configuration or keyring."""

from __future__ import annotations

import fcntl
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from neuromirror_demo import DemoArchive
from support.isolated_home import isolate_home
from support.loopback_http import serving_directory

if TYPE_CHECKING:
    from support.mirror_harness import MirrorHarness

# intern imports CloudVolume if it can, which takes a second; no test uses it in this process
sys.modules["cloudvolume"] = None  # type: ignore[assignment]

pytest_plugins = ["support.suite_order", "support.rerun_failed"]

# A busy machine is not a failure
settings.register_profile(
    "neuromirror", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("neuromirror")
# Examples without the constants of all modules imported so far: to parse those takes each process
# three seconds, and the examples would depend on the tests that ran before
pytest.MonkeyPatch().setattr(
    "hypothesis.internal.conjecture.providers.is_local_module_file", lambda path: False
)

# A shell starts background jobs with SIGINT ignored, which children would inherit
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return new folders, without reading those of all tests as ``mktemp`` does for each."""
    folder = tmp_path_factory.mktemp("homes")
    return (folder / str(number) for number in itertools.count())


@pytest.fixture(scope="session", autouse=True)
def session_home(homes: Iterator[Path]) -> Iterator[Path]:
    """Use a HOME without settings for what lives longer than a test or a module."""
    with pytest.MonkeyPatch.context() as patch:
        yield isolate_home(next(homes), patch, may_use_loopback=False)


@pytest.fixture(autouse=True)
def isolated_home(homes: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use a new HOME and git identity, and put the environment's programs first on PATH."""
    return isolate_home(next(homes), monkeypatch)


@pytest.fixture(scope="module")
def module_home(homes: Iterator[Path]) -> Iterator[Path]:
    """Use a new HOME for the fixtures of a module that start before that of a test."""
    with pytest.MonkeyPatch.context() as patch:
        yield isolate_home(next(homes), patch)


@pytest.fixture
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeat failed requests at once, with the limits that users have."""
    quick = SimpleNamespace(sleep=lambda seconds: None)
    monkeypatch.setattr("neuromirror.net.session.time", quick)


@pytest.fixture(scope="session")
def demo_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory for generated NWB files, each of which is written once per run."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return tmp_path_factory.mktemp("demo-files")
    folder = tmp_path_factory.getbasetemp().parent / "demo-files"
    with folder.with_suffix(".lock").open("w") as lock:
        # the first worker loads pynwb, which takes seconds, and the others wait
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            with DemoArchive(tmp_path_factory.mktemp("filled"), cache=folder):
                pass
    return folder


@pytest.fixture
def demo(tmp_path: Path, demo_files: Path) -> Iterator[DemoArchive]:
    """Serve a new demo archive on free loopback ports."""
    with DemoArchive(tmp_path / "demo", cache=demo_files) as running:
        yield running


@pytest.fixture(scope="session")
def shared_demo(
    tmp_path_factory: pytest.TempPathFactory, demo_files: Path
) -> Iterator[DemoArchive]:
    """Serve one demo archive for all tests that do not change it."""
    with DemoArchive(tmp_path_factory.mktemp("still"), cache=demo_files) as running:
        yield running


@pytest.fixture(scope="session")
def demo_harness(
    shared_demo: DemoArchive, tmp_path_factory: pytest.TempPathFactory
) -> MirrorHarness:
    """Return a store of the archive that stands still, to read only."""
    from support.synced_mirror import sync_mirror

    return sync_mirror(shared_demo, tmp_path_factory.mktemp("synced"))


@pytest.fixture
def copied_harness(demo_harness: MirrorHarness, tmp_path: Path) -> MirrorHarness:
    """Return a copy of that store, to write to."""
    from support.synced_mirror import copy_mirror

    return copy_mirror(demo_harness, tmp_path / "copied")


@pytest.fixture
def mount_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mount a tmpfs of a given size (``256k``, ``4m``); skips the test without root permissions."""
    mounted: list[Path] = []

    def mount(size: str) -> Path:
        folder = tmp_path / f"disk-{size}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, check=False).returncode == 0
        except FileNotFoundError:
            done = False
        if not done:
            pytest.skip("mounting a tmpfs requires root permissions")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def serve_directory() -> Iterator[Callable[[Path], str]]:
    """Serve the files of a folder on loopback, and return the URL."""
    with ExitStack() as stack:

        def start(folder: Path) -> str:
            return stack.enter_context(serving_directory(folder))

        yield start
