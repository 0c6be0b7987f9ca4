"""Guards for the listings of a bucket, which has no summary to compare with."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from neuromirror.crawl import open_recorder, release_hold
from neuromirror.model import Document, EventRaised, MirrorProbed, VisitEnded
from neuromirror.net import UnreachableError
from support.scripted_source import (
    ScriptedDataset,
    ScriptedFile,
    ScriptedHarness,
    ScriptedSource,
    at,
    files,
)


def release(box: ScriptedHarness, hold: str = "") -> str:
    store = box.store
    with open_recorder(store, store.index_path) as recorder:
        return release_hold(recorder, hold)


def event_kinds(box: ScriptedHarness) -> list[str]:
    return [entry.kind for entry in box.entries(EventRaised)]


# --- deletions


def test_a_file_that_a_listing_dropped_is_not_deleted(harness: ScriptedHarness) -> None:
    harness.datasets["a"] = ScriptedDataset(files(*(f"{number}.bin" for number in range(40))))
    harness.sync()
    refs = harness.refs()
    harness.datasets["a"].dropped_from_listing = {"3.bin", "7.bin"}
    del harness.datasets["a"].files["9.bin"]
    result = harness.sync()["box:a"]
    assert (result.status, result.visit) == ("error", "failed")
    assert "2 of 3 " in result.message
    assert "'3.bin'" in result.message
    assert "\n" not in result.message
    assert harness.refs() == refs
    harness.datasets["a"].dropped_from_listing = set()
    result = harness.sync()["box:a"]
    assert result.visit == "full"
    with harness.index() as index:
        found = {one.path for one in index.files.of(index.versions.resolve("box:a"))}
    assert found == set(harness.datasets["a"].files)
    assert len(found) == 39


def test_a_listing_that_lost_many_files_is_reread_before_it_is_held(
    harness: ScriptedHarness,
) -> None:
    harness.datasets["a"] = ScriptedDataset(files(*(f"{number}.bin" for number in range(40))))
    harness.sync()
    harness.datasets["a"].dropped_from_listing = {f"{number}.bin" for number in range(30)}
    assert harness.sync()["box:a"].visit == "failed"
    with harness.index() as index:
        assert not list(index.crawl.open_holds())


def test_only_missing_files_are_checked_upstream(harness: ScriptedHarness) -> None:
    harness.datasets["a"] = ScriptedDataset(files("gone.bin", "kept.bin", "doc.json", "marker/x"))
    harness.sync()
    scripted_dataset = harness.datasets["a"]
    scripted_dataset.documents = [Document(b"doc.json", b"{}\n", at(1))]
    scripted_dataset.exceptions = ["marker/x"]
    for path in ("gone.bin", "doc.json", "marker/x"):
        del scripted_dataset.files[path]
    scripted_dataset.files["kept.bin"] = ScriptedFile(b"other", at(2))
    assert harness.sync()["box:a"].status == "ok"
    assert harness.source.checked_paths == [b"gone.bin"]


def test_a_document_that_a_listing_dropped_is_not_deleted(harness: ScriptedHarness) -> None:
    kept = Document(b"subject.json", b"{}\n", at(1))
    harness.datasets["a"] = ScriptedDataset(
        files("x.bin", "subject.json", "y.bin"), documents=[kept]
    )
    del harness.datasets["a"].files["subject.json"]
    harness.sync()
    refs = harness.refs()
    scripted_dataset = harness.datasets["a"]
    scripted_dataset.documents = []
    scripted_dataset.present_unlisted = {"subject.json"}
    result = harness.sync()["box:a"]
    assert (result.visit, harness.source.checked_paths) == ("failed", [b"subject.json"] * 3)
    assert "'subject.json'" in result.message
    assert harness.refs() == refs
    scripted_dataset.present_unlisted = set()
    assert harness.sync()["box:a"].status == "ok"


def test_a_document_that_became_a_file_is_not_missing(harness: ScriptedHarness) -> None:
    kept = Document(b"subject.json", b"{}\n", at(1))
    harness.datasets["a"] = ScriptedDataset(files("x.bin"), documents=[kept])
    harness.sync()
    harness.datasets["a"].documents = []
    harness.datasets["a"].files |= files("subject.json")
    assert harness.sync()["box:a"].status == "ok"
    assert harness.source.checked_paths == []


def test_a_file_that_was_renamed_for_a_folder_is_not_missing(harness: ScriptedHarness) -> None:
    harness.datasets["a"] = ScriptedDataset(files("both"))
    harness.sync()
    harness.datasets["a"].files |= files("both/child")
    assert harness.sync()["box:a"].status == "ok"
    del harness.datasets["a"].files["both/child"]
    assert harness.sync()["box:a"].status == "ok"
    assert harness.source.checked_paths == [b"both/child"]


def test_a_listing_that_is_consistent_by_itself_needs_no_check(harness: ScriptedHarness) -> None:
    harness.source.can_check_paths = False
    harness.datasets["a"] = ScriptedDataset(files("gone.bin", "kept.bin"))
    harness.sync()
    del harness.datasets["a"].files["gone.bin"]
    assert harness.sync()["box:a"].status == "ok"
    assert harness.source.checked_paths == []


# --- settling


def recent_time(minutes: float) -> datetime:
    return (datetime.now(UTC) - timedelta(minutes=minutes)).replace(microsecond=0)


@pytest.fixture
def settling_harness(tmp_path: Path, source: ScriptedSource) -> ScriptedHarness:
    """A store whose mirror waits until new datasets are an hour old."""
    return ScriptedHarness(tmp_path / "settling", source, "[guards]\nsettle_minutes = 60\n")


def test_a_dataset_that_may_still_grow_waits(settling_harness: ScriptedHarness) -> None:
    settling_harness.source.fingerprint = "same"
    settling_harness.datasets["a"] = ScriptedDataset(
        {"x.bin": ScriptedFile(b"x", recent_time(300)), "y.bin": ScriptedFile(b"y", recent_time(5))}
    )
    result = settling_harness.sync()["box:a"]
    assert (result.status, result.visit, result.exit_code) == ("notneeded", "waiting", 0)
    assert "60 minutes" in result.message
    assert settling_harness.refs() == {}
    assert not (settling_harness.folder / "alias" / "box--a").exists()
    assert [entry.status for entry in settling_harness.entries(VisitEnded)] == ["waiting"]
    settling_harness.source.read_listings.clear()
    settling_harness.sync()
    assert settling_harness.source.read_listings == ["a current"]
    assert len(settling_harness.entries(VisitEnded)) == 1
    settling_harness.datasets["a"].files["y.bin"].modified = recent_time(61)
    result = settling_harness.sync()["box:a"]
    assert (result.status, result.visit) == ("ok", "full")


def test_a_mirrored_dataset_does_not_settle_again(settling_harness: ScriptedHarness) -> None:
    settling_harness.datasets["a"] = ScriptedDataset(files("x.bin"))
    assert settling_harness.sync()["box:a"].visit == "full"
    settling_harness.datasets["a"].files["y.bin"] = ScriptedFile(b"y", recent_time(1))
    assert settling_harness.sync()["box:a"].status == "ok"


def test_datasets_settle_only_if_the_mirror_file_requires_it(harness: ScriptedHarness) -> None:
    harness.datasets["a"] = ScriptedDataset({"x.bin": ScriptedFile(b"x", recent_time(0))})
    assert harness.sync()["box:a"].status == "ok"


def test_the_earlier_states_of_a_growing_dataset_wait_too(
    settling_harness: ScriptedHarness,
) -> None:
    past = {recent_time(5): {"x.bin": ScriptedFile(b"x", recent_time(5))}}
    settling_harness.datasets["a"] = ScriptedDataset(
        {"x.bin": ScriptedFile(b"y", recent_time(1))}, earlier_states=past
    )
    assert settling_harness.sync(history=True)["box:a"].visit == "waiting"
    assert settling_harness.refs() == {}


# --- overwritten files


def test_an_overwritten_file_is_an_incident_until_it_is_released(harness: ScriptedHarness) -> None:
    harness.datasets["a"] = ScriptedDataset(files("x.bin", "y.bin"))
    harness.sync()
    refs = harness.refs()
    harness.datasets["a"].files["x.bin"] = ScriptedFile(b"other", at(1), "x.bin")
    for _ in range(2):
        result = harness.sync()["box:a"]
        assert (result.status, result.visit, result.exit_code) == ("error", "partial", 1)
        assert harness.refs() == refs
        assert event_kinds(harness) == ["incident"]
        with harness.index() as index:
            (hold,) = index.crawl.open_holds()
        assert f"'neuromirror release {hold.hold}'" in result.message
        assert result.message.count("'x.bin'") == 1
        assert "'x.bin'" in hold.reason
    assert release(harness) == "box:a"
    result = harness.sync()["box:a"]
    assert (result.status, result.visit) == ("ok", "full")
    with harness.index() as index:
        old, new = index.versions.of("box:a")
        assert not list(index.crawl.open_holds())
    assert refs["box--a refs/heads/main"] == old.commit
    assert harness.refs()["box--a refs/heads/main"] == new.commit
    assert harness.sync()["box:a"].status == "notneeded"


def test_a_released_overwrite_releases_no_other(harness: ScriptedHarness) -> None:
    harness.datasets["a"] = ScriptedDataset(files("x.bin"))
    harness.sync()
    harness.datasets["a"].files["x.bin"] = ScriptedFile(b"other", at(1), "x.bin")
    harness.sync()
    release(harness)
    harness.datasets["a"].files["x.bin"] = ScriptedFile(b"yet another", at(2), "x.bin")
    assert harness.sync()["box:a"].exit_code == 1


def test_a_file_with_a_new_upstream_id_may_have_other_bytes(harness: ScriptedHarness) -> None:
    harness.datasets["a"] = ScriptedDataset({"x.bin": ScriptedFile(b"one", at(0), "v1")})
    harness.sync()
    harness.datasets["a"].files["x.bin"] = ScriptedFile(b"two", at(1), "v2")
    assert harness.sync()["box:a"].status == "ok"


# --- vanished and returned


def test_a_dataset_that_comes_back_raises_one_event_each_time(harness: ScriptedHarness) -> None:
    scripted_dataset = ScriptedDataset(files("x.bin"))
    for _ in range(2):
        harness.datasets["a"] = scripted_dataset
        harness.sync()
        harness.sync()
        del harness.datasets["a"]
        result = harness.sync()["box:a"]
        assert (result.status, result.visit) == ("error", "not_found")
        assert "box:a" not in harness.sync()
        assert harness.sync("box:a")["box:a"].visit == "not_found"
    assert event_kinds(harness) == ["tombstone", "returned", "tombstone"]
    assert [entry.status for entry in harness.entries(VisitEnded)] == ["full", "not_found"] * 2


# --- capabilities of the archive


def test_changed_capabilities_are_recorded(harness: ScriptedHarness) -> None:
    harness.datasets["a"] = ScriptedDataset(files("x.bin"))
    harness.sync()
    assert harness.entries(MirrorProbed) == []
    harness.source.probe_result = {"versions": "listable"}
    harness.sync()
    harness.sync()
    harness.source.probe_result = {"versions": "refused"}
    harness.sync()
    recorded = [entry.capabilities["versions"] for entry in harness.entries(MirrorProbed)]
    assert recorded == ["listable", "refused"]
    with harness.index() as index:
        assert index.crawl.capabilities("box") == {"versions": "refused"}


def test_a_probe_that_fails_is_reported_and_stops_nothing(harness: ScriptedHarness) -> None:
    harness.datasets["a"] = ScriptedDataset(files("x.bin"))
    harness.source.probe_result = UnreachableError("no answer")
    results = harness.sync()
    assert (results["box"].status, results["box"].exit_code) == ("error", 1)
    assert results["box:a"].status == "ok"
