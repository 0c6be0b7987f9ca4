"""Zarr assets that are not what the archive says, or are asked for again."""

from __future__ import annotations

import shutil

import pytest
from scripted import Box, File, Scripted, Thing, at, files
from zarr_box import UNPROVEN, UNREACHABLE, exceptions, links, parts, paths, version_labels, zarr

from neuromirror.crawl import rebuild_index
from neuromirror.model import ConfigurationError, EventRaised, VisitEnded
from neuromirror.sources import PartUnavailable
from neuromirror.store import Store

# --- what cannot be proven


@pytest.mark.parametrize("chunks", [3, 9])
def test_a_zarr_that_is_not_proven_keeps_its_earlier_state_and_blocks_no_other(
    zarrs: Box, source: Scripted, chunks: int
) -> None:
    source.zarrs = {"z": zarr(chunks), "other": zarr(8), "small": zarr(2)}
    source.things["a"] = Thing(files("x.bin"), counted=True)
    source.things["a"].zarrs = {f"{name}.zarr": name for name in source.zarrs}
    source.fingerprint = "same"
    zarrs.sync()
    before = (links(zarrs).get("z.zarr"), [one for one in paths(zarrs) if one.startswith("z")])
    for one in source.zarrs.values():
        one.files["0"] = File(b"another", at(3))
    source.zarrs["z"].broken = UNPROVEN
    source.fingerprint = "another"
    result = zarrs.sync()["box:a"]
    assert (result.exit_code, result.status, result.visit) == (1, "error", "partial")
    assert "z.zarr (box:zarr/z)" in result.message
    assert str(UNPROVEN) in result.message
    after = (links(zarrs).get("z.zarr"), [one for one in paths(zarrs) if one.startswith("z")])
    assert after == before
    assert exceptions(zarrs) == {}
    assert parts(zarrs)["other.zarr"].label == source.zarrs["other"].checksum
    assert len(version_labels(zarrs, "box:a")) == 2
    # tried again, though upstream's overview is the same
    assert zarrs.sync()["box:a"].visit == "partial"
    assert len(version_labels(zarrs, "box:a")) == 2
    source.zarrs["z"].broken = None
    assert zarrs.sync()["box:a"].visit == "full"
    assert len(version_labels(zarrs, "box:a")) == 3
    assert "unchanged" in zarrs.sync()["box:a"].message
    zarrs.fsck()


@pytest.mark.parametrize("chunks", [3, 9])
def test_a_new_zarr_that_is_not_proven_is_a_named_exception_until_it_is(
    zarrs: Box, source: Scripted, chunks: int
) -> None:
    source.zarrs = {"z": zarr(chunks, broken=UNPROVEN), "other": zarr(8)}
    source.things["a"] = Thing(files("x.bin"), zarrs={"z.zarr": "z", "other.zarr": "other"})
    first = zarrs.sync()["box:a"]
    assert (first.visit, len(first.versions)) == ("partial", 1)
    assert exceptions(zarrs) == {"z.zarr": ("zarr-not-proven", source.zarrs["z"].size)}
    refs = zarrs.refs()
    source.zarrs["z"].broken = UNREACHABLE
    again = zarrs.sync()["box:a"]
    assert (again.visit, again.versions) == ("failed", ())
    assert zarrs.refs() == refs
    source.zarrs["z"].broken = None
    assert zarrs.sync()["box:a"].visit == "full"
    assert exceptions(zarrs) == {}


def test_a_zarr_that_outgrew_its_folder_unproven_keeps_its_files(
    zarrs: Box, source: Scripted
) -> None:
    source.zarrs = {"z": zarr(3)}
    source.things["a"] = Thing(files("x.bin"), zarrs={"z.zarr": "z"}, counted=True)
    zarrs.sync()
    before = paths(zarrs)
    source.zarrs["z"] = zarr(9, broken=UNPROVEN)
    assert zarrs.sync()["box:a"].visit == "partial"
    assert (paths(zarrs), parts(zarrs)) == (before, {})
    source.zarrs["z"].broken = None
    assert zarrs.sync()["box:a"].visit == "full"
    before = links(zarrs)
    source.zarrs["z"] = zarr(2, broken=UNPROVEN)
    assert zarrs.sync()["box:a"].visit == "partial"
    assert (paths(zarrs), links(zarrs)) == (["x.bin"], before)
    zarrs.fsck()


@pytest.mark.parametrize("chunks", [3, 9])
def test_a_zarr_that_nobody_may_read_is_left_out_and_no_failure(
    zarrs: Box, source: Scripted, chunks: int
) -> None:
    source.zarrs = {"z": zarr(chunks, broken=PartUnavailable("under embargo"))}
    source.things["a"] = Thing(files("x.bin"), zarrs={"z.zarr": "z"})
    result = zarrs.sync()["box:a"]
    assert (result.exit_code, result.visit) == (0, "full")
    assert exceptions(zarrs) == {"z.zarr": ("embargoed", source.zarrs["z"].size)}
    source.zarrs["z"].broken = None
    assert zarrs.sync()["box:a"].visit == "full"
    assert exceptions(zarrs) == {}


@pytest.mark.parametrize("chunks", [3, 9])
def test_a_zarr_that_is_being_written_is_asked_for_in_each_sync_and_no_failure(
    zarrs: Box, source: Scripted, chunks: int
) -> None:
    pending = PartUnavailable("it has no checksum", "pending")
    source.zarrs = {"z": zarr(chunks, broken=pending)}
    source.things["a"] = Thing(files("x.bin"), zarrs={"z.zarr": "z"})
    source.fingerprint = "same"
    for _ in range(2):
        result = zarrs.sync()["box:a"]
        assert (result.exit_code, result.visit) == (0, "full")
        assert exceptions(zarrs) == {"z.zarr": ("pending", source.zarrs["z"].size)}
    source.zarrs["z"].broken = None
    assert zarrs.sync()["box:a"].visit == "full"
    assert exceptions(zarrs) == {}
    # what stood there before stays while it is written again
    before = paths(zarrs), links(zarrs)
    source.fingerprint = "another"
    source.zarrs["z"] = zarr(chunks + 1, broken=pending)
    for _ in range(2):
        result = zarrs.sync()["box:a"]
        assert (result.exit_code, result.visit) == (0, "full")
    assert (paths(zarrs), links(zarrs)) == before
    source.zarrs["z"].broken = None
    assert zarrs.sync()["box:a"].visit == "full"
    assert (paths(zarrs), links(zarrs)) != before


@pytest.mark.parametrize("chunks", [3, 9])
def test_a_zarr_that_is_being_written_counts_once_whichever_versions_have_it(
    zarrs: Box, source: Scripted, chunks: int
) -> None:
    pending = PartUnavailable("it has no checksum", "pending")
    source.zarrs = {"z": zarr(chunks, broken=pending), "y": zarr(chunks, broken=pending)}
    thing = source.things["a"] = Thing(files("x.bin"), published={"1.0": files("x.bin")})
    thing.zarrs = {"z.zarr": "z", "y.zarr": "y"}
    assert zarrs.sync()["box:a"].visit == "full"
    assert [one.pending for one in zarrs.entries(VisitEnded)] == [2]


def test_a_published_version_waits_until_all_its_zarrs_are_proven(
    zarrs: Box, source: Scripted
) -> None:
    source.zarrs = {"s": zarr(3), "l": zarr(9)}
    thing = source.things["a"] = Thing(files("x.bin"), published={"1.0": files("x.bin")})
    thing.zarrs, thing.counted = {"s.zarr": "s", "l.zarr": "l"}, True
    source.zarrs["s"].broken = source.zarrs["l"].broken = UNPROVEN
    for name in "sl":
        result = zarrs.sync()["box:a"]
        assert (result.visit, "1.0" in result.versions) == ("partial", False)
        source.zarrs[name].broken = None
    assert "1.0" in zarrs.sync()["box:a"].versions
    # its parts count as upstream counts them
    result = zarrs.sync()["box:a"]
    assert (result.visit, result.message) == ("full", "nothing new")
    assert zarrs.sync(deep=True)["box:a"].exit_code == 0
    # and when it is forgotten which files are of one part
    shutil.rmtree(zarrs.folder / "neuromirror" / "memos")
    source.read.clear()
    assert zarrs.sync()["box:a"].message == "nothing new"
    assert "a 1.0" in source.read
    source.read.clear()
    assert zarrs.sync()["box:a"].message == "nothing new"
    assert source.read == []
    assert zarrs.entries(EventRaised) == []


# --- deep visits and earlier states


@pytest.mark.parametrize("chunks", [3, 9])
def test_a_deep_visit_reads_zarrs_whose_checksum_is_the_same(
    zarrs: Box, source: Scripted, chunks: int
) -> None:
    source.zarrs = {"z": zarr(chunks)}
    source.things["a"] = Thing(files("x.bin"), zarrs={"z.zarr": "z"})
    zarrs.sync()
    refs = zarrs.refs()
    source.read.clear()
    (zarrs.folder / "neuromirror" / "memos").rename(zarrs.folder / "forgotten")
    assert zarrs.sync(deep=True)["box:a"].status == "notneeded"
    assert sorted(source.read) == ["a current", f"zarr/z {source.zarrs['z'].checksum}"]
    source.zarrs["z"].broken = UNPROVEN
    for _ in range(2):
        result = zarrs.sync(deep=True)["box:a"]
        assert (result.exit_code, result.visit) == (1, "partial")
        assert "box:zarr/z" in result.message
    assert zarrs.refs() == refs
    events = [one.local_id for one in zarrs.entries(EventRaised) if one.kind == "incident"]
    assert events == ["zarr/z" if chunks == 9 else "a"]


def test_the_memo_of_a_zarr_makes_a_deep_visit_of_it_cheap(zarrs: Box, source: Scripted) -> None:
    source.zarrs = {"z": zarr(9)}
    source.things["a"] = Thing(files("x.bin"), zarrs={"z.zarr": "z"})
    zarrs.sync()
    source.read.clear()
    assert zarrs.sync(deep=True)["box:a"].status == "notneeded"
    assert source.read == ["a current"]


def test_earlier_states_of_a_zarr_go_before_the_present_one(zarrs: Box, source: Scripted) -> None:
    past = {at(-9): files("0"), at(-6): {}, at(-3): files("0", "1", modified=at(-3))}
    source.zarrs = {"z": zarr(9, past=past)}
    source.things["a"] = Thing(files("x.bin"), zarrs={"z.zarr": "z"})
    result = zarrs.sync(history=True)["box:a"]
    assert (result.visit, "3 new states of its Zarrs" in result.message) == ("full", True)
    checksum = source.zarrs["z"].checksum
    *past_labels, last = version_labels(zarrs, "box:zarr/z")
    assert [one[:19] for one in past_labels] == ["2024-03-01T120000Z-", "2024-03-01T115700Z-"]
    assert last == checksum
    assert parts(zarrs)["z.zarr"].label == checksum
    again = zarrs.sync(history=True)["box:a"]
    assert again.status == "notneeded"
    assert len(version_labels(zarrs, "box:zarr/z")) == 3
    # what happened between two visits
    source.zarrs["z"].past[at(0)] = dict(source.zarrs["z"].files)
    source.zarrs["z"].past[at(5)] = {**source.zarrs["z"].files, "0": File(b"five", at(5))}
    source.zarrs["z"].files["0"] = File(b"seven", at(7))
    assert zarrs.sync(history=True)["box:a"].visit == "full"
    labels = version_labels(zarrs, "box:zarr/z")
    assert [labels[2], labels[4]] == [checksum, source.zarrs["z"].checksum]
    assert labels[3].startswith("2024-03-01T120500Z-")
    zarrs.fsck()


def test_a_zarr_is_synced_with_the_dataset_that_holds_it_and_not_alone(
    zarrs: Box, source: Scripted
) -> None:
    source.zarrs = {"l": zarr(9)}
    source.things["a"] = Thing(files("x.bin"), zarrs={"l.zarr": "l"})
    zarrs.sync()
    with pytest.raises(ConfigurationError, match="part of box:a; sync that"):
        zarrs.sync("box:zarr/l")


def test_the_index_can_be_made_anew_with_parts(zarrs: Box, source: Scripted) -> None:
    source.zarrs = {"s": zarr(3), "l": zarr(9)}
    source.things["a"] = Thing(files("x.bin"), zarrs={"s.zarr": "s", "l.zarr": "l"})
    zarrs.sync()
    source.zarrs["l"].files["0"] = File(b"other", at(4))
    zarrs.sync()
    store: Store = zarrs.store
    with zarrs.index() as index:
        before = list(index.dump())
    rebuild_index(store, store.index_path)
    with zarrs.index() as index:
        assert list(index.dump()) == before
