"""A deep visit lists the Zarrs of published versions again: each must still be what it was."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import pytest
from scripted import Box, File, Scripted, Thing, at, files
from zarr_box import UNPROVEN, UNREACHABLE, version_labels, zarr

from neuromirror.model import EventRaised, VersionRef
from neuromirror.sources import Known, Listing, PartUnavailable

CHUNKS = pytest.mark.parametrize("chunks", [3, 9], ids=["inline", "linked"])


@dataclass
class Published(Scripted):
    """Dataset ``a`` whose draft has other Zarrs than its published versions: ``draft``, by path.

    ``opened`` counts how often Zarrs were asked for, whether their memo was enough or not.
    """

    draft: dict[str, str] = field(default_factory=dict)
    opened: int = 0

    def zarr_listing(self, name: str, moment: datetime | None, known: Known) -> Listing:
        self.opened += 1
        return super().zarr_listing(name, moment, known)

    def listing(self, version: VersionRef, known: Known) -> Listing:
        if version.dataset.local_id != "a" or version.upstream != "current":
            return super().listing(version, known)
        whole = self.things["a"]
        self.things["a"] = replace(whole, zarrs=self.draft)
        try:
            return super().listing(version, known)
        finally:
            self.things["a"] = whole


@pytest.fixture
def source() -> Published:
    """Two published versions with one Zarr, which the draft does not have any more."""
    contents = {"1.0": files("x.bin"), "2.0": files("x.bin", "y.bin")}
    thing = Thing(files("x.bin"), published=contents, zarrs={"z.zarr": "z"})
    return Published(things={"a": thing})


@pytest.fixture
def mirrored(tmp_path: Path, source: Published, chunks: int) -> Box:
    """The dataset mirrored as it is at first; its Zarr has so many files."""
    box = Box(tmp_path / "zarrs", source, "[zarr]\ninline_parts = 4\n")
    source.zarrs = {"z": zarr(chunks)}
    result = box.sync()["box:a"]
    assert (result.visit, len(result.versions)) == ("full", 3)
    assert incidents(box) == []
    source.read.clear()
    return box


def incidents(box: Box) -> list[tuple[str, str]]:
    found = [one for one in box.entries(EventRaised) if one.kind == "incident"]
    return [(one.local_id, one.message) for one in found]


@CHUNKS
def test_the_zarrs_of_published_versions_are_read_again_and_nothing_changes(
    mirrored: Box, source: Published
) -> None:
    word = f"zarr/z {source.zarrs['z'].checksum}"
    shutil.rmtree(mirrored.folder / "neuromirror" / "memos")
    assert mirrored.sync()["box:a"].exit_code == 0
    refs = mirrored.refs()
    shutil.rmtree(mirrored.folder / "neuromirror" / "memos")
    source.read.clear()
    result = mirrored.sync(deep=True)["box:a"]
    assert (result.exit_code, result.message) == (0, "nothing new")
    assert word in source.read
    assert {"a 1.0", "a 2.0"} <= set(source.read)
    assert (mirrored.refs(), incidents(mirrored)) == (refs, [])


@pytest.mark.parametrize("chunks", [9], ids=["linked"])
def test_a_zarr_of_several_versions_is_listed_once_in_a_visit(
    mirrored: Box, source: Published
) -> None:
    source.draft = {"z.zarr": "z"}
    assert mirrored.sync()["box:a"].visit == "full"
    source.opened = 0
    assert mirrored.sync(deep=True)["box:a"].exit_code == 0
    assert source.opened == 1


@CHUNKS
def test_a_published_zarr_that_lost_files_is_an_incident_that_fails_one_run(
    mirrored: Box, source: Published
) -> None:
    refs = mirrored.refs()
    source.zarrs["z"].broken = UNPROVEN
    assert mirrored.sync()["box:a"].exit_code == 0
    result = mirrored.sync(deep=True)["box:a"]
    assert (result.exit_code, result.visit) == (1, "partial")
    for version in ("1.0", "2.0"):
        start = f"published version {version}: box:zarr/z no longer has the files that give"
        assert start in result.message
        (told,) = [one for name, one in incidents(mirrored) if name == "a" and start in one]
        assert source.zarrs["z"].checksum in told
    count = len(incidents(mirrored))
    again = mirrored.sync(deep=True)["box:a"]
    assert again.exit_code == 0
    assert "known incident: published version 1.0" in again.message
    assert len(incidents(mirrored)) == count
    assert mirrored.refs() == refs


@CHUNKS
def test_a_published_zarr_that_went_on_is_an_incident_and_the_version_stays(
    mirrored: Box, source: Published, chunks: int
) -> None:
    refs, before = mirrored.refs(), source.zarrs["z"].checksum
    source.zarrs["z"].word = before
    source.zarrs["z"].files["0"] = File(b"other", at(4))
    assert mirrored.sync()["box:a"].exit_code == 0
    result = mirrored.sync(deep=True)["box:a"]
    assert (result.exit_code, result.visit) == (1, "partial")
    assert "published version 2.0" in result.message
    if chunks == 9:
        present = source.zarrs["z"].checksum
        assert f"box:zarr/z is {present} now, where {before} was mirrored" in result.message
        # what upstream has now is kept, too, as a state of the Zarr alone
        assert version_labels(mirrored, "box:zarr/z") == [before, present]
    else:
        assert "1 with other bytes" in result.message
    kept = {name: one for name, one in refs.items() if name.startswith("box--a ")}
    assert kept.items() <= mirrored.refs().items()
    assert mirrored.sync(deep=True)["box:a"].exit_code == 0
    mirrored.fsck()


@CHUNKS
@pytest.mark.parametrize(
    ("error", "visit"),
    [(UNREACHABLE, "failed"), (PartUnavailable("box:zarr/z: under embargo"), "partial")],
    ids=["away", "closed"],
)
def test_a_published_zarr_that_cannot_be_listed_now_is_no_incident(
    mirrored: Box, source: Published, error: Exception, visit: str
) -> None:
    refs = mirrored.refs()
    source.zarrs["z"].broken = error
    result = mirrored.sync(deep=True)["box:a"]
    assert (result.exit_code, result.visit) == (1, visit)
    assert str(error) in result.message
    assert (mirrored.refs(), incidents(mirrored)) == (refs, [])
    source.zarrs["z"].broken = None
    assert mirrored.sync(deep=True)["box:a"].exit_code == 0


@CHUNKS
def test_a_published_zarr_is_held_against_its_own_version_and_not_the_draft(
    mirrored: Box, source: Published, chunks: int
) -> None:
    """The draft has another Zarr in the same place, and nothing is wrong with that one."""
    source.zarrs["other"] = zarr(chunks, "other")
    source.draft = {"z.zarr": "other"}
    assert mirrored.sync()["box:a"].visit == "full"
    assert mirrored.sync(deep=True)["box:a"].exit_code == 0
    source.zarrs["z"].broken = UNPROVEN
    message = mirrored.sync(deep=True)["box:a"].message
    assert "published version 1.0: box:zarr/z no longer has the files" in message
    assert "box:zarr/other" not in message
