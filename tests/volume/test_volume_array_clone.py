"""Volumes opened in a clone: what is not there is got, and never read as zeros."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr
from volume_boss import Annex
from volume_store import EM, SKETCH, Held, got

import neuromirror.volume
from neuromirror.model import ConfigurationError
from neuromirror.volume import BlockMissing
from neuromirror.volume.annex_get import AnnexGet


def test_a_slice_gets_its_own_blocks_which_stay(held: Held, clone: Annex) -> None:
    array = neuromirror.volume.open(clone.path)
    assert got(clone) == 0
    assert np.array_equal(array[30:34, 5, 100:150], held.voxels()[30:34, 5, 100:150])
    assert got(clone) == 4
    held.boss.fault("status", status=404, path="/cutout/")
    again = neuromirror.volume.open(str(clone.path))
    assert np.array_equal(again[31:33, 6, 120:130], held.voxels()[31:33, 6, 120:130])


def test_a_half_got_volume_raises_where_zarr_alone_reads_zeros(held: Held, clone: Annex) -> None:
    array = neuromirror.volume.open(clone.path)
    array[0, 0, 0]
    held.boss.fault("status", status=404, path="/cutout/")
    with pytest.raises(BlockMissing, match=r"block 0/c/2/0/0 of .*git-annex cannot get it.*404"):
        array[66, 0:3, 0:3]
    assert not zarr.open(clone.path, mode="r")["0"][66].any()
    held.boss.clear_faults()
    assert np.array_equal(array[66], held.voxels()[66])


def test_a_block_whose_link_is_gone_is_an_error(held: Held, clone: Annex) -> None:
    (clone.path / "0/c/0/0/0").unlink()
    with pytest.raises(BlockMissing, match="no such file"):
        neuromirror.volume.open(clone.path)[0, 0, 0]


def test_a_block_that_was_damaged_is_an_error(held: Held, clone: Annex) -> None:
    clone.run("get", "0/c/0/0/0", "0/c/0/0/1")
    block = (clone.path / "0/c/0/0/0").resolve()
    block.chmod(0o644)
    block.write_bytes(bytes(block.stat().st_size))
    array = neuromirror.volume.open(clone.path)
    with pytest.raises(BlockMissing, match=r"is not the block: its sha256 is .*git annex fsck"):
        array[0, 0, 0]
    assert array[0, 0, 128] == held.voxels()[0, 0, 128]
    block.write_bytes(b"short")
    with pytest.raises(BlockMissing, match="it has 5 bytes, not 524288"):
        array[0, 0, 0]


def test_unlocked_blocks_are_told_from_what_stands_for_them(held: Held, clone: Annex) -> None:
    clone.run("unlock", "0/c/0/0/0")
    block = clone.path / "0/c/0/0/0"
    assert block.read_bytes().startswith(b"/annex/objects/")
    array = neuromirror.volume.open(clone.path)
    assert np.array_equal(array[3, 2, :9], held.voxels()[3, 2, :9])
    block.write_bytes(bytes(block.stat().st_size))
    with pytest.raises(BlockMissing, match="is not the block"):
        array[3, 2, 1]


def test_many_threads_in_a_running_event_loop_end(held: Held, clone: Annex) -> None:
    array = neuromirror.volume.open(clone.path)

    async def notebook() -> bool:
        with ThreadPoolExecutor(4) as pool:
            planes = list(pool.map(lambda z: array[z], (0, 1, 32, 69)))
        return np.array_equal(planes, held.voxels()[[0, 1, 32, 69]])

    assert asyncio.run(notebook())


def test_blocks_of_the_same_bytes_are_got_together(held: Held, tmp_path: Path) -> None:
    sketch = Annex(tmp_path / "sketch")
    subprocess.run(["git", "clone", "-q", held.alias(SKETCH), sketch.path], check=True)
    array = neuromirror.volume.open(sketch.path)
    assert np.array_equal(array[...], held.voxels(SKETCH))
    assert got(sketch) < array.nchunks


def test_what_is_there_already_is_nothing_to_get(held: Held, clone: Annex) -> None:
    clone.run("get", "1/c/0/0/0")
    getting = AnnexGet(clone.path)
    with ThreadPoolExecutor(5) as pool:
        paths = ["1/c/0/0/0", "zarr.json", "1/c/0/0/1", "1/c/0/0/0", "no-such-file"]
        *fine, _ = list(pool.map(getting.get, paths))
    assert fine == ["", "", "", ""]
    assert (clone.path / "1/c/0/0/1").exists()
    getting.close()


def test_a_git_annex_that_dies_is_told_and_started_again(held: Held, clone: Annex) -> None:
    getting = AnnexGet(clone.path)
    held.boss.fault("hang", path="/cutout/", times=1, seconds=30)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(getting.get, "0/c/0/0/0")
        while not held.boss.count_requests("/cutout/"):
            assert not asked.done()
            time.sleep(0.05)
        assert getting._running is not None
        os.kill(getting._running._process.pid, signal.SIGKILL)
        assert "git-annex ended without getting it" in asked.result()
    held.boss.clear_faults()
    assert getting.get("0/c/0/0/1") == ""
    getting.close()


def test_a_clone_without_an_annex_is_told(held: Held, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    cloning = ["git", "clone", "-q", "--single-branch", "-b", "main", "--no-tags"]
    subprocess.run([*cloning, f"file://{held.alias().resolve()}", str(plain)], check=True)
    with pytest.raises(BlockMissing, match=r"git-annex ended without getting it: .*annex"):
        neuromirror.volume.open(plain)[0, 0, 0]
    shutil.rmtree(plain / ".git")
    with pytest.raises(ConfigurationError, match="is no clone"):
        neuromirror.volume.open(plain)


def test_a_state_is_believed_until_somebody_commits(held: Held, clone: Annex) -> None:
    mirrored = neuromirror.volume.open_volume(f"held:{EM}", store=held.store)
    opened = neuromirror.volume.open_volume(clone.path)
    assert opened.state == mirrored.state
    assert opened.source == mirrored.source
    clone.git("rm", "-q", "0/c/0/0/0")
    clone.git("commit", "-q", "-m", "less")
    again = neuromirror.volume.open_volume(clone.path)
    assert again.state == clone.git("rev-parse", "HEAD").strip()


def test_a_line_break_in_a_path_asks_for_nothing_else(held: Held, clone: Annex) -> None:
    getting = AnnexGet(clone.path)
    assert getting.get("0/c/0/0/x\n0/c/0/0/1") != ""
    getting.close()
    assert got(clone) == 0
