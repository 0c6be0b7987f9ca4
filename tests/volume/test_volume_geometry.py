"""Where a volume's voxels are, read back from its Zarr metadata."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from neuromirror.sources.volumes.grid import Level, Volume, blocks, zarr_documents
from neuromirror.volume.geometry import block_box, read_volume

sizes = st.one_of(st.integers(1, 500).map(float), st.floats(0.01, 900, allow_nan=False))
triples = st.tuples(*[st.integers(0, 2_000_000)] * 3)


def read(volume: Volume, level: str) -> Volume:
    return read_volume(reader(volume), level, "here")


def reader(volume: Volume) -> Callable[[str], bytes | None]:
    return {one.path.decode(): one.content for one in zarr_documents(volume)}.get


def made(
    start: tuple[int, int, int], voxel: tuple[float, float, float], coarser: int
) -> tuple[Volume, Level]:
    factor = 1 << coarser
    level = Level(
        name=str(coarser),
        start=start,
        stop=(start[0] + 100, start[1] + 7, start[2] + 33),
        voxel=(voxel[0] * factor, voxel[1] * factor, voxel[2]),
        chunk=(64, 7, 16),
    )
    volume = Volume("boss", "api.example.org", "c/e/ch", "uint16", "nanometer", (level,))
    return replace(volume, base_voxel=voxel), level


@given(triples, st.tuples(sizes, sizes, sizes), st.integers(0, 12))
def test_upstreams_coordinates_come_back_from_lengths(
    start: tuple[int, int, int], voxel: tuple[float, float, float], coarser: int
) -> None:
    volume, level = made(start, voxel, coarser)
    assert read(volume, level.name).level(level.name) == level


def test_a_time_axis_and_labels_come_back() -> None:
    volume, level = made((3, 4, 5), (4.0, 4.0, 40.0), 1)
    timed = replace(
        volume, times=(5, 6, 7), time_step=0.5, time_unit="second", labels=True, name="ids"
    )
    found = read(timed, level.name)
    assert replace(timed, scheme="", host="", path="") == found
    assert zarr_documents(found) == zarr_documents(timed)


@pytest.mark.parametrize("times", [None, (5, 6)])
def test_the_box_of_a_chunk_file_is_that_of_its_block(times: tuple[int, ...] | None) -> None:
    volume = replace(made((3, 4, 5), (4.0, 4.0, 40.0), 1)[0], times=times)
    for block in blocks(volume):
        assert block_box(volume, block.path.decode()) == (block.box, block.time)
    rest = "0/0/0" if times is None else "0/0/0/0"
    outside = [f"0/c/{rest}", f"1/c/{rest}/0", f"1/c/{rest[:-1]}2", f"1/c/0{rest}", "1/zarr.json"]
    for path in outside:
        assert block_box(volume, path) is None
