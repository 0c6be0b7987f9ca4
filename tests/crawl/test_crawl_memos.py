"""Memos, with which an unchanged dataset is not read again, and the recorder."""

import json
import shutil
from pathlib import Path

from click.testing import CliRunner

from neuromirror.cli import main
from neuromirror.crawl import open_recorder, rebuild_index
from neuromirror.index import Index
from neuromirror.model import EventRaised
from neuromirror.net import UnreachableError
from neuromirror.sources import KnownContent, UnreliableListingError, VisitContext
from neuromirror.store.memos import Memos
from support.scripted_source import ScriptedDataset, ScriptedFile, ScriptedHarness, at, files


def memo_file(box: ScriptedHarness) -> Path:
    (path,) = (box.folder / "neuromirror" / "memos").rglob("*.memo")
    return path


def workspaces(box: ScriptedHarness) -> list[Path]:
    return list((box.folder / "neuromirror" / "workspaces").glob("*"))


def test_an_unchanged_dataset_is_not_reread_and_nothing_is_written(
    harness: ScriptedHarness,
) -> None:
    harness.datasets["a"] = ScriptedDataset(files("x.bin", "y/z.bin"), exceptions=["folder/"])
    first = harness.sync()["box:a"]
    assert (first.status, first.visit) == ("ok", "full")
    harness.source.read_listings.clear()
    before = harness.file_stamps()
    repeated = harness.sync()["box:a"]
    assert (repeated.status, repeated.visit) == ("notneeded", "full")
    assert repeated.message == "nothing new; 1 listed upstream but not mirrored"
    assert harness.source.read_listings == []
    assert harness.file_stamps() == before
    harness.datasets["a"].files["new.bin"] = ScriptedFile(b"new", at(1))
    assert harness.sync()["box:a"].versions == ("2024-03-01T120100Z",)


def test_a_memo_counts_only_for_the_state_in_git(harness: ScriptedHarness) -> None:
    harness.datasets["a"] = ScriptedDataset(files("x.bin"))
    harness.sync()
    old = memo_file(harness).read_bytes()
    harness.datasets["a"].files["new.bin"] = ScriptedFile(b"new", at(1))
    harness.sync()
    # as after a kill between publication and memo; upstream returned to the old state meanwhile
    memo_file(harness).write_bytes(old)
    del harness.datasets["a"].files["new.bin"]
    harness.source.read_listings.clear()
    result = harness.sync()["box:a"]
    assert harness.source.known_memos[-1] == ("current", None)
    assert harness.source.read_listings == ["a current"]
    assert result.status == "ok"
    with harness.index() as index:
        assert [one.path for one in index.files.of(index.versions.resolve("box:a"))] == ["x.bin"]


def test_a_state_with_only_new_locations_has_a_memo_of_its_own(harness: ScriptedHarness) -> None:
    harness.datasets["a"] = ScriptedDataset(files("x.bin"))
    harness.sync()
    before = memo_file(harness).read_bytes()
    harness.datasets["a"].files["x.bin"].modified = at(3)
    assert harness.sync()["box:a"].status == "notneeded"
    assert memo_file(harness).read_bytes() != before
    harness.source.read_listings.clear()
    harness.sync()
    assert harness.source.read_listings == []


def test_without_its_memo_a_dataset_is_read_whole_and_comes_to_the_same(
    harness: ScriptedHarness,
) -> None:
    harness.datasets["a"] = ScriptedDataset(files("x.bin"))
    harness.sync()
    refs, whole = harness.refs(), memo_file(harness).read_bytes()
    for damage in (lambda path: path.unlink(), lambda path: path.write_bytes(whole[:-1])):
        damage(memo_file(harness))
        harness.source.read_listings.clear()
        assert harness.sync()["box:a"].status == "notneeded"
        assert harness.source.read_listings == ["a current"]
        assert harness.refs() == refs
        assert memo_file(harness).read_bytes() == whole


def test_a_deep_visit_of_an_unchanged_published_version_reads_nothing(
    harness: ScriptedHarness,
) -> None:
    harness.datasets["a"] = ScriptedDataset(
        files("x.bin"), published_versions={"1.0": files("x.bin")}
    )
    harness.sync()
    harness.source.read_listings.clear()
    before = harness.file_stamps()
    assert harness.sync(deep=True)["box:a"].status == "notneeded"
    assert harness.source.read_listings == []
    assert harness.file_stamps() == before
    harness.datasets["a"].published_versions["1.0"]["x.bin"] = ScriptedFile(
        b"forged", upstream_id="x.bin"
    )
    assert harness.sync(deep=True)["box:a"].exit_code == 1
    assert harness.source.read_listings == ["a 1.0"]
    memo = Memos(harness.folder).read(harness.source.dataset("a").dataset_id, "1.0")
    assert memo is not None
    assert b"forged" not in memo.content


def test_pending_files_are_not_forgotten_when_the_listing_is_skipped(
    harness: ScriptedHarness,
) -> None:
    harness.source.late_sha256 = True
    harness.datasets["a"] = ScriptedDataset(files("x.bin", "y.bin"))
    assert harness.sync()["box:a"].status == "ok"
    assert harness.pending_files("box:a") == 2
    harness.source.read_listings.clear()
    assert harness.sync()["box:a"].status == "notneeded"
    assert harness.pending_files("box:a") == 2

    def die(known: VisitContext) -> None:
        raise UnreachableError("the bucket went away")

    harness.source.on_listing = die
    assert harness.sync()["box:a"].visit == "failed"
    harness.source.on_listing = lambda known: None
    assert harness.sync()["box:a"].status == "notneeded"
    assert harness.pending_files("box:a") == 2
    assert harness.source.read_listings == []


def test_files_are_not_pending_where_upstream_has_no_sha256(harness: ScriptedHarness) -> None:
    harness.datasets["a"] = ScriptedDataset(files("x.bin"))
    assert "sha256" not in harness.sync()["box:a"].message


def test_a_hold_lapses_when_upstream_returns_to_the_old_state(harness: ScriptedHarness) -> None:
    everything = files(*(f"{number}.bin" for number in range(30)))
    harness.datasets["a"] = ScriptedDataset(dict(everything))
    harness.sync()
    harness.datasets["a"].files = files("0.bin")
    assert harness.sync()["box:a"].visit == "held"
    harness.datasets["a"].files = everything
    harness.source.read_listings.clear()
    assert harness.sync()["box:a"].visit == "full"
    assert harness.source.read_listings == []
    with harness.index() as index:
        assert not list(index.crawl.open_holds())


def test_pages_of_an_interrupted_visit_are_kept_until_the_next_one_finishes(
    harness: ScriptedHarness,
) -> None:
    seen: list[list[str]] = []

    def keep_page(known: VisitContext) -> None:
        seen.append(sorted(path.name for path in known.workspace.iterdir()))
        (known.workspace / f"page-{len(seen)}").write_bytes(b"rows")

    def die() -> None:
        raise UnreachableError("the bucket went away")

    harness.datasets["a"] = ScriptedDataset(files("x.bin"))
    harness.source.on_listing, harness.source.on_entries = keep_page, die
    assert harness.sync()["box:a"].visit == "failed"
    harness.source.on_entries = lambda: None
    assert harness.sync()["box:a"].visit == "full"
    assert seen == [[], ["page-1"]]
    assert workspaces(harness) == []


def test_contradictory_pages_are_not_resumed(harness: ScriptedHarness) -> None:
    seen: list[int] = []

    def keep_page(known: VisitContext) -> None:
        seen.append(len(list(known.workspace.iterdir())))
        (known.workspace / "page").write_bytes(b"rows")

    def contradict() -> None:
        raise UnreliableListingError("box:a: the pages overlap")

    harness.datasets["a"] = ScriptedDataset(files("x.bin"))
    harness.source.on_listing, harness.source.on_entries = keep_page, contradict
    assert harness.sync()["box:a"].visit == "failed"
    assert seen == [0, 0, 0]
    assert workspaces(harness) == []


def test_the_source_gets_what_earlier_visits_recorded(harness: ScriptedHarness) -> None:
    answers: list[object] = []
    one = files("x.bin", sha256=True)["x.bin"].record("x.bin")
    (location,) = one.locations

    def ask(known: VisitContext) -> None:
        answers[:] = [
            known.locations([location.url.partition("?")[0], "https://bucket.example.invalid/no"]),
            known.contents([one.digests[0].value, "0" * 32]),
        ]

    harness.source.on_listing = ask
    harness.datasets["a"] = ScriptedDataset(files("x.bin", sha256=True))
    harness.sync()
    assert answers == [[None, None], [None, None]]
    harness.sync()
    assert answers == [[location, None], [KnownContent(5, None, one.digests[1]), None]]


def test_memos_and_workspaces_may_be_deleted(harness: ScriptedHarness) -> None:
    harness.datasets["a"] = ScriptedDataset(files("x.bin"))
    harness.sync()
    refs = harness.refs()
    for name in ("memos", "workspaces"):
        shutil.rmtree(harness.folder / "neuromirror" / name, ignore_errors=True)
    assert harness.sync()["box:a"].status == "notneeded"
    assert harness.refs() == refs


def status(box: ScriptedHarness) -> tuple[int, list[dict[str, object]]]:
    done = CliRunner().invoke(
        main, ["--store", str(box.folder), "--mirrors", str(box.mirrors), "--json", "status"]
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return done.exit_code, [one for one in lines if one["status"] == "error"]


def test_damaged_records_of_one_version_stop_no_other_dataset(harness: ScriptedHarness) -> None:
    harness.datasets["a"] = ScriptedDataset(files("one.bin", sha256=True))
    harness.datasets["b"] = ScriptedDataset(files("two.bin", sha256=True))
    harness.sync()
    store = harness.store
    with harness.index() as index:
        (row,) = index.versions.of("box:a")
    (records,) = (harness.folder / "neuromirror" / "records").rglob(f"{row.commit}.jsonl.zst")
    records.write_bytes(b"damaged")
    store.index_path.unlink()
    with open_recorder(store, store.index_path):
        pass
    with harness.index() as index:
        assert len(list(index.versions.of("box:b"))) == 1
    code, errors = status(harness)
    assert code == 1
    assert [(error["task"], error["dataset"]) for error in errors] == [("index", "box:a")]
    assert row.commit in str(errors[0]["message"])

    # the next visit reads the records back from git
    records.unlink()
    harness.datasets["a"].files |= files("more.bin", modified=at(60), sha256=True)
    assert harness.sync()["box:a"].status == "ok"
    assert status(harness) == (0, [])
    with harness.index() as index:
        assert len(list(index.versions.of("box:a"))) == 2
    harness.fsck()


def test_entries_are_recorded_in_an_index_that_replaced_another(harness: ScriptedHarness) -> None:
    harness.datasets["a"] = ScriptedDataset(files("one.bin"))
    harness.sync()
    store = harness.store
    with open_recorder(store, store.index_path) as recorder:
        rebuild_index(store, store.index_path)
        recorder.record(EventRaised("box", "a", "note", "first", "2026-01-01T00:00:00+00:00", {}))
        with Index.open_readonly(store.index_path) as index:
            assert [event.message for event in index.crawl.events(kind="note")] == ["first"]
        store.index_path.unlink()
        recorder.record(EventRaised("box", "a", "note", "second", "2026-01-01T00:00:01+00:00", {}))
        with Index.open_readonly(store.index_path) as index:
            assert [one.message for one in index.crawl.events(kind="note")] == ["second", "first"]
