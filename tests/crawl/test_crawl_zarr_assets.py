"""Zarr assets: parts that upstream names itself, inline or as datasets of their own."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from crawl_place import git
from scripted import Box, File, Scripted, Thing, Zarr, at, files
from zarr_box import UNPROVEN, exceptions, links, parts, paths, version_labels, zarr

from neuromirror.crawl import recording, release
from neuromirror.model import VersionMinted
from neuromirror.store import versions_in_git

# --- what becomes of a part


def test_a_small_zarr_is_a_folder_of_files_and_a_large_one_a_dataset(
    zarrs: Box, source: Scripted
) -> None:
    source.zarrs = {"s": zarr(3, "c/"), "l": zarr(9)}
    source.things["a"] = Thing(
        files("x.bin"), zarrs={"sub/small.zarr": "s", "sub/large.zarr": "l"}, counted=True
    )
    result = zarrs.sync()["box:a"]
    assert (result.status, result.visit, len(result.versions)) == ("ok", "full", 1)
    assert paths(zarrs) == [
        "sub/small.zarr/.zarray",
        "sub/small.zarr/c/0",
        "sub/small.zarr/c/1",
        "x.bin",
    ]
    (part,) = parts(zarrs).values()
    assert (part.path, part.dataset, part.files) == ("sub/large.zarr", "box:zarr/l", 9)
    assert part.label == source.zarrs["l"].checksum
    assert part.bytes == source.zarrs["l"].size
    repository = zarrs.repository("box:zarr/l")
    assert links(zarrs) == {"sub/large.zarr": git(repository, "rev-parse", "main").strip()}
    assert git(repository, "rev-parse", part.label) == git(repository, "rev-parse", "main")
    inner = git(repository, "ls-tree", "--name-only", "main").split()
    assert {".zarray", "0", "7"} <= set(inner)
    within = {one.local_id: one.within for one in zarrs.entries(VersionMinted)}
    assert within == {"a": "", "zarr/l": "zarr"}
    top = git(zarrs.folder / "alias" / "box", "ls-tree", "--name-only", "main").split()
    assert "a" in top
    assert "zarr" not in top
    zarrs.fsck()


def test_listed_is_committed_and_named_exceptions_with_parts_as_one_file_each(
    zarrs: Box, source: Scripted
) -> None:
    source.zarrs = {
        "s": zarr(3),
        "l": zarr(9),
        "empty": Zarr({}),
        "broken": zarr(7, broken=UNPROVEN),
        "broken-small": zarr(2, broken=UNPROVEN),
    }
    thing = Thing(files("x.bin", "y.bin"), counted=True)
    thing.zarrs = {f"{name}.zarr": name for name in source.zarrs}
    source.things["a"] = thing
    result = zarrs.sync()["box:a"]
    assert (result.exit_code, result.visit) == (1, "partial")
    left_out = exceptions(zarrs)
    assert left_out == {
        "empty.zarr": ("zarr-empty", 0),
        "broken.zarr": ("zarr-not-proven", source.zarrs["broken"].size),
        "broken-small.zarr": ("zarr-not-proven", source.zarrs["broken-small"].size),
    }
    own = [one for one in paths(zarrs) if not one.startswith("s.zarr/")]
    assert len(own) + 1 + len(parts(zarrs)) + len(left_out) == 2 + len(thing.zarrs)


def test_the_summary_is_held_against_parts_as_one_file_each(zarrs: Box, source: Scripted) -> None:
    source.zarrs = {"l": zarr(9)}
    source.things["a"] = Thing(files("x.bin"), zarrs={"l.zarr": "l"}, counted=True)
    source.zarrs["l"].word = f"{'0' * 32}-9--9"
    assert zarrs.sync()["box:a"].visit == "full"
    # a part that the listing lacks is missed
    thing = source.things["a"]
    whole = source._summary(thing, thing.files)
    thing.zarrs = {}
    source._summary = lambda thing, content: whole  # type: ignore[method-assign]
    result = zarrs.sync()["box:a"]
    assert result.visit == "failed"
    assert "upstream states 2 files" in result.message


@pytest.mark.parametrize(("limit", "inline"), [(0, False), (3, False), (4, True)])
def test_the_mirror_says_how_small_a_small_zarr_is(
    tmp_path: Path, source: Scripted, limit: int, inline: bool
) -> None:
    box = Box(tmp_path / "limit", source, f"[zarr]\ninline_parts = {limit}\n")
    source.zarrs = {"z": zarr(3)}
    source.things["a"] = Thing(files("x.bin"), zarrs={"z.zarr": "z"})
    assert box.sync()["box:a"].visit == "full"
    assert ("z.zarr/0" in paths(box)) is inline
    assert ("z.zarr" in parts(box)) is not inline


def test_a_huge_zarr_keeps_its_chunks_in_the_manifest(tmp_path: Path, source: Scripted) -> None:
    box = Box(tmp_path / "huge", source, "[zarr]\ninline_parts = 4\ninline = 6\nmanifest = 12\n")
    source.zarrs = {"huge": zarr(20), "large": zarr(9)}
    source.things["a"] = Thing(files("x.bin"), zarrs={"h.zarr": "huge", "l.zarr": "large"})
    assert box.sync()["box:a"].visit == "full"
    assert {path: one.files for path, one in parts(box).items()} == {"h.zarr": 20, "l.zarr": 9}
    forms = {}
    for name in ("huge", "large"):
        told = git(box.repository(f"box:zarr/{name}"), "show", "main:.neuromirror/dataset.json")
        forms[name] = json.loads(told)["form"]
    assert forms == {"huge": "manifest", "large": "files"}


def test_the_form_of_each_zarr_is_in_the_documents_the_journal_and_the_index(
    tmp_path: Path, source: Scripted
) -> None:
    box = Box(tmp_path / "forms", source, "[zarr]\ninline_parts = 4\ninline = 6\nmanifest = 12\n")
    source.zarrs = {"huge": zarr(20), "large": zarr(9), "one": zarr(3), "two": zarr(2)}
    thing = source.things["a"] = Thing(files("x.bin"))
    thing.zarrs = {"h.zarr": "huge", "l.zarr": "large", "z/one.zarr": "one", "a/two.zarr": "two"}
    assert box.sync()["box:a"].visit == "full"
    told = json.loads(git(box.repository("box:a"), "show", "main:.neuromirror/dataset.json"))
    wanted = {
        path: {
            "source": source.dataset(f"zarr/{name}").source_uri,
            "checksum": source.zarrs[name].checksum,
            "files": len(source.zarrs[name].files),
            "bytes": source.zarrs[name].size,
        }
        for path, name in (("a/two.zarr", "two"), ("z/one.zarr", "one"))
    }
    assert (told["form"], told["inline"], sorted(told["parts"])) == (
        "files",
        wanted,
        ["h.zarr", "l.zarr"],
    )
    with box.index() as index:
        row = index.resolve("box:a")
        assert index.inline(row) == [{"path": path, **one} for path, one in wanted.items()]
        huge, large = index.resolve("box:zarr/huge"), index.resolve("box:zarr/large")
        assert index.inline(huge) == []
    assert (row.form, row.only_files) == ("files", 0)
    assert (large.form, large.only_files) == ("files", 0)
    metadata = source.zarrs["huge"].files[".zarray"]
    size = source.zarrs["huge"].size - len(metadata.content)
    assert (huge.form, huge.only_files, huge.only_bytes) == ("manifest", 19, size)
    # git alone tells the same
    for name in ("a", "zarr/huge"):
        minted = [one for one in box.entries(VersionMinted) if one.local_id == name]
        dataset = source.dataset(name)
        repository = box.store.repository(dataset)
        found = list(versions_in_git(repository, set(), minted[0].at))
        for field in ("form", "only_files", "only_bytes", "inline"):
            assert getattr(found[0], field) == getattr(minted[0], field)
    # what is copied from the state before is told as what was read
    thing.files |= files("y.bin")
    assert box.sync()["box:a"].visit == "full"
    told = json.loads(git(box.repository("box:a"), "show", "main:.neuromirror/dataset.json"))
    assert told["inline"] == wanted
    del thing.zarrs["a/two.zarr"]
    assert box.sync()["box:a"].visit == "full"
    with box.index() as index:
        assert [one["path"] for one in index.inline(index.resolve("box:a"))] == ["z/one.zarr"]


def test_odd_paths_of_zarrs_are_mirrored(zarrs: Box, source: Scripted) -> None:
    odd = ["-dash.zarr", "a b/ü.zarr", ".git/x.zarr", "f.zarr"]
    source.zarrs = {f"{size}{number}": zarr(size) for size in (3, 9) for number in range(len(odd))}
    source.things["a"] = Thing(files("f.zarr/inside", "f.zarr "))
    source.things["a"].zarrs = {one: f"9{number}" for number, one in enumerate(odd)}
    source.things["b"] = Thing(files("x"), zarrs={one: f"3{n}" for n, one in enumerate(odd)})
    assert {one.visit for name, one in zarrs.sync().items() if ":" in name} == {"full"}
    assert {one.source_path.decode() for one in parts(zarrs).values()} == set(odd)
    assert len(paths(zarrs, "box:b")) == 1 + 3 * len(odd)
    refs = zarrs.refs()
    source.things["b"].files |= files("y")
    source.things["a"].files |= files("y")
    source.read.clear()
    assert {one.visit for name, one in zarrs.sync().items() if ":" in name} == {"full"}
    assert source.read == ["a current", "b current"] or source.read == ["b current", "a current"]
    del source.things["a"].files["y"], source.things["b"].files["y"]
    zarrs.sync()
    for name in "ab":
        before = refs[f"box--{name} refs/heads/main"]
        one = zarrs.repository(f"box:{name}")
        trees = git(one, "rev-parse", f"{before}^{{tree}}", "main^{tree}").split()
        assert trees[0] == trees[1]
    zarrs.fsck()


# --- from visit to visit


def test_a_known_zarr_costs_no_request_and_an_unchanged_dataset_is_not_written(
    zarrs: Box, source: Scripted
) -> None:
    source.zarrs = {"s": zarr(3), "l": zarr(9)}
    thing = source.things["a"] = Thing(files("x.bin"), zarrs={"s.zarr": "s", "l.zarr": "l"})
    zarrs.sync()
    source.read.clear()
    before = zarrs.written()
    assert zarrs.sync()["box:a"].status == "notneeded"
    assert (source.read, zarrs.written()) == ([], before)
    thing.files["y.bin"] = File(b"y", at(9))
    assert zarrs.sync()["box:a"].versions == ("2024-03-01T120900Z",)
    assert source.read == ["a current"]
    assert version_labels(zarrs, "box:zarr/l") == [source.zarrs["l"].checksum]
    assert len(paths(zarrs)) == 5
    # the files of a small one are copied only from where they are known to be
    for memo in (zarrs.folder / "neuromirror" / "memos").rglob("*.memo"):
        memo.unlink()
    source.read.clear()
    assert zarrs.sync()["box:a"].status == "notneeded"
    assert sorted(source.read) == ["a current", f"zarr/s {source.zarrs['s'].checksum}"]


def test_a_zarr_that_changed_has_a_new_version_and_the_dataset_links_it(
    zarrs: Box, source: Scripted
) -> None:
    source.zarrs = {"s": zarr(3), "l": zarr(9)}
    source.things["a"] = Thing(files("x.bin"), zarrs={"s.zarr": "s", "l.zarr": "l"})
    zarrs.sync()
    labels = [source.zarrs["l"].checksum]
    for name in "sl":
        source.zarrs[name].files["0"] = File(b"other", at(4))
    labels.append(source.zarrs["l"].checksum)
    result = zarrs.sync()["box:a"]
    assert (result.visit, result.versions) == ("full", ("2024-03-01T120400Z",))
    assert version_labels(zarrs, "box:zarr/l") == labels
    assert parts(zarrs)["l.zarr"].label == labels[1]
    # what it was before is there already, and no new commit
    source.zarrs["l"].files["0"] = files("0")["0"]
    source.read.clear()
    assert zarrs.sync()["box:a"].visit == "full"
    assert source.read == ["a current"]
    assert parts(zarrs)["l.zarr"].label == labels[0]
    assert version_labels(zarrs, "box:zarr/l") == labels
    zarrs.fsck()


def test_a_zarr_grows_out_of_its_folder_and_back_and_is_weighed_as_one_file(
    tmp_path: Path, source: Scripted
) -> None:
    box = Box(tmp_path / "grows", source, "[zarr]\ninline_parts = 100\n")
    source.zarrs = {"z": zarr(90)}
    source.things["a"] = Thing(files("x.bin"), zarrs={"z.zarr": "z"}, counted=True)
    box.sync()
    for chunks in (120, 90, 20):
        source.zarrs["z"].files = zarr(chunks).files
        assert box.sync()["box:a"].visit == "full", chunks
        assert bool(parts(box)) is (chunks == 120)
        assert len(paths(box)) == (1 if chunks == 120 else chunks + 1)
    box.fsck()


def test_many_lost_zarrs_are_held_like_other_files(zarrs: Box, source: Scripted) -> None:
    source.zarrs = {str(number): zarr(3 + 3 * (number % 2), str(number)) for number in range(40)}
    thing = source.things["a"] = Thing(files("x.bin"), counted=True)
    thing.zarrs = {f"{name}.zarr": name for name in source.zarrs}
    assert zarrs.sync()["box:a"].visit == "full"
    refs = zarrs.refs()
    thing.zarrs = {path: name for path, name in thing.zarrs.items() if int(name) < 20}
    source.zarrs["new"] = zarr(9, "new")
    thing.zarrs["new.zarr"] = "new"
    source.read.clear()
    result = zarrs.sync()["box:a"]
    assert result.visit == "held"
    assert zarrs.refs() == refs
    assert source.read == ["a current"]
    with zarrs.index() as index:
        (hold,) = index.open_holds()
    assert (hold.removed, hold.before) == (20, 41)
    # another dataset brings the new Zarr meanwhile: it is the same listing all the same
    source.things["b"] = Thing(files("y.bin"), zarrs={"new.zarr": "new"})
    result = zarrs.sync()["box:a"]
    assert result.visit == "held"
    store = zarrs.store
    with recording(store, store.index_path) as recorder:
        release(recorder, hold.hold)
    assert zarrs.sync()["box:a"].visit == "full"
    assert len(parts(zarrs)) == 11


def test_one_zarr_in_two_datasets_is_one_dataset_that_waits_for_neither(
    zarrs: Box, source: Scripted
) -> None:
    both = threading.Barrier(2, timeout=600)
    source.zarrs = {"l": zarr(9)}

    def meet() -> None:
        both.wait()

    source.on_entries = meet
    for name in "ab":
        source.things[name] = Thing(files(f"{name}.bin"), zarrs={f"{name}.zarr": "l"})
    result = zarrs.sync()
    assert {result[f"box:{name}"].visit for name in "ab"} == {"full"}
    assert [one.split()[0] for one in source.read].count("zarr/l") == 1
    (first,) = (one for one in zarrs.entries(VersionMinted) if one.local_id == "zarr/l")
    assert first.within == "zarr"  # whichever came first
    assert links(zarrs, "box:a")["a.zarr"] == links(zarrs, "box:b")["b.zarr"] == first.commit


def test_files_of_a_zarr_do_not_wait_for_a_sha256(zarrs: Box, source: Scripted) -> None:
    source.late_sha256 = True
    source.zarrs = {"s": zarr(3), "l": zarr(9)}
    source.things["a"] = Thing(
        files("x.bin") | files("y.bin", sha256=True), zarrs={"s.zarr": "s", "l.zarr": "l"}
    )
    assert zarrs.sync()["box:a"].message.endswith("; 1 file waits for a checksum")
    source.read.clear()
    assert zarrs.sync()["box:a"].message == "nothing new; 1 file waits for a checksum"
    assert source.read == []


def test_a_zarr_that_was_never_finalized_is_looked_at_each_time(
    zarrs: Box, source: Scripted
) -> None:
    source.zarrs = {"l": zarr(2, finalized=False)}
    thing = source.things["a"] = Thing(files("x.bin"), zarrs={"l.zarr": "l"})
    source.memos = False
    assert zarrs.sync()["box:a"].visit == "full"
    assert [one.files for one in parts(zarrs).values()] == [2]
    assert zarrs.sync()["box:a"].status == "notneeded"
    assert source.read.count("zarr/l current") == 1  # then its memo is enough
    source.zarrs["l"].files["1"] = File(b"1", at(5))
    assert zarrs.sync()["box:a"].visit == "full"
    assert [one.files for one in parts(zarrs).values()] == [3]
    source.zarrs["l"].files.clear()
    result = zarrs.sync()["box:a"]
    assert (result.visit, "l.zarr" in result.message) == ("partial", True)
    assert [one.files for one in parts(zarrs).values()] == [3]
    thing.zarrs["other.zarr"] = "none"
    source.zarrs["none"] = Zarr({}, finalized=False)
    zarrs.sync()
    assert exceptions(zarrs) == {"other.zarr": ("zarr-empty", 0)}


def test_a_zarr_that_went_on_since_its_row_was_read_is_mirrored_as_it_is(
    zarrs: Box, source: Scripted
) -> None:
    source.zarrs = {"s": zarr(3), "l": zarr(9), "grown": zarr(9)}
    for one in source.zarrs.values():
        one.word = f"{'0' * 32}-{min(len(one.files), 9)}--{one.size}"
    source.zarrs["grown"].word = f"{'0' * 32}-2--18"
    thing = source.things["a"] = Thing(files("x.bin"))
    thing.zarrs = {f"{name}.zarr": name for name in source.zarrs}
    assert zarrs.sync()["box:a"].visit == "full"
    assert {path: one.label for path, one in parts(zarrs).items()} == {
        "l.zarr": source.zarrs["l"].checksum,
        "grown.zarr": source.zarrs["grown"].checksum,
    }
    for one in source.zarrs.values():
        one.word = None
    source.read.clear()
    assert zarrs.sync()["box:a"].status == "notneeded"
    assert source.read == ["a current"]


def test_a_zarr_that_git_has_and_the_journal_lacks_is_not_read_again(
    zarrs: Box, source: Scripted
) -> None:
    source.zarrs = {"l": zarr(9)}
    source.things["a"] = Thing(files("x.bin"), zarrs={"l.zarr": "l"})
    zarrs.sync()
    refs = zarrs.refs()
    (zarrs.folder / "neuromirror" / "journal.jsonl").unlink()
    zarrs.store.index_path.unlink()
    (zarrs.repository("box:a") / "packed-refs").unlink()
    source.read.clear()
    zarrs.sync()
    assert source.read == ["a current"]
    mains = {one: sha for one, sha in refs.items() if "box--a" in one or "zarr" in one}
    assert mains.items() <= zarrs.refs().items()
    assert {one.within for one in zarrs.entries(VersionMinted)} == {"", "zarr"}
