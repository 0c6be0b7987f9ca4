"""External faults during a sync: signals, a lost index, a read-only disk."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from neuromirror_demo import DemoArchive
from neuromirror_demo.faults import Fault
from support.command_shell import Shell


def refs(shell: Shell) -> dict[str, str]:
    """Return the refs of all datasets except superdatasets, after git fsck."""
    found = {}
    for link in sorted((shell.store / "alias").glob("*--*")):
        listed = _git(link, "for-each-ref", "--format=%(refname) %(objectname)")
        found.update({f"{link.name} {line}": "" for line in listed.splitlines()})
        assert _git(link, "fsck", "--strict", "--no-dangling") == ""
    return found


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout + done.stderr


@contextmanager
def hanging(
    shell: Shell, demo: DemoArchive, dandiset: str = "000002"
) -> Iterator[tuple[subprocess.Popen[str], Fault]]:
    """A sync that waits for a reply about a dandiset; those before it are finished."""
    with (
        demo.fault("hang", path=f"/{dandiset}/versions/", seconds=3600) as fault,
        shell.start("sync", "--jobs", "1") as process,
    ):
        while not fault.struck:
            assert process.poll() is None
            time.sleep(0.02)
        try:
            yield process, fault
        finally:
            fault.clear()
            if process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(600)


def converges(shell: Shell, tmp_path: Path) -> None:
    shell.run("sync")
    undisturbed = shell.with_changes(store=tmp_path / "undisturbed")
    undisturbed.run("sync")
    assert refs(shell) == refs(undisturbed)
    assert shell.run("list").out == undisturbed.run("list").out


def test_a_terminated_sync_exits_at_once_and_nothing_is_lost(
    shell: Shell, demo: DemoArchive, tmp_path: Path
) -> None:
    with hanging(shell, demo) as (process, fault):
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=600)
        assert not fault.finished.is_set()
    assert process.returncode == 128 + signal.SIGTERM
    # only datasets in progress are named
    assert "demo:000002" in err
    assert "demo:000001" not in err
    refs(shell)
    converges(shell, tmp_path)


def test_a_terminated_sync_counts_the_datasets_that_it_did_not_visit(
    shell: Shell, demo: DemoArchive
) -> None:
    with hanging(shell, demo, "000001") as (process, _):
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=600)
    visited = [one for one in shell.records("sync") if one["versions"]]
    assert f"in progress: demo:000001; not visited: {len(visited) - 1} datasets" in err


def test_the_status_after_a_kill_says_when_the_list_was_read(
    shell: Shell, demo: DemoArchive
) -> None:
    with hanging(shell, demo) as (process, _):
        process.kill()
        process.communicate(timeout=600)
    (record,) = [json.loads(line) for line in shell.run("--json", "status").lines]
    assert record["mirror"] == "demo"
    assert record["last_checked"] != "never"


def test_an_index_deleted_under_a_sync_comes_back_whole(
    shell: Shell, demo: DemoArchive, tmp_path: Path
) -> None:
    with hanging(shell, demo) as (process, fault):
        for path in (shell.store / "neuromirror").glob("index.sqlite*"):
            path.unlink()
        fault.clear()
        out, err = process.communicate(timeout=600)
    assert "Traceback" not in out + err
    assert "unexpected" not in out + err
    converges(shell, tmp_path)


def test_an_index_corrupted_during_a_sync_is_reported_with_a_remedy(
    shell: Shell, demo: DemoArchive, tmp_path: Path
) -> None:
    with hanging(shell, demo) as (process, fault):
        path = shell.store / "neuromirror" / "index.sqlite"
        for beside in (path, path.with_name(path.name + "-wal")):
            size = beside.stat().st_size
            with beside.open("r+b") as file:
                file.write(b"\xa5" * size)
        fault.clear()
        out, err = process.communicate(timeout=600)
    assert "Traceback" not in out + err
    assert "unexpected" not in out + err
    refs(shell)
    shell.run("rebuild-index")
    converges(shell, tmp_path)


def test_a_disk_that_turns_read_only_stops_a_sync_without_harm(
    shell: Shell, demo: DemoArchive, mount_disk: Callable[[str], Path], tmp_path: Path
) -> None:
    """Remount read-only, as Linux does after a disk error (``errors=remount-ro``)."""
    disk = mount_disk("64m")
    there = shell.with_changes(store=disk / "store")
    there.run("sync", "demo:000001")
    before = refs(there)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    try:
        assert there.run("list").out.startswith("DATASET")
        ended = there.program("sync", code=1)
        assert str(disk / "store" / "neuromirror" / "index.sqlite") in ended.err
        assert "unexpected" not in ended.err
        assert "Traceback" not in ended.err
        assert refs(there) == before
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    converges(there, tmp_path)


@pytest.mark.parametrize("kind", ["scratch", "lock", "pack"])
def test_leftover_files_of_a_dead_process_block_no_command(
    copied: Shell, demo: DemoArchive, kind: str
) -> None:
    before = refs(copied)
    repository = next((copied.store / "alias").glob("*--000001")).resolve()
    if kind == "scratch":
        folder = copied.store / "neuromirror" / "tmp" / "dead"
        folder.mkdir(parents=True)
        (folder / "half.pack").write_bytes(b"PACK")
    elif kind == "lock":
        # the file remains after its holder dies; only the lock counts
        locks = copied.store / "neuromirror" / "locks"
        for path in locks.iterdir():
            path.write_text("pid 1 on another machine\n")
    else:
        (repository / "objects" / "pack" / "tmp_pack_dead").write_bytes(b"PACK")
        (repository / "objects" / "pack" / "tmp_idx_dead").write_bytes(b"\xfftOc")
    copied.run("sync", "--deep", "demo:000001")
    assert refs(copied) == before
