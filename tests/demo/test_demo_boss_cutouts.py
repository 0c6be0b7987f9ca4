"""Cutouts of the demo BOSS: right voxels, upstream's encodings, upstream's quirks."""

from __future__ import annotations

from typing import Any

import blosc
import numpy as np
import pytest

from neuromirror_demo import volumes
from neuromirror_demo.boss import ACTIVITY, CELLS, TISSUE, Box, DemoBoss
from support.boss_client import BLOSC, NPYGZ, address, ask, cut, error_of, unpacked

CORNER: Box = ((200, 300), (100, 260), (70, 82))


@pytest.mark.parametrize("path", [TISSUE, CELLS, ACTIVITY])
@pytest.mark.parametrize("level", [1, 2])
def test_a_level_is_what_was_made_of_the_finer_one(
    still_boss: DemoBoss, path: str, level: int
) -> None:
    times = (0, 3) if path == ACTIVITY else None
    found = cut(still_boss, path, level, still_boss.box(path, level), times)
    made: Any = {TISSUE: volumes.tissue, CELLS: volumes.cells, ACTIVITY: volumes.activity}[path]()
    start, factor = ((0, 0, 0), (2, 2, 2)) if path == ACTIVITY else ((0, 0, 12), (2, 2, 1))
    for _ in range(level):
        made = volumes.coarser(made, start, factor, labels=path == CELLS)
    assert found.dtype == made.dtype
    assert np.array_equal(found, made)


def test_time_axis_is_present_only_if_requested(still_boss: DemoBoss) -> None:
    box: Box = ((10, 30), (0, 40), (5, 10))
    whole = still_boss.voxels(ACTIVITY)[:, 5:10, 0:40, 10:30]
    assert np.array_equal(cut(still_boss, ACTIVITY, 0, box), whole[0])
    assert np.array_equal(cut(still_boss, ACTIVITY, 0, box, (1, 3)), whole[1:3])
    assert np.array_equal(cut(still_boss, ACTIVITY, 0, box, (2, 3)), whole[2:3])


def test_bytes_of_npygz_are_the_same_every_time_and_those_of_blosc_are_not(
    still_boss: DemoBoss,
) -> None:
    where = address(TISSUE, 0, CORNER)
    truth = still_boss.voxels(TISSUE)[58:, 100:, 200:]
    for accept, least, most in ((NPYGZ, 1, 1), (BLOSC, 3, 12)):
        replies = [ask(still_boss, where, headers={"Accept": accept}) for _ in range(12)]
        assert {reply.headers["Content-Type"] for reply in replies} == {accept}
        assert least <= len({reply.content for reply in replies}) <= most
        for reply in replies:
            if accept == NPYGZ:
                found = unpacked(reply.content)
            else:
                found = np.frombuffer(blosc.decompress(reply.content), "u1").reshape(truth.shape)
            assert np.array_equal(found, truth)


def test_blosc_is_what_comes_unless_something_else_is_accepted(still_boss: DemoBoss) -> None:
    where = address(TISSUE, 0, CORNER)
    assert ask(still_boss, where).headers["Content-Type"] == BLOSC
    for accept in ("*/*", "application/*", f"text/plain;q=0.1, {BLOSC}"):
        reply = ask(still_boss, where, headers={"Accept": accept})
        assert reply.headers["Content-Type"] == BLOSC
    for accept in ("text/plain", "application/json"):  # nothing fits, and the error itself fails
        assert ask(still_boss, where, headers={"Accept": accept}).status_code == 500


@pytest.mark.parametrize(
    "box",
    [
        ((0, 301), (0, 10), (12, 13)),
        ((0, 10), (0, 10), (11, 13)),
        ((0, 10), (0, 10), (82, 83)),
        ((10, 10), (0, 10), (12, 13)),
        ((10, 5), (0, 10), (12, 13)),
    ],
)
def test_what_lies_outside_the_frame_is_refused(still_boss: DemoBoss, box: Box) -> None:
    assert error_of(ask(still_boss, address(TISSUE, 0, box))) == (400, 1001)


def test_too_large_a_request_is_413_and_labels_may_be_four_times_as_large(boss: DemoBoss) -> None:
    assert boss.limit == 520 * 2**20
    box: Box = ((0, 100), (0, 100), (12, 22))
    boss.limit = 100_000
    assert cut(boss, TISSUE, 0, box).size == 100_000
    boss.limit = 99_999
    assert error_of(ask(boss, address(TISSUE, 0, box))) == (413, 2000)
    labels = "demo_cortex/sections/blank"
    boss.add_channel(labels, "uint64", "annotation")
    boss.limit = 200_000
    assert cut(boss, labels, 0, box).nbytes == 800_000
    boss.limit = 199_999
    assert error_of(ask(boss, address(labels, 0, box))) == (413, 2000)
