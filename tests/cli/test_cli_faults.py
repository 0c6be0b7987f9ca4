"""External faults during a sync: signals, other processes, a lost index, full disks."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from neuromirror_demo import DemoArchive
from neuromirror_demo.faults import Fault
from support.command_shell import CommandResult, Shell
from support.forked_commands import ForkedCommand
from support.mirror_harness import MirrorHarness
from support.quick_mirror import dataset_refs
from support.synced_mirror import serve_few_dandisets, sync_mirror


@pytest.fixture(scope="module")
def shared_demo(
    tmp_path_factory: pytest.TempPathFactory, demo_files: Path
) -> Iterator[DemoArchive]:
    """An unchanging archive of three dandisets."""
    folder = tmp_path_factory.mktemp("faults")
    with serve_few_dandisets(folder, demo_files, "000001", "000002", "000003") as demo:
        yield demo


@pytest.fixture(scope="module")
def demo_harness(
    shared_demo: DemoArchive, tmp_path_factory: pytest.TempPathFactory
) -> MirrorHarness:
    """A store synced from that archive."""
    return sync_mirror(shared_demo, tmp_path_factory.mktemp("synced"))


@pytest.fixture
def new(synced: Shell, tmp_path: Path) -> Shell:
    """A missing store beside the unchanging archive."""
    return synced.with_changes(store=tmp_path / "store")


@contextmanager
def hanging(
    shell: Shell, demo: DemoArchive, path: str, *arguments: str
) -> Iterator[tuple[ForkedCommand, Fault]]:
    """A command that waits for a reply until the fault is cleared."""
    with demo.fault("hang", path=path, seconds=3600) as fault, shell.start(*arguments) as process:
        while not fault.struck:
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        yield process, fault


def assert_converges(shell: Shell, synced: Shell) -> None:
    """Sync once more; the store must be that of an undisturbed sync."""
    shell.run("sync")
    harness = MirrorHarness(shell.mirrors, shell.store)
    harness.fsck(killed=True)
    assert dataset_refs(harness) == dataset_refs(MirrorHarness(synced.mirrors, synced.store))
    assert shell.run("list").out == synced.run("list").out


# --- signals and concurrency


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_terminated_sync_exits_at_once_and_nothing_is_lost(
    new: Shell, synced: Shell, shared_demo: DemoArchive, number: signal.Signals
) -> None:
    arguments = ("/000002/versions/", "sync", "--jobs", "1")
    with hanging(new, shared_demo, *arguments) as (process, fault):
        process.send_signal(number)
        out, err = process.communicate()
        assert not fault.finished.is_set()
    assert "Traceback" not in out
    if number == signal.SIGKILL:
        assert process.returncode == -number
    else:
        assert process.returncode == 128 + number
        (line,) = err.splitlines()
        # the datasets before it are finished
        assert "in progress: demo:000002; not visited: 1 dataset" in line
        assert "demo:000001" not in line
    (status,) = new.records("status")
    assert (status["mirror"], status["last_checked"] == "never") == ("demo", False)
    assert_converges(new, synced)


@pytest.mark.parametrize("arguments", [["sync"], ["sync", "--dry-run"]], ids=" ".join)
def test_ctrl_c_during_the_listing(
    new: Shell, shared_demo: DemoArchive, arguments: list[str]
) -> None:
    with hanging(new, shared_demo, "/dandisets/$", *arguments) as (process, _):
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    assert err.startswith("neuromirror: interrupted")
    assert len(err.splitlines()) == 1


def test_a_second_sync_of_one_dataset_says_that_it_is_in_use(
    new: Shell, synced: Shell, shared_demo: DemoArchive
) -> None:
    arguments = (r"/000002/versions/0\.", "sync", "demo:000002")
    with hanging(new, shared_demo, *arguments) as (first, fault):
        line = new.run("sync", "demo:000002", code=1).error_line
        assert line.startswith("error      demo:000002  ")
        assert "in use by another neuromirror process; try again" in line
        assert "ok         demo:000001" in new.run("sync", "demo:000001").out
        fault.clear()
        ended = CommandResult.from_output(0, *first.communicate())
    assert (first.returncode, ended.err) == (0, "")
    assert "ok         demo:000002" in ended.out
    assert_converges(new, synced)


# --- the index


def test_an_index_corrupted_during_a_sync_is_reported_with_a_remedy(
    new: Shell, synced: Shell, shared_demo: DemoArchive
) -> None:
    with hanging(new, shared_demo, "/000002/versions/", "sync", "--jobs", "1") as (process, fault):
        path = new.store / "neuromirror" / "index.sqlite"
        for beside in (path, path.with_name(path.name + "-wal")):
            size = beside.stat().st_size
            with beside.open("r+b") as file:
                file.write(b"\xa5" * size)
        fault.clear()
        out, err = process.communicate()
    assert "Traceback" not in out + err
    assert "unexpected" not in out + err
    new.run("rebuild-index")
    assert_converges(new, synced)


# --- disks


@pytest.mark.parametrize("size", [2000, 30_000, 200_000])
def test_files_that_cannot_grow_stop_a_sync_without_harm(
    new: Shell, synced: Shell, size: int
) -> None:
    limit = f"import resource as r; r.setrlimit(r.RLIMIT_FSIZE, ({size}, {size}))"
    ended = new.program("sync", code=1, first=limit)
    assert "Traceback" not in ended.err
    assert all(
        line.startswith(("neuromirror: ", "error      demo:00000"))
        for line in ended.err.splitlines()
    )
    assert_converges(new, synced)


def test_a_disk_that_turns_read_only_stops_a_sync_without_harm(
    synced: Shell, mount_disk: Callable[[str], Path]
) -> None:
    """Remount read-only, as Linux does after a disk error (``errors=remount-ro``)."""
    disk = mount_disk("64m")
    there = synced.with_changes(store=disk / "store")
    there.run("sync", "demo:000001")
    before = MirrorHarness(there.mirrors, there.store).file_digests()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    try:
        assert there.run("list").out.startswith("DATASET")
        ended = there.run("sync", code=1)
        assert str(disk / "store" / "neuromirror" / "index.sqlite") in ended.err
        assert "unexpected" not in ended.err
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    assert MirrorHarness(there.mirrors, there.store).file_digests() == before
    assert_converges(there, synced)


def test_leftover_files_of_a_dead_process_block_no_command(copied: Shell) -> None:
    harness = MirrorHarness(copied.mirrors, copied.store)
    before = dataset_refs(harness)
    scratch = copied.store / "neuromirror" / "tmp" / "dead"
    scratch.mkdir(parents=True)
    (scratch / "half.pack").write_bytes(b"PACK")
    # the file remains after its holder dies; only the lock counts
    for path in (copied.store / "neuromirror" / "locks").iterdir():
        path.write_text("pid 1 on another machine\n")
    packs = harness.repository("demo:000001") / "objects" / "pack"
    (packs / "tmp_pack_dead").write_bytes(b"PACK")
    (packs / "tmp_idx_dead").write_bytes(b"\xfftOc")
    copied.run("sync", "--deep", "demo:000001")
    assert dataset_refs(harness) == before
    harness.fsck(killed=True)
