"""Zarr assets that do not match the archive's checksum, or are read again."""

from __future__ import annotations

import shutil

import pytest

from neuromirror.model import ConfigurationError, EventRaised, VisitEnded
from neuromirror.sources import ComponentUnavailableError
from support.scripted_source import (
    ScriptedDataset,
    ScriptedFile,
    ScriptedHarness,
    at,
    files,
)
from support.scripted_zarrs import (
    CONTRADICTED,
    UNREACHABLE,
    exceptions,
    links,
    parts,
    paths,
    scripted_zarr,
    version_labels,
)

# --- Zarrs that fail validation


@pytest.mark.parametrize("chunks", [3, 9])
def test_a_zarr_that_fails_validation_keeps_its_previous_state_and_blocks_no_other(
    zarr_harness: ScriptedHarness, chunks: int
) -> None:
    zarr_harness.source.zarrs = {
        "z": scripted_zarr(chunks),
        "other": scripted_zarr(8),
        "small": scripted_zarr(2),
    }
    zarr_harness.datasets["a"] = ScriptedDataset(files("x.bin"), has_summary=True)
    zarr_harness.datasets["a"].zarrs = {f"{name}.zarr": name for name in zarr_harness.source.zarrs}
    zarr_harness.source.fingerprint = "same"
    zarr_harness.sync()
    before = (
        links(zarr_harness).get("z.zarr"),
        [one for one in paths(zarr_harness) if one.startswith("z")],
    )
    for one in zarr_harness.source.zarrs.values():
        one.files["0"] = ScriptedFile(b"another", at(3))
    zarr_harness.source.zarrs["z"].error = CONTRADICTED
    zarr_harness.source.fingerprint = "another"
    result = zarr_harness.sync()["box:a"]
    assert (result.exit_code, result.status, result.visit) == (1, "error", "partial")
    assert "z.zarr (box:zarr/z)" in result.message
    assert str(CONTRADICTED) in result.message
    after = (
        links(zarr_harness).get("z.zarr"),
        [one for one in paths(zarr_harness) if one.startswith("z")],
    )
    assert after == before
    assert exceptions(zarr_harness) == {}
    assert parts(zarr_harness)["other.zarr"].label == zarr_harness.source.zarrs["other"].checksum
    assert len(version_labels(zarr_harness, "box:a")) == 2
    # read again, although the overview is unchanged
    assert zarr_harness.sync()["box:a"].visit == "partial"
    assert len(version_labels(zarr_harness, "box:a")) == 2
    zarr_harness.source.zarrs["z"].error = None
    assert zarr_harness.sync()["box:a"].visit == "full"
    assert len(version_labels(zarr_harness, "box:a")) == 3
    assert "unchanged" in zarr_harness.sync()["box:a"].message
    zarr_harness.fsck()


@pytest.mark.parametrize("chunks", [3, 9])
def test_a_new_zarr_that_fails_validation_is_a_named_exception_until_it_passes(
    zarr_harness: ScriptedHarness, chunks: int
) -> None:
    zarr_harness.source.zarrs = {
        "z": scripted_zarr(chunks, error=CONTRADICTED),
        "other": scripted_zarr(8),
    }
    zarr_harness.datasets["a"] = ScriptedDataset(
        files("x.bin"), zarrs={"z.zarr": "z", "other.zarr": "other"}
    )
    first = zarr_harness.sync()["box:a"]
    assert (first.visit, len(first.versions)) == ("partial", 1)
    assert exceptions(zarr_harness) == {
        "z.zarr": ("zarr-not-proven", zarr_harness.source.zarrs["z"].size)
    }
    refs = zarr_harness.refs()
    zarr_harness.source.zarrs["z"].error = UNREACHABLE
    repeated = zarr_harness.sync()["box:a"]
    assert (repeated.visit, repeated.versions) == ("failed", ())
    assert zarr_harness.refs() == refs
    zarr_harness.source.zarrs["z"].error = None
    assert zarr_harness.sync()["box:a"].visit == "full"
    assert exceptions(zarr_harness) == {}


def test_a_zarr_that_outgrew_its_folder_and_fails_validation_keeps_its_files(
    zarr_harness: ScriptedHarness,
) -> None:
    zarr_harness.source.zarrs = {"z": scripted_zarr(3)}
    zarr_harness.datasets["a"] = ScriptedDataset(
        files("x.bin"), zarrs={"z.zarr": "z"}, has_summary=True
    )
    zarr_harness.sync()
    before = paths(zarr_harness)
    zarr_harness.source.zarrs["z"] = scripted_zarr(9, error=CONTRADICTED)
    assert zarr_harness.sync()["box:a"].visit == "partial"
    assert (paths(zarr_harness), parts(zarr_harness)) == (before, {})
    zarr_harness.source.zarrs["z"].error = None
    assert zarr_harness.sync()["box:a"].visit == "full"
    before = links(zarr_harness)
    zarr_harness.source.zarrs["z"] = scripted_zarr(2, error=CONTRADICTED)
    assert zarr_harness.sync()["box:a"].visit == "partial"
    assert (paths(zarr_harness), links(zarr_harness)) == (["x.bin"], before)
    zarr_harness.fsck()


@pytest.mark.parametrize("chunks", [3, 9])
def test_a_zarr_that_is_not_public_is_an_exception_and_no_failure(
    zarr_harness: ScriptedHarness, chunks: int
) -> None:
    zarr_harness.source.zarrs = {
        "z": scripted_zarr(chunks, error=ComponentUnavailableError("under embargo"))
    }
    zarr_harness.datasets["a"] = ScriptedDataset(files("x.bin"), zarrs={"z.zarr": "z"})
    result = zarr_harness.sync()["box:a"]
    assert (result.exit_code, result.visit) == (0, "full")
    assert exceptions(zarr_harness) == {
        "z.zarr": ("embargoed", zarr_harness.source.zarrs["z"].size)
    }
    zarr_harness.source.zarrs["z"].error = None
    assert zarr_harness.sync()["box:a"].visit == "full"
    assert exceptions(zarr_harness) == {}


@pytest.mark.parametrize("chunks", [3, 9])
def test_an_unfinished_zarr_is_requested_in_each_sync_and_no_failure(
    zarr_harness: ScriptedHarness, chunks: int
) -> None:
    pending = ComponentUnavailableError("it has no checksum", "pending")
    zarr_harness.source.zarrs = {"z": scripted_zarr(chunks, error=pending)}
    zarr_harness.datasets["a"] = ScriptedDataset(files("x.bin"), zarrs={"z.zarr": "z"})
    zarr_harness.source.fingerprint = "same"
    for _ in range(2):
        result = zarr_harness.sync()["box:a"]
        assert (result.exit_code, result.visit) == (0, "full")
        assert exceptions(zarr_harness) == {
            "z.zarr": ("pending", zarr_harness.source.zarrs["z"].size)
        }
    zarr_harness.source.zarrs["z"].error = None
    assert zarr_harness.sync()["box:a"].visit == "full"
    assert exceptions(zarr_harness) == {}
    # the previous state is kept while the Zarr is being written
    before = paths(zarr_harness), links(zarr_harness)
    zarr_harness.source.fingerprint = "another"
    zarr_harness.source.zarrs["z"] = scripted_zarr(chunks + 1, error=pending)
    for _ in range(2):
        result = zarr_harness.sync()["box:a"]
        assert (result.exit_code, result.visit) == (0, "full")
    assert (paths(zarr_harness), links(zarr_harness)) == before
    zarr_harness.source.zarrs["z"].error = None
    assert zarr_harness.sync()["box:a"].visit == "full"
    assert (paths(zarr_harness), links(zarr_harness)) != before


@pytest.mark.parametrize("chunks", [3, 9])
def test_a_zarr_that_is_being_written_counts_once_whichever_versions_have_it(
    zarr_harness: ScriptedHarness, chunks: int
) -> None:
    pending = ComponentUnavailableError("it has no checksum", "pending")
    zarr_harness.source.zarrs = {
        "z": scripted_zarr(chunks, error=pending),
        "y": scripted_zarr(chunks, error=pending),
    }
    scripted_dataset = zarr_harness.datasets["a"] = ScriptedDataset(
        files("x.bin"), published_versions={"1.0": files("x.bin")}
    )
    scripted_dataset.zarrs = {"z.zarr": "z", "y.zarr": "y"}
    assert zarr_harness.sync()["box:a"].visit == "full"
    assert [one.pending for one in zarr_harness.entries(VisitEnded)] == [2]


def test_a_published_version_waits_until_all_its_zarrs_are_valid(
    zarr_harness: ScriptedHarness,
) -> None:
    zarr_harness.source.zarrs = {"s": scripted_zarr(3), "l": scripted_zarr(9)}
    scripted_dataset = zarr_harness.datasets["a"] = ScriptedDataset(
        files("x.bin"), published_versions={"1.0": files("x.bin")}
    )
    scripted_dataset.zarrs, scripted_dataset.has_summary = {"s.zarr": "s", "l.zarr": "l"}, True
    zarr_harness.source.zarrs["s"].error = zarr_harness.source.zarrs["l"].error = CONTRADICTED
    for name in "sl":
        result = zarr_harness.sync()["box:a"]
        assert (result.visit, "1.0" in result.versions) == ("partial", False)
        zarr_harness.source.zarrs[name].error = None
    assert "1.0" in zarr_harness.sync()["box:a"].versions
    # its components count as upstream counts them
    result = zarr_harness.sync()["box:a"]
    assert (result.visit, result.message) == ("full", "nothing new")
    assert zarr_harness.sync(deep=True)["box:a"].exit_code == 0
    # also without the memo of which files belong to a component
    shutil.rmtree(zarr_harness.folder / "neuromirror" / "memos")
    zarr_harness.source.read_listings.clear()
    assert zarr_harness.sync()["box:a"].message == "nothing new"
    assert "a 1.0" in zarr_harness.source.read_listings
    zarr_harness.source.read_listings.clear()
    assert zarr_harness.sync()["box:a"].message == "nothing new"
    assert zarr_harness.source.read_listings == []
    assert zarr_harness.entries(EventRaised) == []


# --- deep visits and earlier states


@pytest.mark.parametrize("chunks", [3, 9])
def test_a_deep_visit_reads_zarrs_whose_checksum_is_the_same(
    zarr_harness: ScriptedHarness, chunks: int
) -> None:
    zarr_harness.source.zarrs = {"z": scripted_zarr(chunks)}
    zarr_harness.datasets["a"] = ScriptedDataset(files("x.bin"), zarrs={"z.zarr": "z"})
    zarr_harness.sync()
    refs = zarr_harness.refs()
    zarr_harness.source.read_listings.clear()
    (zarr_harness.folder / "neuromirror" / "memos").rename(zarr_harness.folder / "forgotten")
    assert zarr_harness.sync(deep=True)["box:a"].status == "notneeded"
    assert sorted(zarr_harness.source.read_listings) == [
        "a current",
        f"zarr/z {zarr_harness.source.zarrs['z'].checksum}",
    ]
    zarr_harness.source.zarrs["z"].error = CONTRADICTED
    for _ in range(2):
        result = zarr_harness.sync(deep=True)["box:a"]
        assert (result.exit_code, result.visit) == (1, "partial")
        assert "box:zarr/z" in result.message
    assert zarr_harness.refs() == refs
    events = [one.local_id for one in zarr_harness.entries(EventRaised) if one.kind == "incident"]
    assert events == ["zarr/z" if chunks == 9 else "a"]


def test_the_memo_of_a_zarr_makes_a_deep_visit_of_it_cheap(zarr_harness: ScriptedHarness) -> None:
    zarr_harness.source.zarrs = {"z": scripted_zarr(9)}
    zarr_harness.datasets["a"] = ScriptedDataset(files("x.bin"), zarrs={"z.zarr": "z"})
    zarr_harness.sync()
    zarr_harness.source.read_listings.clear()
    assert zarr_harness.sync(deep=True)["box:a"].status == "notneeded"
    assert zarr_harness.source.read_listings == ["a current"]


def test_earlier_states_of_a_zarr_come_before_the_current_one(
    zarr_harness: ScriptedHarness,
) -> None:
    past = {at(-9): files("0"), at(-6): {}, at(-3): files("0", "1", modified=at(-3))}
    zarr_harness.source.zarrs = {"z": scripted_zarr(9, earlier_states=past)}
    zarr_harness.datasets["a"] = ScriptedDataset(files("x.bin"), zarrs={"z.zarr": "z"})
    result = zarr_harness.sync(history=True)["box:a"]
    assert (result.visit, "3 new states of its Zarrs" in result.message) == ("full", True)
    checksum = zarr_harness.source.zarrs["z"].checksum
    *past_labels, last = version_labels(zarr_harness, "box:zarr/z")
    assert [one[:19] for one in past_labels] == ["2024-03-01T120000Z-", "2024-03-01T115700Z-"]
    assert last == checksum
    assert parts(zarr_harness)["z.zarr"].label == checksum
    repeated = zarr_harness.sync(history=True)["box:a"]
    assert repeated.status == "notneeded"
    assert len(version_labels(zarr_harness, "box:zarr/z")) == 3
    # changes between two visits
    zarr_harness.source.zarrs["z"].earlier_states[at(0)] = dict(
        zarr_harness.source.zarrs["z"].files
    )
    zarr_harness.source.zarrs["z"].earlier_states[at(5)] = {
        **zarr_harness.source.zarrs["z"].files,
        "0": ScriptedFile(b"five", at(5)),
    }
    zarr_harness.source.zarrs["z"].files["0"] = ScriptedFile(b"seven", at(7))
    assert zarr_harness.sync(history=True)["box:a"].visit == "full"
    labels = version_labels(zarr_harness, "box:zarr/z")
    assert [labels[2], labels[4]] == [checksum, zarr_harness.source.zarrs["z"].checksum]
    assert labels[3].startswith("2024-03-01T120500Z-")
    zarr_harness.fsck()


def test_a_zarr_is_synced_only_with_the_dataset_that_holds_it(
    zarr_harness: ScriptedHarness,
) -> None:
    zarr_harness.source.zarrs = {"l": scripted_zarr(9)}
    zarr_harness.datasets["a"] = ScriptedDataset(files("x.bin"), zarrs={"l.zarr": "l"})
    zarr_harness.sync()
    with pytest.raises(ConfigurationError, match="box:a"):
        zarr_harness.sync("box:zarr/l")
