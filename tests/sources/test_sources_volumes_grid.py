import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from neuromirror.model import ConfigurationError
from neuromirror.sources.volumes.channels import check_size, estimate_volume, plan_volume
from neuromirror.sources.volumes.grid import (
    Block,
    Level,
    Volume,
    blocks,
    blocks_by_number,
    choose_chunk,
    level_blocks,
)
from neuromirror.sources.volumes.options import VolumeOptions
from neuromirror.sources.volumes.urls import (
    BlockUrl,
    MalformedUrlError,
    TooManyFilesError,
    is_secure,
    parse_url,
)

_UNIT = (1.0, 1.0, 1.0)


def level(name: str = "0", stop: tuple[int, int, int] = (10, 10, 10), **more: object) -> Level:
    given = {"start": (0, 0, 0), "voxel": _UNIT, "chunk": (4, 4, 4), **more}
    return Level(name=name, stop=stop, **given)  # type: ignore[arg-type]


def volume(*levels: Level, **more: object) -> Volume:
    given = {"scheme": "boss", "host": "api.bossdb.io", "path": "c/e/ch", **more}
    return Volume(dtype=str(given.pop("dtype", "uint8")), unit="nanometer", levels=levels, **given)  # type: ignore[arg-type]


def options(**given: object) -> VolumeOptions:
    return VolumeOptions.model_validate({"api": "https://api.bossdb.io", **given})


triples = st.tuples(*[st.integers(1, 12)] * 3)


@st.composite
def volumes(draw: st.DrawFn) -> Volume:
    levels = []
    for name in draw(st.lists(st.sampled_from("0123"), min_size=1, max_size=3, unique=True)):
        start = draw(st.tuples(*[st.integers(0, 9)] * 3))
        stop = tuple(a + b for a, b in zip(start, draw(triples), strict=True))
        levels.append(level(name, stop, start=start, chunk=draw(triples)))  # type: ignore[arg-type]
    first = draw(st.integers(0, 5))
    times = draw(st.none() | st.integers(1, 3).map(lambda n: tuple(range(first, first + n))))
    return volume(
        *sorted(levels, key=lambda one: one.name),
        times=times,
        dtype=draw(st.sampled_from(["uint8", "uint64", "float32"])),
        scheme=draw(st.sampled_from(["boss", "ndstore"])),
        host=draw(st.sampled_from(["api.bossdb.io", "127.0.0.1:8080", "lab.example:8000"])),
        secure=draw(st.none() | st.booleans()),
    )


@given(volumes())
def test_blocks_cover_each_voxel_once_and_count_as_promised(volume: Volume) -> None:
    every = list(blocks(volume))
    assert len(every) == volume.files
    assert sum(block.size for block in every) == volume.bytes
    assert len({block.path for block in every}) == len(every)
    for one in volume.levels:
        for time in volume.times or (None,):
            seen = [
                (x, y, z)
                for block in level_blocks(volume, one)
                if block.time == time
                for x in range(*block.box[0])
                for y in range(*block.box[1])
                for z in range(*block.box[2])
            ]
            assert len(seen) == len(set(seen)) == math.prod(one.extent)
            assert min(seen) == one.start
            assert max(seen) == tuple(stop - 1 for stop in one.stop)


@given(volumes())
def test_a_block_url_defines_everything_but_the_size(volume: Volume) -> None:
    for block in blocks(volume):
        url = parse_url(block.url)
        assert str(url) == block.url
        assert (url.box, url.chunk, url.time) == (block.box, block.level.chunk, block.time)
        assert (url.host, url.path, url.level) == (volume.host, volume.path, block.level.name)
        assert url.voxel_type(block.size) == volume.dtype
        assert url.secure == (is_secure(volume.host) if volume.secure is None else volume.secure)


@given(volumes(), st.data())
def test_a_block_is_found_by_its_number(volume: Volume, data: st.DataObject) -> None:
    every = list(blocks(volume))
    numbers = sorted(data.draw(st.sets(st.integers(0, len(every) - 1), max_size=5)))
    assert list(blocks_by_number(volume, numbers)) == [(n, every[n]) for n in numbers]


def test_paths_are_in_order_of_t_z_y_x_and_times_are_upstreams() -> None:
    one = level(stop=(8, 4, 8), start=(0, 0, 1))
    found = list(blocks(volume(one, times=(5, 6))))
    assert [block.path for block in found[:4]] == [
        *(b"0/c/0/0/0/0", b"0/c/0/0/0/1"),
        *(b"0/c/0/1/0/0", b"0/c/0/1/0/1"),
    ]
    assert found[0].url == "boss://api.bossdb.io/c/e/ch/0/0:4/0:4/1:5/5"
    assert found[-1].url == "boss://api.bossdb.io/c/e/ch/0/4:8/0:4/5:8/6?chunk=4,4,4"
    assert found[-1].index == (1, 1, 0, 1)


@pytest.mark.parametrize(
    ("requested", "extent", "item", "chosen"),
    [
        ((2048, 2048, 64), (10752, 13312, 1849), 1, (2048, 2048, 64)),
        ((2048, 2048, 64), (300, 13312, 17), 1, (300, 2048, 17)),
        ((2048, 2048, 64), (10752, 13312, 1849), 8, (1024, 1024, 64)),
        ((1, 1, 1 << 20), (5, 5, 1 << 20), 1, (1, 1, 1 << 20)),
    ],
)
def test_a_chunk_is_no_larger_than_the_extent_or_one_request(
    requested: tuple[int, int, int],
    extent: tuple[int, int, int],
    item: int,
    chosen: tuple[int, int, int],
) -> None:
    assert choose_chunk(requested, extent, item) == chosen


@given(triples, triples, st.sampled_from([1, 2, 4, 8]), st.integers(8, 2000))
def test_no_chunk_is_over_the_limit(
    requested: tuple[int, int, int], extent: tuple[int, int, int], item: int, limit: int
) -> None:
    chunk = choose_chunk(requested, extent, item, limit)
    assert math.prod(chunk) * item <= limit
    assert all(1 <= a <= min(b, c) for a, b, c in zip(chunk, requested, extent, strict=True))


@pytest.mark.parametrize(
    "url",
    [
        "https://api.bossdb.io/c/e/ch/0/0:1/0:1/0:1",
        "boss://api.bossdb.io/c/e/ch/0/0:1/0:1",
        "boss://api.bossdb.io/0/0:1/0:1/0:1",
        "boss://api.bossdb.io/c/e/ch/0/1:1/0:1/0:1",
        "boss://api.bossdb.io/c/e/ch/0/2:1/0:1/0:1",
        "boss://api.bossdb.io/c/e/ch/0/00:1/0:1/0:1",
        "boss://api.bossdb.io/c/e/ch/0/-1:1/0:1/0:1",
        "boss://api.bossdb.io/c/e/ch/0/0:1/0:1/0:1?chunk=1,1,1",
        "boss://api.bossdb.io/c/e/ch/0/0:2/0:1/0:1?chunk=1,1,1",
        "boss://api.bossdb.io/c/e/ch/0/0:1/0:1/0:1?chunk=2,1,1&chunk=3,1,1",
        "boss://api.bossdb.io/c/e/ch/0/0:1/0:1/0:1?dtype=object",
        "boss://api.bossdb.io/c/e/ch/0/0:1/0:1/0:1?scheme=https",
        "boss://api.bossdb.io/c/e/ch/0/0:1/0:1/0:1?scheme=file",
        "boss://api.bossdb.io/c/e/ch/0/0:1/0:1/0:1?token=secret",
        "boss://api.bossdb.io/c/e/ch/0/0:1/0:1/0:1#x",
        "boss://api.bossdb.io/c/../ch/0/0:1/0:1/0:1",
        "boss://me:secret@api.bossdb.io/c/e/ch/0/0:1/0:1/0:1",
        "boss:///c/e/ch/0/0:1/0:1/0:1",
        "boss://api.bossdb.io/c/e/ch/0/0:1/0:1/0:1\n",
    ],
)
def test_a_noncanonical_block_url_is_refused(url: str) -> None:
    with pytest.raises(MalformedUrlError) as caught:
        parse_url(url)
    assert "secret" not in str(caught.value)


def test_a_url_has_only_parameters_that_differ_from_the_defaults() -> None:
    def url(host: str, secure: bool, dtype: str | None = None) -> str:
        box = ((0, 1), (0, 1), (0, 1))
        return str(BlockUrl("boss", host, "c/e/h", "0", box, (1, 1, 1), None, dtype, secure))

    assert url("lab.example", True) == "boss://lab.example/c/e/h/0/0:1/0:1/0:1"
    assert url("lab.example:8000", False).endswith("?scheme=http")
    assert url("127.0.0.1:8000", False).endswith("/0:1")
    assert url("[::1]:8000", False).endswith("/0:1")
    assert url("localhost", True, "float32").endswith("?dtype=float32&scheme=https")
    assert parse_url(url("[::1]:8000", False)).host == "[::1]:8000"


def test_a_size_that_no_file_of_the_block_has_is_refused() -> None:
    url = parse_url("boss://h/c/e/ch/0/0:2/0:2/0:2?chunk=2,2,3")
    assert url.voxel_type(12) == "uint8"
    assert url.voxel_type(96) == "uint64"
    for size in (0, 13, 36, 192):
        with pytest.raises(MalformedUrlError, match=f"{size} bytes"):
            url.voxel_type(size)
    with pytest.raises(MalformedUrlError):
        parse_url("boss://h/c/e/ch/0/0:2/0:2/0:2?dtype=float32").voxel_type(8)


# --- planning


def hierarchy() -> Volume:
    return volume(
        level("0", (1000, 900, 61), start=(0, 0, 1), voxel=(4.0, 4.0, 40.0), chunk=(1, 1, 1)),
        level("1", (500, 450, 61), start=(0, 0, 1), voxel=(8.0, 8.0, 40.0), chunk=(1, 1, 1)),
        level("2", (250, 225, 31), start=(0, 0, 0), voxel=(16.0, 16.0, 80.0), chunk=(1, 1, 1)),
    )


def test_a_plan_takes_all_levels_in_chunks_of_the_requested_shape() -> None:
    made = plan_volume(hierarchy(), options(block=[512, 512, 16]))
    assert [one.chunk for one in made.levels] == [(512, 512, 16), (500, 450, 16), (250, 225, 16)]
    assert made.files == 2 * 2 * 4 + 4 + 2


def test_a_box_is_of_level_0_and_covers_the_others_accordingly() -> None:
    box = [[101, 203], [0, 10**9], [2, 5]]
    made = plan_volume(hierarchy(), options(box=box))
    assert [(one.start, one.stop) for one in made.levels] == [
        ((101, 0, 2), (203, 900, 5)),
        ((50, 0, 2), (102, 450, 5)),
        ((25, 0, 1), (51, 225, 3)),
    ]


def test_a_left_out_level_moves_no_other() -> None:
    made = plan_volume(hierarchy(), options(levels=[2, 1]))
    assert [one.name for one in made.levels] == ["1", "2"]
    assert made.base_voxel == (4.0, 4.0, 40.0)


def test_a_level_or_box_that_upstream_lacks_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match=r"7.* 0, 1, 2"):
        plan_volume(hierarchy(), options(levels=[0, 7]))
    with pytest.raises(ConfigurationError, match="level 0, which has 0:1000"):
        plan_volume(hierarchy(), options(box=[[1000, 1001], [0, 1], [1, 2]]))


def test_too_many_files_are_refused_with_a_helpful_message() -> None:
    made = plan_volume(hierarchy(), options(block=[512, 512, 16]))
    check_size(made, options(max_files=22), "bossdb:c/e/ch")
    with pytest.raises(TooManyFilesError) as caught:
        check_size(made, options(max_files=21), "bossdb:c/e/ch")
    for expected in (
        "bossdb:c/e/ch",
        "22 chunk files",
        f"{made.bytes:,}",
        "16 of level 0",
        "max_files",
    ):
        assert expected in str(caught.value)


def test_an_estimate_counts_the_fetched_bytes() -> None:
    made = plan_volume(hierarchy(), options(block=[512, 512, 16]))
    whole = estimate_volume(made, options(hash="fetch"))
    assert (whole.files, whole.bytes, whole.fetched) == (22, made.bytes, made.bytes)
    assert whole.requests == 22
    assert (
        estimate_volume(made, options()).requests == estimate_volume(made, options()).fetched == 0
    )
    assert estimate_volume(made, options(sample=5)).requests == 5


# --- options


def test_only_what_is_hashed_is_sampled_by_default() -> None:
    assert (options().sample_count, options().rolling_count) == (0, 0)
    hashed = options(hash="fetch")
    assert (hashed.sample_count, hashed.rolling_count) == (16, 64)
    assert options(hash="fetch", sample=0, rolling=3).rolling_count == 3


def test_patterns_choose_among_local_ids() -> None:
    some = options(include=["kasthuri*/*", "one/two/three"], exclude=["*/secret/*"])
    assert some.includes("kasthuri2015/em/cc")
    assert some.includes("one/two/three")
    assert not some.includes("one/two/four")
    assert not some.includes("kasthuri2015/secret/cc")
    assert options().includes("anything")


@pytest.mark.parametrize(
    "wrong",
    [
        {"levels": []},
        {"box": [[0, 0], [0, 1], [0, 1]]},
        {"block": [0, 1, 1]},
        {"workers": 25},
        {"api": "https://me:secret@api.bossdb.io"},
        {"hash": "perhaps"},
        {"unknown": 1},
    ],
)
def test_contradictory_options_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        options(**wrong)


def test_a_session_sends_its_token_only_to_the_api() -> None:
    session = options(api="http://127.0.0.1:1/", token_env="BOSS_TOKEN").session()
    assert session.allow_private
    assert session.limits.per_host < 25
    assert not options(token_env="BOSS_TOKEN").session().allow_private


def test_volumes_that_differ_in_one_thing_have_other_blocks() -> None:
    before = hierarchy()
    first: Block = next(blocks(before))
    assert next(blocks(replace(before, host="other.example"))).url != first.url
