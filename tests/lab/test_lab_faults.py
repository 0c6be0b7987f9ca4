"""Faults around a lock file: each has its own message and an exit code."""

import os
import signal
import subprocess
import sys
import time
from contextlib import chdir
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from neuromirror.cli import main
from neuromirror.lab import pin
from neuromirror.lab.output_files import LockBusyError, exclusive_write
from neuromirror.lab.pin import PinRequest
from neuromirror_demo import DemoArchive
from support.lab_store import LabStore
from support.lock_folders import DRAFT, PUBLISHED, LockFolder
from support.mirror_harness import MirrorHarness


def command(paper: LockFolder, *arguments: str, code: int = 0) -> Result:
    """Run a command without a store; ``LOCK`` and ``DATA`` are replaced by paths."""
    paths = {"LOCK": str(paper.file), "DATA": str(paper.folder / "data")}
    given = [paths.get(argument, argument) for argument in arguments]
    with chdir(paper.folder):
        done = CliRunner().invoke(main, given, catch_exceptions=False)
    assert done.exit_code == code, (done.exit_code, done.output)
    return done


RESTORE = ("restore", "LOCK", "--into", "DATA")
VERIFY = ("verify", "LOCK", "--in", "DATA")


# --- bytes


# --- the lock


def test_a_lock_from_the_future_is_refused_by_every_verb(
    lock_folder: LockFolder, still_lab: LabStore
) -> None:
    lock_folder.edit("lock-version = 2", "lock-version = 3")
    before = lock_folder.files()
    store = ("--store", str(still_lab.mirror_harness.folder))
    remove = ("pin", "--remove", PUBLISHED, "-o", "LOCK")
    for verb in (RESTORE, VERIFY, (*VERIFY, "--remote"), ("cite", "LOCK"), remove):
        assert "lock-version 3" in command(lock_folder, *store, *verb, code=2).stderr
    assert lock_folder.files() == before


# --- the network


@pytest.fixture
def offline_lock_folder(demo: DemoArchive, tmp_path: Path) -> LockFolder:
    """A lock file whose archive has been stopped."""
    mirror_harness = MirrorHarness(demo.mirrors, tmp_path / "store")
    mirror_harness.sync(PUBLISHED)
    paper = LockFolder(mirror_harness, tmp_path / "paper")
    paper.pin(PUBLISHED, bundle=True, clones=("http://127.0.0.1:9/alias/{alias}",))
    demo.__exit__(None, None, None)
    return paper


@pytest.mark.usefixtures("no_waits")
def test_without_a_network_the_dataset_is_restored_and_its_files_are_counted(
    offline_lock_folder: LockFolder,
) -> None:
    output = command(offline_lock_folder, *RESTORE, code=1).stderr
    assert "5 files not available" in output
    assert "cannot be reached" in output
    # one message for the hosts and one with its count, then the dataset's own
    assert output.count("error ") == 3
    # these commands need no network
    command(offline_lock_folder, *RESTORE, "--offline")
    command(offline_lock_folder, *VERIFY, "--allow-missing")
    output = command(offline_lock_folder, "verify", "LOCK", "--remote", code=1).stderr
    assert "cannot be reached" in output
    command(offline_lock_folder, "cite", "LOCK")


# --- concurrent and interrupted commands


def test_two_pins_on_one_lock_do_not_lose_each_others_work(lock_folder: LockFolder) -> None:
    before = lock_folder.files()
    refused: list[str] = []

    def meanwhile(_: str) -> None:
        if not refused:
            second = [PinRequest(PUBLISHED, "latest", paths=("sub-201",))]
            with (
                lock_folder.mirror_harness.index() as inner,
                pytest.raises(LockBusyError) as caught,
            ):
                list(pin(lock_folder.file, second, lock_folder.mirror_harness.store, inner))
            assert lock_folder.files().keys() - before.keys() <= {f".{lock_folder.name}.pinning"}
            refused.append(str(caught.value))

    with lock_folder.mirror_harness.index() as index:
        requests = [PinRequest(DRAFT, "latest")]
        list(
            pin(
                lock_folder.file,
                requests,
                lock_folder.mirror_harness.store,
                index,
                progress=meanwhile,
            )
        )
    (message,) = refused
    assert str(lock_folder.file) in message
    assert "datasets.lock" in message
    assert [dataset.name for dataset in lock_folder.lock.datasets] == [PUBLISHED, DRAFT]
    assert lock_folder.pin_of(PUBLISHED).paths == ()
    assert not list(lock_folder.folder.glob(".*"))


def test_the_second_of_two_pins_exits_with_1(lock_folder: LockFolder) -> None:
    with exclusive_write(lock_folder.file):
        store = ("--store", str(lock_folder.mirror_harness.folder))
        output = command(lock_folder, *store, "pin", DRAFT, "-o", "LOCK", code=1).stderr
    assert str(lock_folder.file) in output
    assert [dataset.name for dataset in lock_folder.lock.datasets] == [PUBLISHED]
    # leftovers of a killed process do not block the next one
    (lock_folder.folder / f".{lock_folder.name}.pinning").touch()
    command(lock_folder, *store, "pin", DRAFT, "-o", "LOCK")


def annexed_files(folder: Path) -> dict[Path, tuple[int, int]]:
    """Return the inode and the modification time of each file in the annexes below a folder."""
    paths = folder.glob("*/.git/annex/objects/**/*.nwb")
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def test_an_interrupted_restore_is_resumed(
    demo: DemoArchive, lock_folder: LockFolder, tmp_path: Path
) -> None:
    mirror_harness = MirrorHarness(demo.mirrors, tmp_path / "store")
    mirror_harness.sync(PUBLISHED)
    lock_folder = LockFolder(mirror_harness, tmp_path / "another")
    lock_folder.pin(PUBLISHED, bundle=True)
    demo.fault("hang", server="s3", path="/blobs/", times=2, seconds=3600)
    program = Path(sys.executable).with_name("neuromirror")
    into = lock_folder.folder / "data"
    with subprocess.Popen(
        [program, "restore", lock_folder.file, "--into", into],
        cwd=tmp_path / "another",
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        until = time.monotonic() + 600
        while len(list(into.glob("*/.git/annex/objects/**/*.nwb"))) < 2:
            assert time.monotonic() < until
            time.sleep(0.02)
        os.kill(run.pid, signal.SIGINT)
        _, output = run.communicate(timeout=600)
    assert run.returncode == 130
    assert "interrupted" in output
    assert [path.name for path in into.iterdir()] == ["demo--000002"]
    demo.clear_faults()
    present = annexed_files(into)
    output = command(lock_folder, *RESTORE).stdout
    assert "already restored" in output
    assert "already present" in output
    # not read from the archive's log: it may list requests of the first run only now
    restored = annexed_files(into)
    assert len(restored) > len(present)
    assert {path: restored[path] for path in present} == present
    command(lock_folder, *VERIFY)
