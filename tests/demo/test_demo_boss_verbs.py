"""What can happen to the demo BOSS, and how it can fail."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from neuromirror_demo import DemoError, volumes
from neuromirror_demo.boss import ACTIVITY, CELLS, TISSUE, Box, DemoBoss
from support.boss_client import address, ask, cut, error_of

BOX: Box = ((10, 20), (30, 36), (40, 44))
WHERE = address(TISSUE, 0, BOX)


def differing(before: Any, after: Any) -> tuple[int, ...]:
    """Where two arrays differ: first and last index along each axis."""
    return tuple(int(end) for axis in np.nonzero(before != after) for end in (axis[0], axis[-1]))


@pytest.mark.parametrize("path", [TISSUE, CELLS, ACTIVITY])
def test_an_edit_changes_its_box_at_every_level_and_nothing_else(boss: DemoBoss, path: str) -> None:
    document = ask(boss, f"downsample/{path}").json()
    before = [boss.voxels(path, level) for level in range(3)]
    box: Box = ((11, 22), (31, 36), (20, 21))
    boss.edit(path, box, 5)
    found = boss.voxels(path)
    assert (found[..., 20 - boss.box(path)[2][0], 31:36, 11:22] == 5).all()
    changed = differing(before[0], found)
    assert changed[-4:] == (31, 35, 11, 21)
    assert changed[-6] == changed[-5]
    factor = (2, 2, 2) if path == ACTIVITY else (2, 2, 1)
    for level in (1, 2):
        start = tuple(first for first, _ in boss.box(path, level - 1))
        expected = volumes.coarser(
            boss.voxels(path, level - 1),
            (start[0], start[1], start[2]),
            factor,
            labels=path == CELLS,
        )
        assert np.array_equal(boss.voxels(path, level), expected)
        assert not np.array_equal(boss.voxels(path, level), before[level])
    assert ask(boss, f"downsample/{path}").json() == document


def test_an_edit_flips_a_bit_of_every_voxel_or_of_one_sample(boss: DemoBoss) -> None:
    before = boss.voxels(TISSUE)
    boss.edit(TISSUE, BOX, spread=False)
    after = boss.voxels(TISSUE)
    assert differing(before, after)[:2] == (28, 31)
    assert (before != after).sum() == 10 * 6 * 4
    assert np.array_equal(boss.voxels(TISSUE, 1), volumes.coarser(before, (0, 0, 12), (2, 2, 1)))
    series = boss.voxels(ACTIVITY)
    boss.edit(ACTIVITY, ((0, 1), (0, 1), (0, 1)), time=2)
    assert differing(series, boss.voxels(ACTIVITY)) == (2, 2, 0, 0, 0, 0, 0, 0)
    with pytest.raises(DemoError, match="not within"):
        boss.edit(TISSUE, ((0, 1), (0, 1), (11, 13)))


def test_an_edit_of_a_coarse_level_leaves_the_finer_ones(boss: DemoBoss) -> None:
    before = [boss.voxels(TISSUE, level) for level in range(3)]
    boss.edit(TISSUE, ((8, 12), (8, 12), (12, 13)), 0, level=1)
    assert np.array_equal(boss.voxels(TISSUE), before[0])
    assert differing(before[1], boss.voxels(TISSUE, 1)) == (0, 0, 8, 11, 8, 11)
    assert differing(before[2], boss.voxels(TISSUE, 2)) == (0, 0, 4, 5, 4, 5)


def test_storage_move_changes_three_fields_and_no_voxel(boss: DemoBoss) -> None:
    path = "collection/demo_cortex/experiment/sections/channel/em"
    before, voxels = ask(boss, path).json(), cut(boss, TISSUE, 1, boss.box(TISSUE, 1))
    boss.move_storage(TISSUE)
    after = ask(boss, path).json()
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"storage_type", "bucket", "cv_path"}
    assert (after["storage_type"], after["cv_path"]) == ("cloudvol", f"/{TISSUE}")
    assert np.array_equal(cut(boss, TISSUE, 1, boss.box(TISSUE, 1)), voxels)
    beyond: Box = ((0, 151), (0, 130), (12, 13))
    assert ask(boss, address(TISSUE, 1, beyond)).status_code == 500
    with pytest.raises(DemoError, match="3 samples"):
        boss.move_storage(ACTIVITY)
    boss.move_storage(TISSUE, "spdb")
    assert ask(boss, path).json() == before
    assert not cut(boss, TISSUE, 1, beyond)[..., 150:].any()


def test_descriptions_change_and_channels_come_and_go(boss: DemoBoss) -> None:
    boss.describe(TISSUE, "Better")
    boss.set_status(TISSUE, "IN_PROGRESS")
    boss.set_metadata(TISSUE, "a", "b")
    boss.set_public(CELLS, False)
    boss.add_channel("demo_cortex/sections/more", "uint16", voxels=volumes.activity((9, 9, 9))[0])
    sections = "collection/demo_cortex/experiment/sections"
    found = ask(boss, f"{sections}/channel/em").json()
    assert (found["description"], found["downsample_status"]) == ("Better", "IN_PROGRESS")
    assert ask(boss, f"meta/{TISSUE}/").json() == {"keys": ["a", "instrument"]}
    boss.set_metadata(TISSUE, "a", None)
    assert ask(boss, f"meta/{TISSUE}/").json() == {"keys": ["instrument"]}
    assert ask(boss, f"{sections}/channel/").json() == {"channels": ["em", "sketch", "more"]}
    for wrong in ("demo_cortex/none", "none", "demo_cortex/sections/em/deeper"):
        with pytest.raises(DemoError):
            boss.soft_delete(wrong)
    with pytest.raises(DemoError, match="exists already"):
        boss.add_channel(TISSUE)


# -- the running thing


def test_it_is_controlled_over_http(boss: DemoBoss) -> None:
    def post(verb: str, **given: object) -> requests.Response:
        return requests.post(f"{boss.control_url}/{verb}", json=given, timeout=300)

    before = cut(boss, TISSUE, 0, BOX)
    assert post("edit", path=TISSUE, box=BOX).json() == {"result": None}
    assert np.array_equal(cut(boss, TISSUE, 0, BOX), before ^ 1)
    assert post("soft_delete", path=CELLS).status_code == 200
    assert error_of(ask(boss, f"downsample/{CELLS}")) == (404, 4005)
    assert post("throttle", times=1).status_code == 200
    assert [ask(boss, WHERE).status_code for _ in range(2)] == [429, 200]
    assert post("fault", name="bad_token").status_code == 200
    assert post("clear_faults").status_code == 200
    assert ask(boss, WHERE).status_code == 200
    log = requests.get(f"{boss.control_url}/requests", timeout=300).json()
    assert log == boss.requests
    assert post("edit", path="none", box=BOX).status_code == 400
    assert post("stop").status_code == 400


def test_it_comes_back_as_it_was_left(tmp_path: Path) -> None:
    with DemoBoss(tmp_path) as boss:
        boss.describe("demo_cortex", "Better")
    with pytest.raises(requests.ConnectionError):
        ask(boss, "collection/")
    with boss:
        assert ask(boss, "collection/demo_cortex").json()["description"] == "Better"


def test_nothing_is_left_when_it_stops(tmp_path: Path) -> None:
    threads = set(threading.enumerate())
    boss = DemoBoss(tmp_path, empty=True).start()
    assert ask(boss, "collection/").json() == {"collections": []}
    mirror = boss.mirrors / "demo-boss.toml"
    assert f'api = "{boss.api}"' in mirror.read_text()
    boss.fault("hang", seconds=3600)
    asking = threading.Thread(target=ask, args=(boss, "collection/"))
    asking.start()
    while not boss.requests[1:]:
        time.sleep(0.01)
    boss.stop()
    asking.join()
    assert os.listdir(boss.mirrors) == []
    assert set(threading.enumerate()) == threads
    with pytest.raises(requests.ConnectionError):
        requests.get(boss.url, timeout=5)
