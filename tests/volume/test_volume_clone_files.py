"""Volumes opened in a clone: what is not there is got, and never read as zeros."""

import asyncio
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zarr

import neuromirror.volume
from neuromirror.volume import BlockUnavailableError
from neuromirror.volume.files import AnnexGet
from support.annex_with_boss import AnnexRepository
from support.volume_mirror import EM, BossMirror, count_contents


def test_a_slice_gets_its_own_blocks_which_stay_and_no_other_is_read_as_zeros(
    boss_mirror: BossMirror, clone: AnnexRepository
) -> None:
    array = neuromirror.volume.open(clone.path)
    assert count_contents(clone) == 0
    assert np.array_equal(array[30:34, 5, 100:120], boss_mirror.voxels()[30:34, 5, 100:120])
    assert count_contents(clone) == 2
    boss_mirror.boss.fault("status", status=404, path="/cutout/")
    second = neuromirror.volume.open(str(clone.path))
    assert np.array_equal(second[31:33, 6, 110:118], boss_mirror.voxels()[31:33, 6, 110:118])
    with pytest.raises(BlockUnavailableError, match=r"block 0/c/2/0/0 of .*404"):
        array[66, 0:3, 0:3]
    # as plain Zarr does
    assert not zarr.open(clone.path, mode="r")["0"][66].any()
    boss_mirror.boss.clear_faults()
    assert np.array_equal(array[66, :9, :9], boss_mirror.voxels()[66, :9, :9])


def test_a_block_whose_link_is_gone_is_an_error(
    boss_mirror: BossMirror, clone: AnnexRepository
) -> None:
    (clone.path / "0/c/0/0/0").unlink()
    with pytest.raises(BlockUnavailableError, match="block "):
        neuromirror.volume.open(clone.path)[0, 0, 0]


def test_a_block_that_was_damaged_is_an_error(
    boss_mirror: BossMirror, clone: AnnexRepository
) -> None:
    clone.run("get", "0/c/0/0/0", "0/c/0/0/1")
    block = (clone.path / "0/c/0/0/0").resolve()
    block.chmod(0o644)
    block.write_bytes(bytes(block.stat().st_size))
    array = neuromirror.volume.open(clone.path)
    with pytest.raises(BlockUnavailableError, match=r"sha256.*git annex fsck"):
        array[0, 0, 0]
    assert array[0, 0, 128] == boss_mirror.voxels()[0, 0, 128]
    block.write_bytes(b"short")
    with pytest.raises(BlockUnavailableError, match="5 bytes, not 524288"):
        array[0, 0, 0]


def test_unlocked_blocks_differ_from_pointer_files(
    boss_mirror: BossMirror, clone: AnnexRepository
) -> None:
    clone.run("unlock", "0/c/0/0/0")
    block = clone.path / "0/c/0/0/0"
    assert block.read_bytes().startswith(b"/annex/objects/")
    array = neuromirror.volume.open(clone.path)
    assert np.array_equal(array[3, 2, :9], boss_mirror.voxels()[3, 2, :9])
    block.write_bytes(bytes(block.stat().st_size))
    with pytest.raises(BlockUnavailableError, match="sha256"):
        array[3, 2, 1]


def test_many_threads_in_a_running_event_loop_end(
    boss_mirror: BossMirror, clone: AnnexRepository
) -> None:
    array = neuromirror.volume.open(clone.path)

    async def notebook() -> bool:
        with ThreadPoolExecutor(4) as pool:
            planes = list(pool.map(lambda z: array[z, :100, :100], (0, 1, 31, 32)))
        return np.array_equal(planes, boss_mirror.voxels()[[0, 1, 31, 32], :100, :100])

    assert asyncio.run(notebook())


def test_state_is_trusted_until_a_later_commit(
    boss_mirror: BossMirror, clone: AnnexRepository
) -> None:
    mirrored = neuromirror.volume.open_volume(f"held:{EM}", store=boss_mirror.store)
    opened = neuromirror.volume.open_volume(clone.path)
    assert opened.state == mirrored.state
    assert opened.source == mirrored.source
    clone.git("rm", "-q", "0/c/0/0/0")
    clone.git("commit", "-q", "-m", "less")
    second = neuromirror.volume.open_volume(clone.path)
    assert second.state == clone.git("rev-parse", "HEAD").strip()


def test_a_line_break_in_a_path_requests_no_other_object(
    boss_mirror: BossMirror, clone: AnnexRepository
) -> None:
    getting = AnnexGet(clone.path)
    assert getting.get("0/c/0/0/x\n0/c/0/0/1") != ""
    getting.close()
    assert count_contents(clone) == 0


def test_dead_git_annex_is_reported_and_restarted(
    boss_mirror: BossMirror, clone: AnnexRepository
) -> None:
    getting = AnnexGet(clone.path)
    boss_mirror.boss.fault("hang", path="/cutout/", times=1, seconds=30)
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(getting.get, "0/c/0/0/0")
        while not boss_mirror.boss.count_requests("/cutout/"):
            assert not result.done()
            time.sleep(0.05)
        assert getting._process is not None
        os.kill(getting._process._batch._process.pid, signal.SIGKILL)
        assert result.result().startswith("git-annex ")
    boss_mirror.boss.clear_faults()
    assert getting.get("0/c/0/0/1") == ""
    getting.close()
