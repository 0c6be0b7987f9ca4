"""What is believed of a bucket that gives no summary of itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from scripted import Box, File, Scripted, Thing, at, files

from neuromirror.crawl import recording, release
from neuromirror.model import Document, EventRaised, MirrorProbed, VisitEnded
from neuromirror.net import Unreachable


def released(box: Box, hold: str = "") -> str:
    store = box.store
    with recording(store, store.index_path) as recorder:
        return release(recorder, hold)


def kinds(box: Box) -> list[str]:
    return [one.kind for one in box.entries(EventRaised)]


# --- deletions


def test_a_file_that_a_listing_dropped_is_not_deleted(box: Box, source: Scripted) -> None:
    source.things["a"] = Thing(files(*(f"{number}.bin" for number in range(40))))
    box.sync()
    refs = box.refs()
    source.things["a"].lost = {"3.bin", "7.bin"}
    del source.things["a"].files["9.bin"]
    result = box.sync()["box:a"]
    assert (result.status, result.visit) == ("error", "failed")
    assert "2 of 3 files that the listing lacks are still there upstream" in result.message
    assert "'3.bin'" in result.message
    assert "\n" not in result.message
    assert box.refs() == refs
    source.things["a"].lost = set()
    result = box.sync()["box:a"]
    assert result.visit == "full"
    with box.index() as index:
        found = {one.path for one in index.files(index.resolve("box:a"))}
    assert found == set(source.things["a"].files)
    assert len(found) == 39


def test_a_listing_that_lost_much_is_read_again_before_it_is_held(
    box: Box, source: Scripted
) -> None:
    source.things["a"] = Thing(files(*(f"{number}.bin" for number in range(40))))
    box.sync()
    source.things["a"].lost = {f"{number}.bin" for number in range(30)}
    assert box.sync()["box:a"].visit == "failed"
    with box.index() as index:
        assert not list(index.open_holds())


def test_upstream_is_asked_about_missing_files_and_no_others(box: Box, source: Scripted) -> None:
    source.things["a"] = Thing(files("gone.bin", "kept.bin", "doc.json", "marker/x"))
    box.sync()
    thing = source.things["a"]
    thing.documents = [Document(b"doc.json", b"{}\n", at(1))]
    thing.exceptions = ["marker/x"]
    for path in ("gone.bin", "doc.json", "marker/x"):
        del thing.files[path]
    thing.files["kept.bin"] = File(b"other", at(2))
    assert box.sync()["box:a"].status == "ok"
    assert source.asked == [b"gone.bin"]


def test_a_document_that_a_listing_dropped_is_not_deleted(box: Box, source: Scripted) -> None:
    kept = Document(b"subject.json", b"{}\n", at(1))
    source.things["a"] = Thing(files("x.bin", "subject.json", "y.bin"), documents=[kept])
    del source.things["a"].files["subject.json"]
    box.sync()
    refs = box.refs()
    thing = source.things["a"]
    thing.documents = []
    thing.unlisted = {"subject.json"}
    result = box.sync()["box:a"]
    assert (result.visit, source.asked) == ("failed", [b"subject.json"] * 3)
    assert "'subject.json'" in result.message
    assert box.refs() == refs
    thing.unlisted = set()
    assert box.sync()["box:a"].status == "ok"


def test_a_document_that_became_a_file_is_not_missing(box: Box, source: Scripted) -> None:
    kept = Document(b"subject.json", b"{}\n", at(1))
    source.things["a"] = Thing(files("x.bin"), documents=[kept])
    box.sync()
    source.things["a"].documents = []
    source.things["a"].files |= files("subject.json")
    assert box.sync()["box:a"].status == "ok"
    assert source.asked == []


def test_a_file_that_only_made_way_for_a_folder_is_not_missing(box: Box, source: Scripted) -> None:
    source.things["a"] = Thing(files("both"))
    box.sync()
    source.things["a"].files |= files("both/child")
    assert box.sync()["box:a"].status == "ok"
    del source.things["a"].files["both/child"]
    assert box.sync()["box:a"].status == "ok"
    assert source.asked == [b"both/child"]


def test_where_a_listing_proves_itself_nothing_more_is_asked(box: Box, source: Scripted) -> None:
    source.checks = False
    source.things["a"] = Thing(files("gone.bin", "kept.bin"))
    box.sync()
    del source.things["a"].files["gone.bin"]
    assert box.sync()["box:a"].status == "ok"
    assert source.asked == []


# --- settling


def young(minutes: float) -> datetime:
    return (datetime.now(UTC) - timedelta(minutes=minutes)).replace(microsecond=0)


@pytest.fixture
def settling(tmp_path: Path, source: Scripted) -> Box:
    """A store of a mirror whose new datasets must be an hour old."""
    return Box(tmp_path / "settling", source, "[guards]\nsettle_minutes = 60\n")


def test_a_dataset_that_may_still_grow_waits(settling: Box, source: Scripted) -> None:
    source.fingerprint = "same"
    source.things["a"] = Thing({"x.bin": File(b"x", young(300)), "y.bin": File(b"y", young(5))})
    result = settling.sync()["box:a"]
    assert (result.status, result.visit, result.exit_code) == ("notneeded", "waiting", 0)
    assert "60 minutes" in result.message
    assert settling.refs() == {}
    assert not (settling.folder / "alias" / "box--a").exists()
    assert [one.status for one in settling.entries(VisitEnded)] == ["waiting"]
    source.read.clear()
    settling.sync()
    assert source.read == ["a current"]
    assert len(settling.entries(VisitEnded)) == 1
    source.things["a"].files["y.bin"].modified = young(61)
    result = settling.sync()["box:a"]
    assert (result.status, result.visit) == ("ok", "full")


def test_a_dataset_that_is_mirrored_already_waits_no_more(settling: Box, source: Scripted) -> None:
    source.things["a"] = Thing(files("x.bin"))
    assert settling.sync()["box:a"].visit == "full"
    source.things["a"].files["y.bin"] = File(b"y", young(1))
    assert settling.sync()["box:a"].status == "ok"


def test_nothing_waits_unless_the_mirror_says_so(box: Box, source: Scripted) -> None:
    source.things["a"] = Thing({"x.bin": File(b"x", young(0))})
    assert box.sync()["box:a"].status == "ok"


def test_the_earlier_states_of_a_growing_dataset_wait_too(settling: Box, source: Scripted) -> None:
    past = {young(5): {"x.bin": File(b"x", young(5))}}
    source.things["a"] = Thing({"x.bin": File(b"y", young(1))}, past=past)
    assert settling.sync(history=True)["box:a"].visit == "waiting"
    assert settling.refs() == {}


# --- overwritten files


def test_an_overwritten_file_is_an_incident_until_somebody_has_looked(
    box: Box, source: Scripted
) -> None:
    source.things["a"] = Thing(files("x.bin", "y.bin"))
    box.sync()
    refs = box.refs()
    source.things["a"].files["x.bin"] = File(b"other", at(1), "x.bin")
    for _ in range(2):
        result = box.sync()["box:a"]
        assert (result.status, result.visit, result.exit_code) == ("error", "partial", 1)
        assert box.refs() == refs
        assert kinds(box) == ["incident"]
        with box.index() as index:
            (hold,) = index.open_holds()
        assert f"'neuromirror release {hold.hold}'" in result.message
        assert result.message.count("1 file has other bytes") == 1
        assert "'x.bin'" in hold.reason
    assert released(box) == "box:a"
    result = box.sync()["box:a"]
    assert (result.status, result.visit) == ("ok", "full")
    with box.index() as index:
        old, new = index.versions("box:a")
        assert not list(index.open_holds())
    assert refs["box--a refs/heads/main"] == old.commit
    assert box.refs()["box--a refs/heads/main"] == new.commit
    assert box.sync()["box:a"].status == "notneeded"


def test_a_released_overwrite_lets_no_other_one_through(box: Box, source: Scripted) -> None:
    source.things["a"] = Thing(files("x.bin"))
    box.sync()
    source.things["a"].files["x.bin"] = File(b"other", at(1), "x.bin")
    box.sync()
    released(box)
    source.things["a"].files["x.bin"] = File(b"yet another", at(2), "x.bin")
    assert box.sync()["box:a"].exit_code == 1


def test_a_file_with_a_new_upstream_id_may_have_other_bytes(box: Box, source: Scripted) -> None:
    source.things["a"] = Thing({"x.bin": File(b"one", at(0), "v1")})
    box.sync()
    source.things["a"].files["x.bin"] = File(b"two", at(1), "v2")
    assert box.sync()["box:a"].status == "ok"


# --- vanished and returned


def test_a_dataset_that_comes_back_is_told_once_each_time(box: Box, source: Scripted) -> None:
    thing = Thing(files("x.bin"))
    for _ in range(2):
        source.things["a"] = thing
        box.sync()
        box.sync()
        del source.things["a"]
        result = box.sync()["box:a"]
        assert (result.status, result.visit) == ("error", "not_found")
        assert "box:a" not in box.sync()
        assert box.sync("box:a")["box:a"].visit == "not_found"
    assert kinds(box) == ["tombstone", "returned", "tombstone"]
    assert [one.status for one in box.entries(VisitEnded)] == ["full", "not_found"] * 2


# --- what a mirror's upstream allows


def test_what_upstream_allows_is_recorded_when_it_changes(box: Box, source: Scripted) -> None:
    source.things["a"] = Thing(files("x.bin"))
    box.sync()
    assert box.entries(MirrorProbed) == []
    source.probed = {"versions": "listable"}
    box.sync()
    box.sync()
    source.probed = {"versions": "refused"}
    box.sync()
    told = [one.capabilities["versions"] for one in box.entries(MirrorProbed)]
    assert told == ["listable", "refused"]
    with box.index() as index:
        assert index.capabilities("box") == {"versions": "refused"}


def test_a_probe_that_fails_is_told_and_stops_nothing(box: Box, source: Scripted) -> None:
    source.things["a"] = Thing(files("x.bin"))
    source.probed = Unreachable("no answer")
    results = box.sync()
    assert (results["box"].status, results["box"].exit_code) == ("error", 1)
    assert results["box:a"].status == "ok"
