"""Large Zarrs of a dataset: mirrored as datasets of their own, weighed as the files they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from crawl_place import git
from scripted import Box, File, Scripted, Thing, at, files

from neuromirror.crawl import recording, release
from neuromirror.model import VersionMinted

INLINE, MANIFEST = 4, 12
LIMITS = f"[zarr]\ninline = {INLINE}\nmanifest = {MANIFEST}\n"


def zarr(name: str, chunks: int) -> dict[str, File]:
    return files(f"{name}/.zarray", *(f"{name}/{number}" for number in range(chunks)))


@pytest.fixture
def zarrs(tmp_path: Path, source: Scripted) -> Box:
    """A store of a mirror for which four files are many."""
    return Box(tmp_path / "zarrs", source, LIMITS)


def versions(box: Box, dataset: str) -> int:
    with box.index() as index:
        return len(list(index.versions(dataset)))


def parts(box: Box) -> dict[str, tuple[str, int]]:
    """Dataset and number of files by path, in the newest state."""
    with box.index() as index:
        found = list(index.parts(index.resolve("box:a")))
    return {one.path: (one.dataset, one.files) for one in found}


def test_a_large_zarr_becomes_a_dataset_of_its_own(zarrs: Box, source: Scripted) -> None:
    source.things["a"] = Thing(
        files("x.bin") | zarr("small.zarr", 2) | zarr("deep/large.zarr", 9) | zarr("huge.zarr", 20)
    )
    result = zarrs.sync()["box:a"]
    assert (result.status, result.visit, len(result.versions)) == ("ok", "full", 1)
    found = parts(zarrs)
    assert {path: count for path, (_, count) in found.items()} == {
        "deep/large.zarr": 10,
        "huge.zarr": 21,
    }
    tree = git(zarrs.repository("box:a"), "ls-tree", "-r", "main")
    links = {line.split("\t")[1]: line.split()[2] for line in tree.splitlines() if "commit" in line}
    for path, (name, _) in found.items():
        assert links[path] == git(zarrs.repository(name), "rev-parse", "main").strip()
    inner = git(zarrs.repository(found["deep/large.zarr"][0]), "ls-tree", "--name-only", "main")
    assert {".zarray", "0", "8"} <= set(inner.split())
    huge = git(zarrs.repository(found["huge.zarr"][0]), "ls-tree", "--name-only", "main").split()
    assert ".zarray" in huge
    assert "0" not in huge
    within = {one.local_id: one.within for one in zarrs.entries(VersionMinted)}
    assert within.pop("a") == ""
    assert set(within.values()) == {"a"}
    top = git(zarrs.folder / "alias" / "box", "ls-tree", "--name-only", "main").split()
    assert "a" in top
    assert not {one for one in top if "zarr" in one}
    zarrs.fsck()
    refs = zarrs.refs()
    source.memos = False
    (zarrs.folder / "neuromirror" / "memos").rename(zarrs.folder / "forgotten")
    assert zarrs.sync()["box:a"].status == "notneeded"
    assert zarrs.refs() == refs


def test_a_zarr_that_grows_into_a_part_and_back_loses_nothing(zarrs: Box, source: Scripted) -> None:
    thing = source.things["a"] = Thing(files("x.bin") | zarr("one.zarr", 3))
    zarrs.sync()
    assert parts(zarrs) == {}
    thing.files |= zarr("one.zarr", 30)
    result = zarrs.sync()["box:a"]
    assert (result.visit, result.exit_code) == ("full", 0)
    assert [count for _, count in parts(zarrs).values()] == [31]
    for number in range(20, 30):
        del thing.files[f"one.zarr/{number}"]
    result = zarrs.sync()["box:a"]
    assert result.visit == "full"
    assert sorted(source.asked) == sorted(b"one.zarr/%d" % number for number in range(20, 30))
    assert [count for _, count in parts(zarrs).values()] == [21]
    assert source.read.count("a current") == 3
    zarrs.fsck()


def test_files_lost_in_a_part_are_held_like_others(zarrs: Box, source: Scripted) -> None:
    thing = source.things["a"] = Thing(files("x.bin") | zarr("one.zarr", 40))
    zarrs.sync()
    refs = zarrs.refs()
    thing.files = files("x.bin") | zarr("one.zarr", 20)
    result = zarrs.sync()["box:a"]
    assert result.visit == "held"
    assert zarrs.refs() == refs
    with zarrs.index() as index:
        (hold,) = index.open_holds()
    assert (hold.removed, hold.before) == (20, 42)
    store = zarrs.store
    with recording(store, store.index_path) as recorder:
        release(recorder, hold.hold)
    assert zarrs.sync()["box:a"].status == "ok"
    assert [count for _, count in parts(zarrs).values()] == [21]


def test_a_chunk_that_a_listing_dropped_is_not_deleted(zarrs: Box, source: Scripted) -> None:
    thing = source.things["a"] = Thing(files("x.bin") | zarr("one.zarr", 9))
    zarrs.sync()
    thing.lost = {"one.zarr/3"}
    result = zarrs.sync()["box:a"]
    assert (result.visit, "'one.zarr/3'" in result.message) == ("failed", True)


def test_an_overwritten_chunk_is_an_incident(zarrs: Box, source: Scripted) -> None:
    thing = source.things["a"] = Thing(files("x.bin") | zarr("one.zarr", 9))
    zarrs.sync()
    refs = zarrs.refs()
    thing.files["one.zarr/3"] = File(b"other", at(3), "one.zarr/3")
    result = zarrs.sync()["box:a"]
    assert (result.exit_code, "'one.zarr/3'" in result.message) == (1, True)
    assert zarrs.refs() == refs


def test_a_change_beside_a_part_makes_no_new_state_of_it(zarrs: Box, source: Scripted) -> None:
    thing = source.things["a"] = Thing(files("x.bin") | zarr("one.zarr", 9))
    zarrs.sync()
    ((name, _),) = parts(zarrs).values()
    thing.files["y.bin"] = File(b"y", at(9))
    assert len(zarrs.sync()["box:a"].versions) == 1
    assert (versions(zarrs, "box:a"), versions(zarrs, name)) == (2, 1)
    thing.files["one.zarr/9"] = File(b"9", at(10))
    zarrs.sync()
    assert (versions(zarrs, "box:a"), versions(zarrs, name)) == (3, 2)


def test_a_part_that_git_has_and_the_journal_lacks_is_recorded(
    zarrs: Box, source: Scripted
) -> None:
    source.things["a"] = Thing(files("x.bin") | zarr("one.zarr", 9))
    zarrs.sync()
    refs = zarrs.refs()
    ((name, _),) = parts(zarrs).values()
    # as if it had died between the part's refs and its journal entry
    (zarrs.folder / "neuromirror" / "journal.jsonl").unlink()
    zarrs.store.index_path.unlink()
    for path in zarrs.folder.glob("alias/box--a"):
        (path.resolve() / "packed-refs").unlink()
    zarrs.sync()
    assert (versions(zarrs, "box:a"), versions(zarrs, name)) == (1, 1)
    assert {one: sha for one, sha in zarrs.refs().items() if "box--a" in one} == {
        one: sha for one, sha in refs.items() if "box--a" in one
    }
    assert {one.within for one in zarrs.entries(VersionMinted)} == {"", "a"}
