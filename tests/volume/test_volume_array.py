"""Volumes opened from the store: each block is checked, and none is made up."""

import asyncio
from typing import Any

import numpy as np
import pytest
import zarr

from neuromirror.sources.volumes.urls import token_variable
from neuromirror.volume import BlockUnavailableError
from support.volume_mirror import ACTIVITY, CELLS, EM, BossMirror


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
        ("zeros", "its bytes differ .*neuromirror sync"),
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


def test_a_document_is_read_from_git_or_not_at_all(boss_mirror: BossMirror) -> None:
    files = boss_mirror.open().store._files
    boss_mirror.boss.clear_requests()
    assert files.git_document("zarr.json") == files.document("zarr.json")
    assert files.git_document("0/c/0/0/0") is None
    assert files.git_document("0") is None
    assert files.git_document("nothing.json") is None
    assert not boss_mirror.boss.requests


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
    made, (*given, host, store) = boss_mirror.open().store._files.__reduce__()
    assert host == boss_mirror.boss.host
    elsewhere = made(*given, "api.example.org", store)
    assert len(elsewhere.block("0/c/0/0/0")) == 128 * 128 * 32
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    assert len(made(*given, host, store).block("0/c/0/0/0")) == 128 * 128 * 32
    boss_mirror.boss.clear_requests()
    with pytest.raises(BlockUnavailableError, match=r"annex\.security\.allowed-ip-addresses"):
        made(*given, "api.example.org", store).block("0/c/0/0/0")
    assert not boss_mirror.boss.requests
