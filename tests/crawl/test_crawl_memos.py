"""What a visit remembers for the next one."""

from __future__ import annotations

import shutil
from pathlib import Path

from scripted import Box, File, Scripted, Thing, at, files

from neuromirror.net import Unreachable
from neuromirror.sources import Known, KnownContent, ListingNotProven
from neuromirror.store.memos import MemoFolder


def memo_file(box: Box) -> Path:
    (path,) = (box.folder / "neuromirror" / "memos").rglob("*.memo")
    return path


def workspaces(box: Box) -> list[Path]:
    return list((box.folder / "neuromirror" / "workspaces").glob("*"))


def test_an_unchanged_dataset_is_not_read_again_and_nothing_is_written(
    box: Box, source: Scripted
) -> None:
    source.things["a"] = Thing(files("x.bin", "y/z.bin"), exceptions=["folder/"])
    first = box.sync()["box:a"]
    assert (first.status, first.visit) == ("ok", "full")
    source.read.clear()
    before = box.written()
    again = box.sync()["box:a"]
    assert (again.status, again.visit) == ("notneeded", "full")
    assert again.message == "nothing new; 1 listed upstream but not mirrored"
    assert source.read == []
    assert box.written() == before
    source.things["a"].files["new.bin"] = File(b"new", at(1))
    assert box.sync()["box:a"].versions == ("2024-03-01T120100Z",)


def test_a_memo_counts_for_the_state_in_git_alone(box: Box, source: Scripted) -> None:
    source.things["a"] = Thing(files("x.bin"))
    box.sync()
    old = memo_file(box).read_bytes()
    source.things["a"].files["new.bin"] = File(b"new", at(1))
    box.sync()
    # as after a kill between the publication and the memo; upstream has gone back meanwhile
    memo_file(box).write_bytes(old)
    del source.things["a"].files["new.bin"]
    source.read.clear()
    result = box.sync()["box:a"]
    assert source.known[-1] == ("current", None)
    assert source.read == ["a current"]
    assert result.status == "ok"
    with box.index() as index:
        assert [one.path for one in index.files(index.resolve("box:a"))] == ["x.bin"]


def test_a_state_whose_places_alone_moved_has_a_memo_of_its_own(box: Box, source: Scripted) -> None:
    source.things["a"] = Thing(files("x.bin"))
    box.sync()
    before = memo_file(box).read_bytes()
    source.things["a"].files["x.bin"].modified = at(3)
    assert box.sync()["box:a"].status == "notneeded"
    assert memo_file(box).read_bytes() != before
    source.read.clear()
    box.sync()
    assert source.read == []


def test_without_its_memo_a_dataset_is_read_whole_and_comes_to_the_same(
    box: Box, source: Scripted
) -> None:
    source.things["a"] = Thing(files("x.bin"))
    box.sync()
    refs, whole = box.refs(), memo_file(box).read_bytes()
    for damage in (lambda path: path.unlink(), lambda path: path.write_bytes(whole[:-1])):
        damage(memo_file(box))
        source.read.clear()
        assert box.sync()["box:a"].status == "notneeded"
        assert source.read == ["a current"]
        assert box.refs() == refs
        assert memo_file(box).read_bytes() == whole


def test_a_deep_visit_of_an_unchanged_published_version_reads_nothing(
    box: Box, source: Scripted
) -> None:
    source.things["a"] = Thing(files("x.bin"), published={"1.0": files("x.bin")})
    box.sync()
    source.read.clear()
    before = box.written()
    assert box.sync(deep=True)["box:a"].status == "notneeded"
    assert source.read == []
    assert box.written() == before
    source.things["a"].published["1.0"]["x.bin"] = File(b"forged", upstream_id="x.bin")
    assert box.sync(deep=True)["box:a"].exit_code == 1
    assert source.read == ["a 1.0"]
    memo = MemoFolder(box.folder).read(source.dataset("a").dataset_id, "1.0")
    assert memo is not None
    assert b"forged" not in memo.content


def test_files_that_wait_for_a_sha256_are_not_forgotten_by_the_short_cut(
    box: Box, source: Scripted
) -> None:
    source.late_sha256 = True
    source.things["a"] = Thing(files("x.bin", "y.bin"))
    assert box.sync()["box:a"].message.endswith("; 2 files wait for a checksum")
    source.read.clear()
    assert box.sync()["box:a"].message == "nothing new; 2 files wait for a checksum"

    def die(known: Known) -> None:
        raise Unreachable("the bucket went away")

    source.on_listing = die
    assert box.sync()["box:a"].visit == "failed"
    source.on_listing = lambda known: None
    assert box.sync()["box:a"].message == "nothing new; 2 files wait for a checksum"
    assert source.read == []


def test_files_do_not_wait_where_upstream_will_never_tell_a_sha256(
    box: Box, source: Scripted
) -> None:
    source.things["a"] = Thing(files("x.bin"))
    assert "sha256" not in box.sync()["box:a"].message


def test_a_hold_lapses_when_upstream_is_again_what_it_was(box: Box, source: Scripted) -> None:
    everything = files(*(f"{number}.bin" for number in range(30)))
    source.things["a"] = Thing(dict(everything))
    box.sync()
    source.things["a"].files = files("0.bin")
    assert box.sync()["box:a"].visit == "held"
    source.things["a"].files = everything
    source.read.clear()
    assert box.sync()["box:a"].visit == "full"
    assert source.read == []
    with box.index() as index:
        assert not list(index.open_holds())


def test_pages_of_a_broken_off_visit_are_there_for_the_next_and_go_when_it_is_over(
    box: Box, source: Scripted
) -> None:
    seen: list[list[str]] = []

    def keep_page(known: Known) -> None:
        seen.append(sorted(path.name for path in known.workspace.iterdir()))
        (known.workspace / f"page-{len(seen)}").write_bytes(b"rows")

    def die() -> None:
        raise Unreachable("the bucket went away")

    source.things["a"] = Thing(files("x.bin"))
    source.on_listing, source.on_entries = keep_page, die
    assert box.sync()["box:a"].visit == "failed"
    source.on_entries = lambda: None
    assert box.sync()["box:a"].visit == "full"
    assert seen == [[], ["page-1"]]
    assert workspaces(box) == []


def test_pages_that_contradict_each_other_are_not_gone_on_with(box: Box, source: Scripted) -> None:
    seen: list[int] = []

    def keep_page(known: Known) -> None:
        seen.append(len(list(known.workspace.iterdir())))
        (known.workspace / "page").write_bytes(b"rows")

    def contradict() -> None:
        raise ListingNotProven("box:a: the pages overlap")

    source.things["a"] = Thing(files("x.bin"))
    source.on_listing, source.on_entries = keep_page, contradict
    assert box.sync()["box:a"].visit == "failed"
    assert seen == [0, 0, 0]
    assert workspaces(box) == []


def test_what_earlier_visits_learnt_is_told_to_the_source(box: Box, source: Scripted) -> None:
    told: list[object] = []
    one = files("x.bin", sha256=True)["x.bin"].record("x.bin")
    (place,) = one.locations

    def ask(known: Known) -> None:
        told[:] = [
            known.locations([place.url.partition("?")[0], "https://bucket.example.invalid/no"]),
            known.contents([one.digests[0].value, "0" * 32]),
        ]

    source.on_listing = ask
    source.things["a"] = Thing(files("x.bin", sha256=True))
    box.sync()
    assert told == [[None, None], [None, None]]
    box.sync()
    assert told == [[place, None], [KnownContent(5, None, one.digests[1]), None]]


def test_memos_and_workspaces_may_be_thrown_away(box: Box, source: Scripted) -> None:
    source.things["a"] = Thing(files("x.bin"))
    box.sync()
    refs = box.refs()
    for name in ("memos", "workspaces"):
        shutil.rmtree(box.folder / "neuromirror" / name, ignore_errors=True)
    assert box.sync()["box:a"].status == "notneeded"
    assert box.refs() == refs
