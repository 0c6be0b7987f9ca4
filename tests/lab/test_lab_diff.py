"""What differs between two versions, or a clone and a version."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from crawl_place import git
from lab_again import Lab
from lab_clones import clone
from scripted import File, Scripted, Thing, at, files

from neuromirror.lab.diff import Counts, FileChange, Side, clone_side, diff, version_side
from neuromirror.lab.verify import Clone
from neuromirror.model import Document

NAME = "box:a"


def side(lab: Lab, version: str) -> Side:
    """A side that outlives the index it was looked up in: for sides that are not opened."""
    dataset, _, label = version.partition("@")
    index = lab.place.index()
    return version_side(lab.place.store, index, index.resolve(dataset, label or "latest"))


def clone_of(folder: Path) -> Side:
    with Clone.at(folder) as opened:
        return clone_side(opened.git_dir, folder, opened.head())


def between(lab: Lab, old: Side, new: Side, *, recursive: bool = False) -> list[FileChange]:
    scratch = lab.folder / "scratch"
    scratch.mkdir(exist_ok=True)
    return list(diff(old, new, scratch, recursive=recursive))


def states(lab: Lab, source: Scripted, old: Thing, new: Thing) -> tuple[Side, Side]:
    """Two states that were mirrored one after the other."""
    source.things["a"] = old
    lab.place.sync()
    source.things["a"] = new
    lab.place.sync()
    first, second = lab.labels(NAME, "observed")
    return side(lab, f"{NAME}@{first}"), side(lab, f"{NAME}@{second}")


def short(found: list[FileChange]) -> list[tuple[str, str]]:
    return [(one.kind, one.path) for one in found]


def test_every_kind_of_change_is_told_in_order_of_path(box: Lab, source: Scripted) -> None:
    old = Thing({**files("a.bin", "b.bin", "c.bin", "sub/d.bin", "same.bin")})
    new = Thing(
        {
            "same.bin": old.files["same.bin"],
            "b.bin": File(b"other bytes", at(1)),
            "c.bin": replace(old.files["c.bin"], modified=at(1)),
            "elsewhere/d.bin": old.files["sub/d.bin"],
            "e.bin": File(b"new", at(1)),
        }
    )
    sides = states(box, source, old, new)
    found = between(box, *sides)
    assert short(found) == [
        ("removed", "a.bin"),
        ("changed", "b.bin"),
        ("metadata", "c.bin"),
        ("added", "e.bin"),
        ("moved", "elsewhere/d.bin"),
    ]
    gone, changed, told, come, moved = found
    assert (gone.old_size, gone.new_size, gone.new_digest) == (5, None, None)
    assert (changed.old_size, changed.new_size) == (5, 11)
    assert changed.old_digest != changed.new_digest
    assert told.message == "time"
    assert (come.old_digest, come.new_size) == (None, 3)
    assert (moved.before, moved.old_digest) == ("sub/d.bin", moved.new_digest)
    # the other way round everything is turned about
    assert short(between(box, *reversed(sides))) == [
        ("added", "a.bin"),
        ("changed", "b.bin"),
        ("metadata", "c.bin"),
        ("removed", "e.bin"),
        ("moved", "sub/d.bin"),
    ]
    assert between(box, sides[0], sides[0]) == []


def test_equal_files_are_paired_by_name_and_the_rest_was_added_or_removed(
    box: Lab, source: Scripted
) -> None:
    same = File(b"same bytes")
    old = Thing(dict.fromkeys(("x/1.bin", "x/2.bin", "x/3.bin"), same) | files("keep"))
    new = Thing(dict.fromkeys(("y/3.bin", "y/1.bin"), same) | files("keep"))
    found = between(box, *states(box, source, old, new))
    assert [(one.kind, one.before, one.path) for one in found if one.kind == "moved"] == [
        ("moved", "x/1.bin", "y/1.bin"),
        ("moved", "x/2.bin", "y/3.bin"),
    ]
    assert [one.path for one in found if one.kind == "removed"] == ["x/3.bin"]


def test_another_ending_is_no_other_content(box: Lab, source: Scripted) -> None:
    # the git-annex keys differ, since they carry the ending
    bytes_ = File(b"same bytes", upstream_id="1")
    sides = states(box, source, Thing({"a.nwb": bytes_}), Thing({"b.tif": bytes_}))
    (moved,) = between(box, *sides)
    assert (moved.kind, moved.before, moved.path) == ("moved", "a.nwb", "b.tif")


def test_a_better_checksum_of_the_same_bytes_is_metadata(box: Lab, source: Scripted) -> None:
    old, new = Thing(files("a.bin")), Thing(files("a.bin", sha256=True))
    (found,) = between(box, *states(box, source, old, new))
    assert (found.kind, found.message) == ("metadata", "checksums")
    assert str(found.new_digest).startswith("sha256:")


def test_documents_are_told_and_what_a_mirror_adds_is_not(box: Lab, source: Scripted) -> None:
    old = Thing(files("a.bin"), [Document(b"same.json", b"{}"), Document(b"old.json", b"{}")])
    new = Thing(files("a.bin"), [Document(b"same.json", b"[]"), Document(b"new.json", b"{}")])
    found = between(box, *states(box, source, old, new))
    assert [(one.kind, one.path, one.message) for one in found] == [
        ("document", "new.json", "added"),
        ("document", "old.json", "removed"),
        ("document", "same.json", "changed"),
    ]


def zarr(name: str, *chunks: int) -> dict[str, File]:
    return files(f"{name}/.zarray", *(f"{name}/{number}" for number in chunks))


def test_sub_datasets_are_one_line_each_and_can_be_opened(box: Lab, source: Scripted) -> None:
    old = Thing(files("x.bin") | zarr("one.zarr", *range(8)) | zarr("gone.zarr", *range(6)))
    new = Thing(files("x.bin") | zarr("one.zarr", *range(1, 9)) | zarr("new.zarr", *range(7)))
    sides = states(box, source, old, new)
    found = between(box, *sides)
    assert [(one.kind, one.path, one.files) for one in found] == [
        ("removed", "gone.zarr", 7),
        ("added", "new.zarr", 8),
        ("changed", "one.zarr", 9),
    ]
    assert all(str(one.old_digest or one.new_digest).startswith("sha256:") for one in found)
    counts = Counts()
    for one in found:
        counts.add(one)
    assert (sum(counts.files.values()), counts.parts["changed"]) == (0, 1)
    opened = between(box, *sides, recursive=True)
    assert opened[:3] == found
    assert short(opened[3:]) == [("removed", "one.zarr/0"), ("added", "one.zarr/8")]


def test_a_file_in_the_place_of_a_sub_dataset_is_a_change(box: Lab, source: Scripted) -> None:
    old = Thing(files("x.bin") | zarr("one.zarr", *range(8)))
    new = Thing(files("x.bin", "one.zarr"))
    (found,) = between(box, *states(box, source, old, new))
    assert (found.kind, found.path, found.message) == (
        "changed",
        "one.zarr",
        "a sub-dataset is a file now",
    )


def test_a_clone_is_compared_by_what_its_keys_tell(
    box: Lab, source: Scripted, tmp_path: Path
) -> None:
    old = Thing(
        files("a.bin", "b.bin") | zarr("one.zarr", *range(8)) | zarr("huge.zarr", *range(20))
    )
    new = Thing({**old.files, "b.bin": File(b"other", at(1)), "a.bin": File(b"a.bin", at(1))})
    sides = states(box, source, old, new)
    folder = clone(box.place, NAME, tmp_path / "clone", box.labels(NAME, "observed")[0])
    here = clone_of(folder)
    assert between(box, here, sides[0]) == between(box, sides[0], here) == []
    # that another time is told of a.bin git does not know
    assert short(between(box, here, sides[1])) == [("changed", "b.bin")]
    assert short(between(box, *sides)) == [("metadata", "a.bin"), ("changed", "b.bin")]
    assert between(box, here, clone_of(folder)) == []
    # a huge Zarr's chunks are not in git on either side
    for name in ("one.zarr", "huge.zarr"):
        (folder / name).rmdir()
        clone(box.place, f"{NAME}/{name}", folder / name)
    assert between(box, clone_of(folder / "huge.zarr"), side(box, f"{NAME}/huge.zarr")) == []
    git(folder, "rm", "-q", "a.bin")
    git(folder, "commit", "-qm", "less")
    assert short(between(box, clone_of(folder), sides[0])) == [("added", "a.bin")]


def test_sub_datasets_of_a_clone_are_opened_where_they_are_there(
    box: Lab, source: Scripted, tmp_path: Path
) -> None:
    old = Thing(files("x.bin") | zarr("one.zarr", *range(8)))
    new = Thing(files("x.bin") | zarr("one.zarr", *range(9)))
    first, second = states(box, source, old, new)
    folder = clone(box.place, NAME, tmp_path / "clone", box.labels(NAME, "observed")[0])
    here = clone_of(folder)
    assert short(between(box, here, second, recursive=True)) == [("changed", "one.zarr")]
    (folder / "one.zarr").rmdir()
    clone(box.place, f"{NAME}/one.zarr", folder / "one.zarr")
    assert short(between(box, here, second, recursive=True)) == [
        ("changed", "one.zarr"),
        ("added", "one.zarr/8"),
    ]
    assert between(box, here, first, recursive=True) == []


@pytest.mark.parametrize("lost", [False, True])
def test_versions_whose_records_are_lost_are_read_from_git(
    box: Lab, source: Scripted, lost: bool
) -> None:
    import shutil

    old = Thing(files("a.bin", "b.bin"))
    new = Thing({"a.bin": replace(old.files["a.bin"], modified=at(1)), "c.bin": File(b"c", at(1))})
    sides = states(box, source, old, new)
    wanted = [("removed", "b.bin"), ("added", "c.bin")]
    if lost:
        shutil.rmtree(box.place.folder / "neuromirror" / "records")
        labels = box.labels(NAME, "observed")
        sides = (side(box, f"{NAME}@{labels[0]}"), side(box, f"{NAME}@{labels[1]}"))
    else:
        wanted.insert(0, ("metadata", "a.bin"))
    assert short(between(box, *sides)) == wanted


def test_any_two_versions_differ_by_what_came_between_them(box: Lab, source: Scripted) -> None:
    # records are kept as changes from a megabyte on
    names = [f"{number:04}{'-long' * 40}.bin" for number in range(3000)]
    whole = files(*names)
    for day in range(5):
        changed = dict(whole)
        changed[names[day]] = File(b"other", at(day + 1))
        changed.pop(names[day + 10])
        changed[f"new-{day % 2}.bin"] = File(b"new %d" % (day // 2), at(day + 1))
        source.things["a"] = Thing(changed)
        box.place.sync()
    sides = [side(box, f"{NAME}@{label}") for label in box.labels(NAME, "observed")]
    assert len(sides) == 5
    told_apart = 0
    for old in sides:
        for new in sides:
            told_apart += new.since(old.commit) is not None
            read_whole = replace(new, since=lambda _: None)
            assert between(box, old, new) == between(box, old, read_whole)
    assert told_apart == 25
