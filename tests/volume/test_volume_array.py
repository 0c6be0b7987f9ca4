"""Volumes opened from the store: each block is checked, and none is made up."""

from __future__ import annotations

import asyncio
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import neuromirror.volume
from neuromirror.model import ConfigurationError, NeuromirrorError
from neuromirror.sources.volumes.urls import token_variable
from neuromirror.volume import BlockUnavailableError, NotAVolumeError, UnknownLevelError
from support.volume_mirror import ACTIVITY, CELLS, EM, FLAT, BossMirror


@pytest.mark.parametrize("path", [EM, CELLS, ACTIVITY])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_every_level_is_what_upstream_has(boss_mirror: BossMirror, path: str, level: int) -> None:
    array = boss_mirror.open(path, level)
    assert array.dtype == boss_mirror.voxels(path, level).dtype
    assert np.array_equal(array[...], boss_mirror.voxels(path, level))


def test_a_slice_asks_for_its_own_blocks_and_each_only_once(boss_mirror: BossMirror) -> None:
    array = boss_mirror.open()
    boss_mirror.boss.clear_requests()
    assert np.array_equal(array[30:34, 5, 100:150], boss_mirror.voxels()[30:34, 5, 100:150])
    assert boss_mirror.boss.count_requests("/cutout/") == 4
    array[31, 6:9, 128]
    assert boss_mirror.boss.count_requests("/cutout/") == 4


def test_blocks_without_a_checksum_can_be_read(boss_mirror: BossMirror) -> None:
    array = boss_mirror.open(mirror="plain", level=1)
    assert np.array_equal(array[...], boss_mirror.voxels(level=1))


def test_a_block_that_upstream_has_no_more_is_an_error_that_names_it(
    boss_mirror: BossMirror,
) -> None:
    array = boss_mirror.open()
    boss_mirror.boss.fault("status", status=404, path="/cutout/.*/128:256/0:128/12:44/")
    with pytest.raises(BlockUnavailableError, match=r"block 0/c/0/0/1 of held:.*404") as caught:
        array[0, 0, 100:200]
    assert caught.value.block == "0/c/0/0/1"
    assert array[0, 0, 100] == boss_mirror.voxels()[0, 0, 100]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("zeros", "has different voxels"),
        ("wrong_shape", "voxels"),
        ("wrong_bytes", "block 0/c/0/0/0"),
    ],
)
def test_other_voxels_than_those_that_were_mirrored_are_an_error(
    boss_mirror: BossMirror, fault: str, message: str
) -> None:
    array = boss_mirror.open()
    boss_mirror.boss.fault(fault)
    with pytest.raises(BlockUnavailableError, match=message):
        array[0, 0, 0]


def test_block_is_fetched_from_its_own_url_first(
    boss_mirror: BossMirror,
) -> None:
    array = boss_mirror.open(FLAT)
    boss_mirror.boss.clear_requests()
    boss_mirror.boss.fault("status", status=404, path="/cutout/.*/128:256/128:256/44:76/")
    assert (array[32:64, 128:256, 128:256] == 7).all()
    own, other = [one for one in boss_mirror.boss.requests if "/cutout/" in one]
    assert "/128:256/128:256/44:76/" in own
    assert own != other
    assert (array[:32, :128, :128] == 7).all()
    assert boss_mirror.boss.count_requests("/cutout/") == 2


def test_nothing_waits_for_a_running_event_loop(boss_mirror: BossMirror) -> None:
    async def notebook() -> Any:
        return boss_mirror.open()[0:2, 0:2, 0:2]

    assert np.array_equal(asyncio.run(notebook()), boss_mirror.voxels()[0:2, 0:2, 0:2])


def test_a_document_is_read_from_git_or_not_at_all(boss_mirror: BossMirror) -> None:
    files = boss_mirror.open().store._files
    boss_mirror.boss.clear_requests()
    assert files.git_document("zarr.json") == files.document("zarr.json")
    assert files.git_document("0/c/0/0/0") is None
    assert files.git_document("0") is None
    assert files.git_document("nothing.json") is None
    assert not boss_mirror.boss.requests


def test_threads_share_what_one_of_them_fetched(boss_mirror: BossMirror) -> None:
    array = boss_mirror.open()
    boss_mirror.boss.clear_requests()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda z: array[z, 3, 4], range(32)))
    assert found == [boss_mirror.voxels()[z, 3, 4] for z in range(32)]
    assert boss_mirror.boss.count_requests("/cutout/") == 1


def test_an_array_can_be_sent_to_another_process(boss_mirror: BossMirror) -> None:
    array = pickle.loads(pickle.dumps(boss_mirror.open()))
    assert array[3, 2, 1] == boss_mirror.voxels()[3, 2, 1]


def test_the_store_lists_the_zarr_and_nothing_else(boss_mirror: BossMirror) -> None:
    group = zarr.open_group(boss_mirror.open().store, mode="r")
    assert sorted(group.keys()) == ["0", "1", "2"]
    assert group["1"][5, 6, 7] == boss_mirror.voxels(level=1)[5, 6, 7]
    store = group.store

    async def listed(of: Any) -> list[str]:
        return [one async for one in of]

    async def check_listing() -> None:
        everything = await listed(store.list())
        assert not [one for one in everything if one.startswith(".")]
        assert len(everything) == len(set(everything)) == 27 + 12 + 3 + 4
        assert await listed(store.list_prefix("0/c/2/")) == sorted(
            f"0/c/2/{y}/{x}" for y in range(3) for x in range(3)
        )
        assert await listed(store.list_dir("0/c/2")) == ["0", "1", "2"]
        assert await store.exists("0/c/2/2/2")
        assert not await store.exists("0/c/2/2/3")

    asyncio.run(check_listing())


def test_a_block_of_which_there_is_no_file_is_an_error_too(boss_mirror: BossMirror) -> None:
    from zarr.core.buffer import default_buffer_prototype

    store = boss_mirror.open().store
    with pytest.raises(BlockUnavailableError, match="block "):
        asyncio.run(store.get("0/c/9/9/9", default_buffer_prototype()))
    assert asyncio.run(store.get("9/zarr.json", default_buffer_prototype())) is None


def test_a_token_opens_what_is_not_public(
    boss_mirror: BossMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    boss_mirror.boss.set_public(EM, False)
    try:
        with pytest.raises(BlockUnavailableError):
            boss_mirror.open()[0, 0, 0]
        monkeypatch.setenv(token_variable(boss_mirror.boss.host), boss_mirror.boss.token)
        assert boss_mirror.open()[0, 0, 0] == boss_mirror.voxels()[0, 0, 0]
    finally:
        boss_mirror.boss.set_public(EM, True)


def test_loopback_needs_permission_of_source_or_git_annex(
    boss_mirror: BossMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, (*given, host) = boss_mirror.open().store._files.__reduce__()
    assert host == boss_mirror.boss.host
    elsewhere = made(*given, "api.example.org")
    assert len(elsewhere.block("0/c/0/0/0")) == 128 * 128 * 32
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    assert len(made(*given, host).block("0/c/0/0/0")) == 128 * 128 * 32
    boss_mirror.boss.clear_requests()
    with pytest.raises(BlockUnavailableError, match=r"annex\.security\.allowed-ip-addresses"):
        made(*given, "api.example.org").block("0/c/0/0/0")
    assert not boss_mirror.boss.requests


def test_the_store_is_found_as_on_the_command_line(
    boss_mirror: BossMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEUROMIRROR_STORE", str(boss_mirror.store))
    label = neuromirror.volume.open_volume(f"held:{EM}").version.partition("@")[2]
    assert neuromirror.volume.open(f"held:{EM}@{label}").shape == boss_mirror.voxels().shape


def test_what_cannot_be_opened_says_why(boss_mirror: BossMirror, tmp_path: Path) -> None:
    with pytest.raises(UnknownLevelError, match=r"7.*0, 1, 2"):
        boss_mirror.open(level=7)
    with pytest.raises(NotAVolumeError, match="neuromirror list"):
        neuromirror.volume.open("nowhere")
    with pytest.raises(NotAVolumeError, match=r"zarr\.json"):
        neuromirror.volume.open(tmp_path)
    with pytest.raises(NeuromirrorError, match="'then'"):
        neuromirror.volume.open(f"held:{EM}@then", store=boss_mirror.store)
    with pytest.raises(ConfigurationError):
        neuromirror.volume.open(f"held:{EM}", store=tmp_path / "elsewhere")
