"""Cutouts of the demo BOSS: right voxels, upstream's encodings, upstream's quirks."""

from __future__ import annotations

import io
from typing import Any

import blosc
import numpy as np
import pytest
from PIL import Image

from neuromirror_demo import volumes
from neuromirror_demo.boss import ACTIVITY, CELLS, SKETCH, TISSUE, Box, DemoBoss
from support.boss_client import BLOSC, NPYGZ, address, ask, cut, error_of, packed, unpacked

CORNER: Box = ((200, 300), (100, 260), (70, 82))


@pytest.mark.parametrize("path", [TISSUE, CELLS, ACTIVITY])
@pytest.mark.parametrize("level", [0, 1, 2])
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


def test_one_time_more_than_there_is_reads_as_never_written(still_boss: DemoBoss) -> None:
    box: Box = ((10, 30), (0, 40), (5, 10))
    assert not cut(still_boss, ACTIVITY, 0, box, (3, 4)).any()
    for times in ((2, 5), (4, 5), (2, 1)):
        assert error_of(ask(still_boss, address(ACTIVITY, 0, box, times))) == (400, 1000)


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


def test_pickles_are_served_as_upstream_does(still_boss: DemoBoss) -> None:
    headers = {"Accept": "application/blosc-python"}
    reply = ask(still_boss, address(TISSUE, 0, CORNER), headers=headers)
    truth = still_boss.voxels(TISSUE)[58:, 100:, 200:]
    assert b"numpy" in blosc.decompress(reply.content)[:80]
    assert np.array_equal(blosc.unpack_array(reply.content), truth)


def test_a_jpeg_has_the_sections_one_below_the_other(still_boss: DemoBoss) -> None:
    jpeg = {"Accept": "image/jpeg"}
    reply = ask(still_boss, address(TISSUE, 0, CORNER), headers=jpeg)
    found = np.asarray(Image.open(io.BytesIO(reply.content)))
    truth = still_boss.voxels(TISSUE)[58:, 100:, 200:]
    assert found.shape == (12 * 160, 100)
    assert np.abs(found.astype(int) - truth.reshape(found.shape)).mean() < 8
    small: Box = ((0, 9), (0, 9), (0, 9))
    assert error_of(ask(still_boss, address(ACTIVITY, 0, small), headers=jpeg)) == (400, 2001)
    timed = ask(still_boss, address(ACTIVITY, 0, small, (0, 2)), headers=jpeg)
    assert error_of(timed) == (400, 2005)


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


def test_levels_that_are_not_there_are_refused(still_boss: DemoBoss) -> None:
    box: Box = ((0, 9), (0, 9), (12, 13))
    assert error_of(ask(still_boss, address(TISSUE, 3, box))) == (400, 1002)
    assert ask(still_boss, address(TISSUE, 10, box)).status_code == 404
    assert error_of(ask(still_boss, address("demo_cortex/sections/no", 0, box))) == (404, 4000)


def test_bounds_are_those_of_level_0_and_beyond_a_level_there_are_zeros(
    still_boss: DemoBoss,
) -> None:
    found = cut(still_boss, TISSUE, 1, ((100, 300), (100, 260), (12, 14)))
    assert np.array_equal(found[:, :30, :50], still_boss.voxels(TISSUE, 1)[:2, 100:, 100:])
    assert not found[:, 30:].any()
    assert not found[:, :, 50:].any()


def test_coarse_voxels_before_the_frames_start_cannot_be_had(boss: DemoBoss) -> None:
    boss.add_frame("late", start=(0, 0, 10), stop=(40, 40, 30))
    boss.add_experiment("demo_activity/late", "late", levels=2, method="isotropic")
    boss.add_channel("demo_activity/late/em", voxels=volumes.tissue((40, 40, 20)))
    assert boss.box("demo_activity/late/em", 1) == ((0, 20), (0, 20), (5, 15))
    where = address("demo_activity/late/em", 1, ((0, 20), (0, 20), (5, 15)))
    assert error_of(ask(boss, where)) == (400, 1001)
    found = cut(boss, "demo_activity/late/em", 1, ((0, 20), (0, 20), (10, 15)))
    assert np.array_equal(found, boss.voxels("demo_activity/late/em", 1)[5:])
    assert found.any()


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


def test_the_limit_holds_for_volumes_that_are_not_there(boss: DemoBoss) -> None:
    boss.add_frame("huge", start=(0, 0, 1), stop=(10752, 13312, 1850), voxel=(3, 3, 30))
    boss.add_experiment("demo_cortex/huge", "huge", levels=8)
    boss.add_channel("demo_cortex/huge/em")
    huge: Box = ((0, 10752), (0, 13312), (1, 1850))
    assert error_of(ask(boss, address("demo_cortex/huge/em", 0, huge))) == (413, 2000)
    assert not cut(boss, "demo_cortex/huge/em", 0, ((10700, 10752), (0, 9), (1849, 1850))).any()


def test_coarser_levels_of_labels_break_until_they_are_downsampled(boss: DemoBoss) -> None:
    box: Box = ((20, 45), (15, 35), (20, 24))
    assert ask(boss, address(SKETCH, 1, box)).status_code == 500
    assert (cut(boss, SKETCH, 0, ((40, 90), (30, 70), (20, 24))) == 7).all()
    how = {"method": "POST", "token": boss.token, "json": {}}
    assert ask(boss, f"downsample/{SKETCH}", **how).status_code == 201
    assert (cut(boss, SKETCH, 1, box) == 7).all()
    assert cut(boss, SKETCH, 2, ((0, 75), (0, 65), (12, 82))).sum() == 7 * 13 * 11 * 4
    assert error_of(ask(boss, f"downsample/{SKETCH}", **how)) == (409, 2006)


def test_filter_returns_only_the_requested_ids(still_boss: DemoBoss) -> None:
    box: Box = ((0, 150), (0, 150), (20, 24))
    whole = cut(still_boss, CELLS, 0, box)
    chosen = np.unique(whole)[1:3]
    where = f"{address(CELLS, 0, box)}?filter={','.join(map(str, chosen))}"
    found = unpacked(ask(still_boss, where, headers={"Accept": NPYGZ}).content)
    assert np.array_equal(found, np.where(np.isin(whole, chosen), whole, 0))
    wrong = f"{address(TISSUE, 0, box)}?filter=1"
    assert error_of(ask(still_boss, wrong)) == (400, 2003)


def test_32_bit_voxels_can_be_declared_but_not_cut_out(boss: DemoBoss) -> None:
    boss.add_channel("demo_cortex/sections/depth", "uint32")
    where = address("demo_cortex/sections/depth", 0, ((0, 9), (0, 9), (12, 13)))
    assert ask(boss, where).status_code == 500


def test_a_head_request_is_refused(still_boss: DemoBoss) -> None:
    where = address(TISSUE, 0, ((0, 9), (0, 9), (12, 13)))
    assert ask(still_boss, where, method="HEAD").status_code == 400


# -- uploads


def upload(
    boss: DemoBoss, path: str, level: int, box: Box, body: bytes, **how: Any
) -> tuple[int, str]:
    headers = {"Content-Type": how.pop("kind", NPYGZ)}
    given = {"token": boss.token, "method": "POST", "data": body, "headers": headers, **how}
    reply = ask(boss, address(path, level, box), **given)
    return reply.status_code, reply.text


def test_upload_reads_back_and_coarser_levels_are_stale(boss: DemoBoss) -> None:
    box: Box = ((500, 530), (505, 520), (10, 20))
    boss.add_frame("wide", stop=(600, 600, 20))
    boss.add_experiment("demo_cortex/wide", "wide", levels=2)
    path = "demo_cortex/wide/em"
    ramp = np.arange(20 * 600 * 600) % 251 + 1
    boss.add_channel(path, voxels=ramp.astype("u1").reshape(20, 600, 600))
    before, coarse = boss.voxels(path), boss.voxels(path, 1)
    voxels = np.full((10, 15, 30), 9, "u1")
    assert upload(boss, path, 0, box, packed(voxels)) == (201, "")
    before[10:20, 505:520, 500:530] = 9
    assert np.array_equal(cut(boss, path, 0, ((0, 600), (0, 600), (0, 20))), before)
    assert np.array_equal(boss.voxels(path, 1), coarse)
    assert ask(boss, f"downsample/{path}").json()["status"] == "NOT_DOWNSAMPLED"
    boss.downsample(path)
    assert np.array_equal(boss.voxels(path, 1), volumes.coarser(before, (0, 0, 0), (2, 2, 1)))


def test_zeros_of_an_upload_are_not_written_but_to_black_writes_them(boss: DemoBoss) -> None:
    box: Box = ((0, 10), (0, 10), (12, 14))
    before = cut(boss, TISSUE, 0, box)
    assert before.all()
    voxels = np.zeros((2, 10, 10), "u1")
    voxels[0, 0, 0] = 77
    assert upload(boss, TISSUE, 0, box, packed(voxels))[0] == 201
    after = cut(boss, TISSUE, 0, box)
    assert after[0, 0, 0] == 77
    assert np.array_equal(after.ravel()[1:], before.ravel()[1:])
    black = address(TISSUE, 0, box).replace("cutout/", "cutout/to_black/")
    assert ask(boss, black, method="PUT", token=boss.token).status_code == 200
    assert not cut(boss, TISSUE, 0, box).any()


def test_an_upload_that_does_not_fit_is_refused(boss: DemoBoss) -> None:
    box: Box = ((0, 10), (0, 10), (12, 14))
    good = np.ones((2, 10, 10), "u1")
    for body, kind, status, code in (
        (packed(good.astype("u2")), NPYGZ, 400, "2001"),
        (packed(good[:1]), NPYGZ, 400, "2002"),
        (blosc.compress(good[:1]), BLOSC, 400, "2002"),
        (b"nonsense", BLOSC, 400, "2001"),
        (b"nonsense", NPYGZ, 500, "Server Error"),
        (blosc.pack_array(good), "application/blosc-python", 500, "Server Error"),
    ):
        reply = upload(boss, TISSUE, 0, box, body, kind=kind)
        assert reply[0] == status
        assert code in reply[1]
    assert upload(boss, TISSUE, 0, box, packed(good), token="public")[0] == 403
    far: Box = ((0, 10), (0, 10), (20, 22))
    assert upload(boss, TISSUE, 2, far, packed(good))[0] == 400
    assert np.array_equal(boss.voxels(TISSUE), volumes.tissue())
