"""Volumes opened from the store: each block is checked, and none is made up."""

from __future__ import annotations

import asyncio
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import zarr
from volume_store import ACTIVITY, CELLS, EM, FLAT, Held

import neuromirror.volume
from neuromirror.model import ConfigurationError, NeuromirrorError
from neuromirror.volume import BlockMissing, NoSuchLevel, NotAVolume
from neuromirror.volume.tokens import variable


@pytest.mark.parametrize("path", [EM, CELLS, ACTIVITY])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_every_level_is_what_upstream_has(held: Held, path: str, level: int) -> None:
    array = held.open(path, level)
    assert array.dtype == held.voxels(path, level).dtype
    assert np.array_equal(array[...], held.voxels(path, level))


def test_a_slice_asks_for_its_own_blocks_and_each_only_once(held: Held) -> None:
    array = held.open()
    held.boss.clear_requests()
    assert np.array_equal(array[30:34, 5, 100:150], held.voxels()[30:34, 5, 100:150])
    assert held.boss.count_requests("/cutout/") == 4
    array[31, 6:9, 128]
    assert held.boss.count_requests("/cutout/") == 4


def test_blocks_without_a_checksum_can_be_read(held: Held) -> None:
    array = held.open(mirror="plain", level=1)
    assert np.array_equal(array[...], held.voxels(level=1))


def test_a_block_that_upstream_has_no_more_is_an_error_that_names_it(held: Held) -> None:
    array = held.open()
    held.boss.fault("status", status=404, path="/cutout/.*/128:256/0:128/12:44/")
    with pytest.raises(BlockMissing, match=r"block 0/c/0/0/1 of held:.*404") as caught:
        array[0, 0, 100:200]
    assert caught.value.block == "0/c/0/0/1"
    assert array[0, 0, 100] == held.voxels()[0, 0, 100]


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("zeros", "now gives other voxels than when it was mirrored"),
        ("wrong_shape", "voxels"),
        ("wrong_bytes", "damaged|refused|now gives other voxels"),
    ],
)
def test_other_voxels_than_those_that_were_mirrored_are_an_error(
    held: Held, fault: str, told: str
) -> None:
    array = held.open()
    held.boss.fault(fault)
    with pytest.raises(BlockMissing, match=told):
        array[0, 0, 0]


def test_a_body_that_was_cut_is_asked_for_again(held: Held) -> None:
    array = held.open()
    fault = held.boss.fault("cut", path="/cutout/", times=1)
    assert array[0, 0, 0] == held.voxels()[0, 0, 0]
    assert fault.struck == 1


def test_a_block_is_asked_for_in_its_own_place_and_then_in_others_of_the_same_bytes(
    held: Held,
) -> None:
    array = held.open(FLAT)
    held.boss.clear_requests()
    held.boss.fault("status", status=404, path="/cutout/.*/128:256/128:256/44:76/")
    assert (array[32:64, 128:256, 128:256] == 7).all()
    own, other = [one for one in held.boss.requests if "/cutout/" in one]
    assert "/128:256/128:256/44:76/" in own
    assert own != other
    assert (array[:32, :128, :128] == 7).all()
    assert held.boss.count_requests("/cutout/") == 2


def test_nothing_waits_for_a_running_event_loop(held: Held) -> None:
    async def notebook() -> Any:
        return held.open()[0:2, 0:2, 0:2]

    assert np.array_equal(asyncio.run(notebook()), held.voxels()[0:2, 0:2, 0:2])


def test_a_document_is_read_from_git_or_not_at_all(held: Held) -> None:
    files = held.open().store._files
    held.boss.clear_requests()
    assert files.in_git("zarr.json") == files.document("zarr.json")
    assert files.in_git("0/c/0/0/0") is None
    assert files.in_git("0") is None
    assert files.in_git("nothing.json") is None
    assert not held.boss.requests


def test_threads_share_what_one_of_them_fetched(held: Held) -> None:
    array = held.open()
    held.boss.clear_requests()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda z: array[z, 3, 4], range(32)))
    assert found == [held.voxels()[z, 3, 4] for z in range(32)]
    assert held.boss.count_requests("/cutout/") == 1


def test_dask_goes_on_top(held: Held) -> None:
    lazy = dask.array.from_zarr(held.open(level=1))
    assert int(lazy.max().compute()) == held.voxels(level=1).max()


def test_an_array_can_be_sent_to_another_process(held: Held) -> None:
    array = pickle.loads(pickle.dumps(held.open()))
    assert array[3, 2, 1] == held.voxels()[3, 2, 1]


def test_nothing_can_be_written(held: Held) -> None:
    array = held.open()
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0, 0] = 1
    with pytest.raises(ValueError, match="nothing can be written here"):
        array.store.with_read_only(False)


def test_the_store_lists_the_zarr_and_nothing_else(held: Held) -> None:
    group = zarr.open_group(held.open().store, mode="r")
    assert sorted(group.keys()) == ["0", "1", "2"]
    assert group["1"][5, 6, 7] == held.voxels(level=1)[5, 6, 7]
    store = group.store

    async def listed(of: Any) -> list[str]:
        return [one async for one in of]

    async def asked() -> None:
        everything = await listed(store.list())
        assert not [one for one in everything if one.startswith(".")]
        assert len(everything) == len(set(everything)) == 27 + 12 + 3 + 4
        assert await listed(store.list_prefix("0/c/2/")) == sorted(
            f"0/c/2/{y}/{x}" for y in range(3) for x in range(3)
        )
        assert await listed(store.list_dir("0/c/2")) == ["0", "1", "2"]
        assert await store.exists("0/c/2/2/2")
        assert not await store.exists("0/c/2/2/3")

    asyncio.run(asked())


def test_parts_of_a_block_can_be_read(held: Held) -> None:
    from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
    from zarr.core.buffer import default_buffer_prototype

    store = held.open().store
    whole = held.voxels()[:32, :128, :128].tobytes()
    ranges = [RangeByteRequest(5, 9), OffsetByteRequest(len(whole) - 3), SuffixByteRequest(2)]

    async def asked() -> list[bytes]:
        pairs = [("0/c/0/0/0", one) for one in [*ranges, None]]
        found = await store.get_partial_values(default_buffer_prototype(), pairs)
        return [one.to_bytes() for one in found if one is not None]

    assert asyncio.run(asked()) == [whole[5:9], whole[-3:], whole[-2:], whole]


def test_a_block_of_which_there_is_no_file_is_an_error_too(held: Held) -> None:
    from zarr.core.buffer import default_buffer_prototype

    store = held.open().store
    with pytest.raises(BlockMissing, match="no such file"):
        asyncio.run(store.get("0/c/9/9/9", default_buffer_prototype()))
    assert asyncio.run(store.get("9/zarr.json", default_buffer_prototype())) is None


def test_a_token_opens_what_is_not_public(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    held.boss.set_public(EM, False)
    try:
        with pytest.raises(BlockMissing):
            held.open()[0, 0, 0]
        monkeypatch.setenv(variable(held.boss.host), held.boss.token)
        assert held.open()[0, 0, 0] == held.voxels()[0, 0, 0]
    finally:
        held.boss.set_public(EM, True)


def test_this_machine_is_asked_only_where_the_source_or_git_annex_may(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, (*given, host) = held.open().store._files.__reduce__()
    assert host == held.boss.host
    elsewhere = made(*given, "api.example.org")
    assert len(elsewhere.block("0/c/0/0/0")) == 128 * 128 * 32
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    assert len(made(*given, host).block("0/c/0/0/0")) == 128 * 128 * 32
    held.boss.clear_requests()
    with pytest.raises(BlockMissing, match=r"annex\.security\.allowed-ip-addresses says what may"):
        made(*given, "api.example.org").block("0/c/0/0/0")
    assert not held.boss.requests


def test_the_store_is_found_as_on_the_command_line(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEUROMIRROR_STORE", str(held.store))
    label = neuromirror.volume.open_volume(f"held:{EM}").version.partition("@")[2]
    assert neuromirror.volume.open(f"held:{EM}@{label}").shape == held.voxels().shape


def test_what_cannot_be_opened_says_why(held: Held, tmp_path: Path) -> None:
    with pytest.raises(NoSuchLevel, match="has no level 7, only 0, 1, 2"):
        held.open(level=7)
    with pytest.raises(NotAVolume, match="neither a folder nor a version"):
        neuromirror.volume.open("nowhere")
    with pytest.raises(NotAVolume, match=r"it has no zarr\.json"):
        neuromirror.volume.open(tmp_path)
    with pytest.raises(NeuromirrorError, match="no version 'then'"):
        neuromirror.volume.open(f"held:{EM}@then", store=held.store)
    with pytest.raises(ConfigurationError):
        neuromirror.volume.open(f"held:{EM}", store=tmp_path / "elsewhere")
