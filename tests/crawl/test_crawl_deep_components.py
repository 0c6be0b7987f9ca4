"""A deep visit reads the Zarrs of published versions again; each must be unchanged."""

import shutil
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import pytest

from neuromirror.model import EventRaised, VersionRef
from neuromirror.sources import ComponentUnavailableError, Listing, VisitContext
from support.scripted_source import (
    ScriptedDataset,
    ScriptedFile,
    ScriptedHarness,
    ScriptedSource,
    at,
    files,
)
from support.scripted_zarrs import CONTRADICTED, UNREACHABLE, scripted_zarr, version_labels

CHUNKS = pytest.mark.parametrize("chunks", [3, 9], ids=["inline", "linked"])


@dataclass
class PublishedZarrSource(ScriptedSource):
    """Dataset ``a`` whose draft has other Zarrs than its published versions.

    ``draft`` has the draft's Zarrs by path; ``listing_count`` counts the opened listings of Zarrs,
    with or without a valid memo.
    """

    draft: dict[str, str] = field(default_factory=dict)
    listing_count: int = 0

    def zarr_listing(self, name: str, moment: datetime | None, context: VisitContext) -> Listing:
        self.listing_count += 1
        return super().zarr_listing(name, moment, context)

    def listing(self, version: VersionRef, context: VisitContext) -> Listing:
        if version.dataset.local_id != "a" or version.upstream != "current":
            return super().listing(version, context)
        whole = self.scripted_datasets["a"]
        self.scripted_datasets["a"] = replace(whole, zarrs=self.draft)
        try:
            return super().listing(version, context)
        finally:
            self.scripted_datasets["a"] = whole


@pytest.fixture
def source() -> PublishedZarrSource:
    """Two published versions with one Zarr, which the draft does not have."""
    contents = {"1.0": files("x.bin"), "2.0": files("x.bin", "y.bin")}
    scripted_dataset = ScriptedDataset(
        files("x.bin"), published_versions=contents, zarrs={"z.zarr": "z"}
    )
    return PublishedZarrSource(scripted_datasets={"a": scripted_dataset})


@pytest.fixture
def deep_harness(tmp_path: Path, source: PublishedZarrSource, chunks: int) -> ScriptedHarness:
    """The dataset after its first sync; the Zarr has so many files."""
    harness = ScriptedHarness(tmp_path / "zarrs", source, "[zarr]\ninline_components = 4\n")
    source.zarrs = {"z": scripted_zarr(chunks)}
    result = harness.sync()["box:a"]
    assert (result.visit, len(result.versions)) == ("full", 3)
    assert incidents(harness) == []
    source.read_listings.clear()
    return harness


def incidents(box: ScriptedHarness) -> list[tuple[str, str]]:
    found = [entry for entry in box.entries(EventRaised) if entry.kind == "incident"]
    return [(one.local_id, one.message) for one in found]


@CHUNKS
def test_the_zarrs_of_published_versions_are_reread_and_nothing_changes(
    deep_harness: ScriptedHarness, source: PublishedZarrSource
) -> None:
    zarr_state = f"zarr/z {source.zarrs['z'].checksum}"
    shutil.rmtree(deep_harness.folder / "neuromirror" / "memos")
    assert deep_harness.sync()["box:a"].exit_code == 0
    refs = deep_harness.refs()
    shutil.rmtree(deep_harness.folder / "neuromirror" / "memos")
    source.read_listings.clear()
    result = deep_harness.sync(deep=True)["box:a"]
    assert (result.exit_code, result.message) == (0, "nothing new")
    assert zarr_state in source.read_listings
    assert {"a 1.0", "a 2.0"} <= set(source.read_listings)
    assert (deep_harness.refs(), incidents(deep_harness)) == (refs, [])


@pytest.mark.parametrize("chunks", [9], ids=["linked"])
def test_a_zarr_of_several_versions_is_listed_once_in_a_visit(
    deep_harness: ScriptedHarness, source: PublishedZarrSource
) -> None:
    source.draft = {"z.zarr": "z"}
    assert deep_harness.sync()["box:a"].visit == "full"
    source.listing_count = 0
    assert deep_harness.sync(deep=True)["box:a"].exit_code == 0
    assert source.listing_count == 1


@CHUNKS
def test_a_published_zarr_that_lost_files_is_an_incident_that_fails_one_run(
    deep_harness: ScriptedHarness, source: PublishedZarrSource
) -> None:
    refs = deep_harness.refs()
    source.zarrs["z"].error = CONTRADICTED
    assert deep_harness.sync()["box:a"].exit_code == 0
    result = deep_harness.sync(deep=True)["box:a"]
    assert (result.exit_code, result.visit) == (1, "partial")
    for version in ("1.0", "2.0"):
        start = f"published version {version}: box:zarr/z"
        assert start in result.message
        (message,) = [one for name, one in incidents(deep_harness) if name == "a" and start in one]
        assert source.zarrs["z"].checksum in message
    count = len(incidents(deep_harness))
    repeated = deep_harness.sync(deep=True)["box:a"]
    assert repeated.exit_code == 0
    assert "known incident: published version 1.0" in repeated.message
    assert len(incidents(deep_harness)) == count
    assert deep_harness.refs() == refs


@CHUNKS
def test_a_published_zarr_that_changed_is_an_incident_and_the_version_stays(
    deep_harness: ScriptedHarness, source: PublishedZarrSource, chunks: int
) -> None:
    refs, before = deep_harness.refs(), source.zarrs["z"].checksum
    source.zarrs["z"].stated_checksum = before
    source.zarrs["z"].files["0"] = ScriptedFile(b"other", at(4))
    assert deep_harness.sync()["box:a"].exit_code == 0
    result = deep_harness.sync(deep=True)["box:a"]
    assert (result.exit_code, result.visit) == (1, "partial")
    assert "published version 2.0" in result.message
    if chunks == 9:
        present = source.zarrs["z"].checksum
        assert f"box:zarr/z is {present} now, not {before}" in result.message
        # the new state is kept too, but only as a state of the Zarr
        assert version_labels(deep_harness, "box:zarr/z") == [before, present]
    else:
        assert "1 with different content" in result.message
    kept = {name: one for name, one in refs.items() if name.startswith("box--a ")}
    assert kept.items() <= deep_harness.refs().items()
    assert deep_harness.sync(deep=True)["box:a"].exit_code == 0
    deep_harness.fsck()


@CHUNKS
@pytest.mark.parametrize(
    ("error", "visit"),
    [(UNREACHABLE, "failed"), (ComponentUnavailableError("box:zarr/z: under embargo"), "partial")],
    ids=["away", "closed"],
)
def test_a_published_zarr_that_cannot_be_listed_now_is_no_incident(
    deep_harness: ScriptedHarness, source: PublishedZarrSource, error: Exception, visit: str
) -> None:
    refs = deep_harness.refs()
    source.zarrs["z"].error = error
    result = deep_harness.sync(deep=True)["box:a"]
    assert (result.exit_code, result.visit) == (1, visit)
    assert str(error) in result.message
    assert (deep_harness.refs(), incidents(deep_harness)) == (refs, [])
    source.zarrs["z"].error = None
    assert deep_harness.sync(deep=True)["box:a"].exit_code == 0


@CHUNKS
def test_a_published_zarr_is_compared_with_its_own_version_and_not_the_draft(
    deep_harness: ScriptedHarness, source: PublishedZarrSource, chunks: int
) -> None:
    """The draft has another, valid Zarr at the same path."""
    source.zarrs["other"] = scripted_zarr(chunks, "other")
    source.draft = {"z.zarr": "other"}
    assert deep_harness.sync()["box:a"].visit == "full"
    assert deep_harness.sync(deep=True)["box:a"].exit_code == 0
    source.zarrs["z"].error = CONTRADICTED
    message = deep_harness.sync(deep=True)["box:a"].message
    assert "published version 1.0: box:zarr/z:" in message
    assert "box:zarr/other" not in message
