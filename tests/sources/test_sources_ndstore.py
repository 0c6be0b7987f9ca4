"""An ndstore's channels become arrays with the service's stored voxels only."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr

from neuromirror.model import ConfigurationError, NeuromirrorError
from neuromirror.net import NetError
from neuromirror.sources import UnreliableListingError
from neuromirror.sources.volumes.urls import BlockReadError
from neuromirror_demo.ndstore import (
    CALCIUM,
    CELLS,
    IMAGE_11,
    MEMBRANES,
    SINGLE_12,
    SYNAPSES,
    DemoNdstore,
)
from support.ndstore_sources import (
    digests,
    document,
    fetch_dataset,
    listing_of,
    make_source,
    read,
    transformations_by_level,
)


@pytest.fixture
def ndstore(tmp_path: Path) -> Iterator[DemoNdstore]:
    with DemoNdstore(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def shared_ndstore(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoNdstore]:
    """An ndstore for read-only tests."""
    with DemoNdstore(tmp_path_factory.mktemp("ndstore")) as running:
        yield running


# -- arrays


@pytest.mark.filterwarnings("ignore:Object at .ndstore is not recognized")
@pytest.mark.parametrize("path", [IMAGE_11, MEMBRANES, CELLS, CALCIUM, SYNAPSES, SINGLE_12])
def test_every_level_opens_as_the_array_that_the_service_holds(
    shared_ndstore: DemoNdstore, tmp_path: Path, path: str
) -> None:
    from ome_zarr_models.v05 import Image

    source = make_source(shared_ndstore, block=[128, 128, 32])
    opened = zarr.open_group(fetch_dataset(source, listing_of(source, path), tmp_path), mode="r")
    token, _, name = path.partition("/")
    tables = shared_ndstore.projects[token].channels[name].tables
    assert sorted(opened.array_keys()) == sorted(map(str, tables))
    for level in tables:
        found, expected = opened[str(level)], shared_ndstore.voxels(path, level)
        assert found.dtype == expected.dtype
        assert np.array_equal(found[...], expected)
    Image.from_zarr(opened)


def test_blocks_are_hashed_where_the_options_say_so(shared_ndstore: DemoNdstore) -> None:
    records, _ = read(listing_of(make_source(shared_ndstore, hash="fetch"), CELLS))
    assert all(record.digests[0].checked for record in records)
    known = {f"{n}/c/0/0/0" for n in range(3)}
    assert known < digests(records).keys()
    unread, _ = read(listing_of(make_source(shared_ndstore), CELLS))
    assert [one.path for one in unread] == [record.path for record in records]
    assert [one.size for one in unread] == [record.size for record in records]
    assert not any(one.digests for one in unread)


def test_a_level_has_the_position_that_the_service_states(shared_ndstore: DemoNdstore) -> None:
    source = make_source(shared_ndstore)
    sections = transformations_by_level(listing_of(source, IMAGE_11))
    # z starts at 1 and is not scaled; joining pixels moves their centers
    assert sections["0"] == ([30.0, 3.0, 3.0], [30.0, 0.0, 0.0])
    assert sections["1"] == ([30.0, 6.0, 6.0], [30.0, 1.5, 1.5])
    assert sections["2"] == ([30.0, 12.0, 12.0], [30.0, 4.5, 4.5])


def test_a_level_with_a_rounded_offset_has_its_real_position(shared_ndstore: DemoNdstore) -> None:
    # The offset is 10, 6, 4. ndstore states 2, 1, 1 for level 2, but computes it from 10 to 13.
    moved = transformations_by_level(listing_of(make_source(shared_ndstore), CALCIUM))
    assert moved["0"] == ([1.0, 500.0, 500.0, 500.0], [5.0, 2000.0, 3000.0, 5000.0])
    assert moved["1"][1] == [5.0, 2250.0, 3250.0, 5250.0]
    assert moved["2"][1] == [5.0, 2750.0, 3750.0, 5750.0]


def test_a_box_keeps_its_position(shared_ndstore: DemoNdstore) -> None:
    box = [[42, 110], [38, 96], [12, 40]]
    cropped = listing_of(make_source(shared_ndstore, box=box, levels=[2]), CALCIUM)
    # Level 2 starts at 42 // 4 = 10, 9, 3: eight voxels of 2000 nm after its origin (2).
    assert transformations_by_level(cropped)["2"][1] == [
        5.0,
        2750.0 + 2 * 2000,
        3750.0 + 8 * 2000,
        5750.0 + 8 * 2000,
    ]


def test_the_unit_comes_from_the_options(shared_ndstore: DemoNdstore) -> None:
    axes = [
        document(listing_of(make_source(shared_ndstore, **given), IMAGE_11), "zarr.json")
        for given in ({}, {"unit": "micrometer"})
    ]
    units = [axis["attributes"]["ome"]["multiscales"][0]["axes"][0] for axis in axes]
    assert units == [
        {"name": "z", "type": "space", "unit": "nanometer"},
        {"name": "z", "type": "space", "unit": "micrometer"},
    ]


# -- synthesized levels


def test_levels_that_were_never_created_are_excluded_by_name(shared_ndstore: DemoNdstore) -> None:
    records, left_out = read(listing_of(make_source(shared_ndstore), SINGLE_12))
    assert {record.path.partition(b"/")[0] for record in records} == {b"0"}
    assert [(one.path, one.reason) for one in left_out] == [
        (b"1", "no-voxels"),
        (b"2", "no-voxels"),
    ]
    assert "propagate is 0" in left_out[0].detail
    records, left_out = read(listing_of(make_source(shared_ndstore), SYNAPSES))
    assert {record.path.partition(b"/")[0] for record in records} == {b"1", b"2"}
    assert [one.path for one in left_out] == [b"0"]
    assert left_out[0].reason == "no-voxels"


def test_a_synthetic_level_cannot_be_requested(shared_ndstore: DemoNdstore) -> None:
    for path, level in ((SINGLE_12, 1), (SYNAPSES, 0)):
        with pytest.raises(ConfigurationError, match=f"no level {level}, only"):
            listing_of(make_source(shared_ndstore, levels=[level]), path)
    records, left_out = read(listing_of(make_source(shared_ndstore, levels=[2]), SYNAPSES))
    assert {record.path.partition(b"/")[0] for record in records} == {b"2"}
    assert not left_out


# -- changes


def test_an_unchanged_channel_is_found_unchanged(
    shared_ndstore: DemoNdstore, tmp_path: Path
) -> None:
    source = make_source(shared_ndstore, hash="fetch", sample=4, rolling=5)
    first = listing_of(source, IMAGE_11, workspace=tmp_path)
    read(first)
    shared_ndstore.clear_requests()
    second = listing_of(source, IMAGE_11, memo=first.memo())
    assert second.is_unchanged()
    assert "1–5 of 51" in second.describe_checks()
    assert shared_ndstore.count_requests("/npz/") <= 9


def test_a_voxel_that_changed_is_found(ndstore: DemoNdstore, tmp_path: Path) -> None:
    source = make_source(ndstore, levels=[1], hash="fetch", sample=12)
    first = listing_of(source, IMAGE_11, workspace=tmp_path / "1")
    before = digests(read(first)[0])
    ndstore.edit(IMAGE_11, ((99, 100), (74, 75), (40, 41)), level=1, spread=False)
    second = listing_of(source, IMAGE_11, memo=first.memo())
    assert not second.is_unchanged()
    after = digests(read(second)[0])
    assert {path for path in after if after[path] != before[path]} == {"1/c/2/1/1"}


def test_volatile_fields_of_upstream_change_no_state(ndstore: DemoNdstore, tmp_path: Path) -> None:
    source = make_source(ndstore, levels=[2], hash="fetch")
    first = listing_of(source, IMAGE_11, workspace=tmp_path)
    read(first)
    ndstore.move_storage("demo11")
    ndstore.lose_lims("demo11")
    ndstore.remove(MEMBRANES)
    second = listing_of(source, IMAGE_11, memo=first.memo())
    assert second.documents == first.documents
    assert second.is_unchanged()
    ndstore.describe(IMAGE_11, "new")
    other = listing_of(source, IMAGE_11, memo=first.memo())
    assert not other.is_unchanged()
    assert document(other, ".ndstore/channel.json")["description"] == "new"


def test_a_channel_that_was_opened_for_writing_is_read_again(
    ndstore: DemoNdstore, tmp_path: Path
) -> None:
    source = make_source(ndstore, levels=[2], hash="fetch", sample=0, rolling=0)
    first = listing_of(source, IMAGE_11, workspace=tmp_path)
    before = digests(read(first)[0])
    ndstore.edit(IMAGE_11, ((0, 1), (0, 1), (1, 2)), level=2, spread=False)
    # without a signal, the sample misses the change
    assert listing_of(source, IMAGE_11, memo=first.memo()).is_unchanged()
    ndstore.set_propagate(IMAGE_11, 2)
    second = listing_of(source, IMAGE_11, memo=first.memo())
    assert not second.is_unchanged()
    assert digests(read(second)[0])["2/c/0/0/0"] != before["2/c/0/0/0"]


def test_nothing_is_listed_while_levels_are_being_created(ndstore: DemoNdstore) -> None:
    source = make_source(ndstore)
    ndstore.set_propagate(IMAGE_11, 1)
    assert "propagate" in (source.hint(source.dataset(IMAGE_11)).unavailable or "")
    with pytest.raises(UnreliableListingError, match=r"nd:demo11/image: .*propagate"):
        listing_of(source, IMAGE_11)


def test_a_new_level_during_the_listing_fails_it(ndstore: DemoNdstore) -> None:
    listing = listing_of(make_source(ndstore), SINGLE_12)
    list(listing.entries())
    ndstore.propagate(SINGLE_12)
    with pytest.raises(UnreliableListingError, match="levels changed"):
        listing.confirm_version()


# -- errors


@pytest.mark.parametrize(
    ("fault", "options", "says"),
    [
        ("wrong_shape", {}, "63"),
        ("wrong_dtype", {}, "uint16"),
        ("cut", {}, ""),
        ("wrong_bytes", {}, ""),
        ("html", {}, "text/html"),
        ("status", {"status": 429}, "429"),
        ("status", {"status": 500}, "500"),
        ("status", {"status": 404}, "404"),
    ],
)
def test_an_unreadable_block_fails_the_listing_and_is_named(
    ndstore: DemoNdstore, fault: str, options: dict[str, int], says: str
) -> None:
    listing = listing_of(make_source(ndstore, hash="fetch", workers=2), IMAGE_11)
    where = "/npz/0/64,128/64,128/17,33/"
    with ndstore.fault(fault, path=where, **options), pytest.raises(NeuromirrorError) as raised:
        list(listing.entries())
    assert isinstance(raised.value, BlockReadError | NetError)
    assert "0/64:128/64:128/17:33" in str(raised.value)
    assert says in str(raised.value)


def test_an_estimate_equals_the_listing(shared_ndstore: DemoNdstore) -> None:
    for options in ({}, {"hash": "fetch", "levels": [2]}, {"levels": [1]}):
        source = make_source(shared_ndstore, **options)
        for path in (IMAGE_11, CALCIUM):
            estimate = source.estimate(source.dataset(path))
            records, _ = read(listing_of(source, path))
            assert estimate is not None
            assert (estimate.files, estimate.bytes) == (
                len(records),
                sum(record.size or 0 for record in records),
            )
