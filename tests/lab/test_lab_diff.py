"""Differences between two versions, or a clone and a version."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import msgspec

from neuromirror.lab.diff import ChangeCounts, DiffSide, FileChange, clone_side, diff, version_side
from neuromirror.model import Document
from neuromirror.transfer.verified_repository import VerifiedRepository
from support.dataset_clones import clone_dataset
from support.lab_store import LabStore
from support.mirror_harness import run_git
from support.scripted_source import ScriptedDataset, ScriptedFile, ScriptedSource, at, files

NAME = "box:a"


def side(lab: LabStore, version: str) -> DiffSide:
    """Return a side whose index is closed, for tests that do not open subdatasets."""
    dataset, _, label = version.partition("@")
    index = lab.mirror_harness.index()
    return version_side(
        lab.mirror_harness.store, index, index.versions.resolve(dataset, label or "latest")
    )


def clone_of(folder: Path) -> DiffSide:
    with VerifiedRepository.at(folder) as opened:
        return clone_side(opened.git_dir, folder, opened.head())


def changes_between(
    lab: LabStore, old: DiffSide, new: DiffSide, *, recursive: bool = False
) -> list[FileChange]:
    scratch = lab.folder / "scratch"
    scratch.mkdir(exist_ok=True)
    return list(diff(old, new, scratch, recursive=recursive))


def sync_two_states(
    lab: LabStore, source: ScriptedSource, old: ScriptedDataset, new: ScriptedDataset
) -> tuple[DiffSide, DiffSide]:
    """Two consecutive mirrored states."""
    source.scripted_datasets["a"] = old
    lab.mirror_harness.sync()
    source.scripted_datasets["a"] = new
    lab.mirror_harness.sync()
    first, second = lab.labels(NAME, "observed")
    return side(lab, f"{NAME}@{first}"), side(lab, f"{NAME}@{second}")


def kinds_and_paths(found: list[FileChange]) -> list[tuple[str, str]]:
    return [(one.kind, one.path) for one in found]


def test_every_kind_of_change_is_reported_in_order_of_path(
    scripted_lab: LabStore, source: ScriptedSource
) -> None:
    old = ScriptedDataset({**files("a.bin", "b.bin", "c.bin", "sub/d.bin", "same.bin")})
    new = ScriptedDataset(
        {
            "same.bin": old.files["same.bin"],
            "b.bin": ScriptedFile(b"other bytes", at(1)),
            "c.bin": replace(old.files["c.bin"], modified=at(1)),
            "elsewhere/d.bin": old.files["sub/d.bin"],
            "e.bin": ScriptedFile(b"new", at(1)),
        }
    )
    sides = sync_two_states(scripted_lab, source, old, new)
    found = changes_between(scripted_lab, *sides)
    assert kinds_and_paths(found) == [
        ("removed", "a.bin"),
        ("changed", "b.bin"),
        ("metadata", "c.bin"),
        ("added", "e.bin"),
        ("moved", "elsewhere/d.bin"),
    ]
    gone, changed, metadata, come, moved = found
    assert (gone.old_size, gone.new_size, gone.new_digest) == (5, None, None)
    assert (changed.old_size, changed.new_size) == (5, 11)
    assert changed.old_digest != changed.new_digest
    assert metadata.message == "time"
    assert (come.old_digest, come.new_size) == (None, 3)
    assert (moved.before, moved.old_digest) == ("sub/d.bin", moved.new_digest)
    # the reverse comparison gives the reverse changes
    assert kinds_and_paths(changes_between(scripted_lab, *reversed(sides))) == [
        ("added", "a.bin"),
        ("changed", "b.bin"),
        ("metadata", "c.bin"),
        ("removed", "e.bin"),
        ("moved", "sub/d.bin"),
    ]
    assert changes_between(scripted_lab, sides[0], sides[0]) == []


def test_equal_files_are_paired_by_name_and_the_rest_was_added_or_removed(
    scripted_lab: LabStore, source: ScriptedSource
) -> None:
    same = ScriptedFile(b"same bytes")
    old = ScriptedDataset(dict.fromkeys(("x/1.bin", "x/2.bin", "x/3.bin"), same) | files("keep"))
    new = ScriptedDataset(dict.fromkeys(("y/3.bin", "y/1.bin"), same) | files("keep"))
    found = changes_between(scripted_lab, *sync_two_states(scripted_lab, source, old, new))
    assert [(one.kind, one.before, one.path) for one in found if one.kind == "moved"] == [
        ("moved", "x/1.bin", "y/1.bin"),
        ("moved", "x/2.bin", "y/3.bin"),
    ]
    assert [one.path for one in found if one.kind == "removed"] == ["x/3.bin"]


def test_documents_are_reported_but_not_what_a_mirror_adds(
    scripted_lab: LabStore, source: ScriptedSource
) -> None:
    old = ScriptedDataset(
        files("a.bin"), [Document(b"same.json", b"{}"), Document(b"old.json", b"{}")]
    )
    new = ScriptedDataset(
        files("a.bin"), [Document(b"same.json", b"[]"), Document(b"new.json", b"{}")]
    )
    found = changes_between(scripted_lab, *sync_two_states(scripted_lab, source, old, new))
    assert [(one.kind, one.path, one.message) for one in found] == [
        ("document", "new.json", "added"),
        ("document", "old.json", "removed"),
        ("document", "same.json", "changed"),
    ]


def zarr(name: str, *chunks: int) -> dict[str, ScriptedFile]:
    return files(f"{name}/.zarray", *(f"{name}/{number}" for number in chunks))


def test_subdatasets_are_one_line_each_or_compared_recursively(
    scripted_lab: LabStore, source: ScriptedSource
) -> None:
    old = ScriptedDataset(
        files("x.bin") | zarr("one.zarr", *range(8)) | zarr("gone.zarr", *range(6))
    )
    new = ScriptedDataset(
        files("x.bin") | zarr("one.zarr", *range(1, 9)) | zarr("new.zarr", *range(7))
    )
    sides = sync_two_states(scripted_lab, source, old, new)
    found = changes_between(scripted_lab, *sides)
    assert [(one.kind, one.path, one.files) for one in found] == [
        ("removed", "gone.zarr", 7),
        ("added", "new.zarr", 8),
        ("changed", "one.zarr", 9),
    ]
    assert all(str(one.old_digest or one.new_digest).startswith("sha256:") for one in found)
    counts = ChangeCounts()
    for one in found:
        counts.add(one)
    assert (sum(counts.files.values()), counts.subdatasets["changed"]) == (0, 1)
    opened = changes_between(scripted_lab, *sides, recursive=True)
    assert opened[:3] == found
    assert kinds_and_paths(opened[3:]) == [("removed", "one.zarr/0"), ("added", "one.zarr/8")]


def test_a_clone_is_compared_by_its_keys(
    scripted_lab: LabStore, source: ScriptedSource, tmp_path: Path
) -> None:
    old = ScriptedDataset(
        files("a.bin", "b.bin") | zarr("one.zarr", *range(8)) | zarr("huge.zarr", *range(20))
    )
    new = ScriptedDataset(
        {
            **old.files,
            "b.bin": ScriptedFile(b"other", at(1)),
            "a.bin": ScriptedFile(b"a.bin", at(1)),
        }
    )
    sides = sync_two_states(scripted_lab, source, old, new)
    folder = clone_dataset(
        scripted_lab.mirror_harness,
        NAME,
        tmp_path / "clone",
        scripted_lab.labels(NAME, "observed")[0],
    )
    here = clone_of(folder)
    assert (
        changes_between(scripted_lab, here, sides[0])
        == changes_between(scripted_lab, sides[0], here)
        == []
    )
    # git has no record of the changed time of a.bin
    assert kinds_and_paths(changes_between(scripted_lab, here, sides[1])) == [("changed", "b.bin")]
    assert kinds_and_paths(changes_between(scripted_lab, *sides)) == [
        ("metadata", "a.bin"),
        ("changed", "b.bin"),
    ]
    assert changes_between(scripted_lab, here, clone_of(folder)) == []
    # the chunks of a huge Zarr are in git on neither side
    for name in ("one.zarr", "huge.zarr"):
        (folder / name).rmdir()
        clone_dataset(scripted_lab.mirror_harness, f"{NAME}/{name}", folder / name)
    assert (
        changes_between(
            scripted_lab, clone_of(folder / "huge.zarr"), side(scripted_lab, f"{NAME}/huge.zarr")
        )
        == []
    )
    run_git(folder, "rm", "-q", "a.bin")
    run_git(folder, "commit", "-qm", "less")
    assert kinds_and_paths(changes_between(scripted_lab, clone_of(folder), sides[0])) == [
        ("added", "a.bin")
    ]


def test_any_two_versions_differ_by_what_came_between_them(
    scripted_lab: LabStore, source: ScriptedSource
) -> None:
    # records of more than a megabyte are stored as differences
    folder = "/".join([50 * "long-"] * 3)
    names = [f"{folder}/{number:04}.bin" for number in range(1000)]
    whole = files(*names)
    for day in range(5):
        changed = dict(whole)
        changed[names[day]] = ScriptedFile(b"other", at(day + 1))
        changed.pop(names[day + 10])
        changed[f"new-{day % 2}.bin"] = ScriptedFile(b"new %d" % (day // 2), at(day + 1))
        source.scripted_datasets["a"] = ScriptedDataset(changed)
        scripted_lab.mirror_harness.sync()
    sides = [
        side(scripted_lab, f"{NAME}@{label}") for label in scripted_lab.labels(NAME, "observed")
    ]
    assert len(sides) == 5
    stored_differences = 0
    for old, new in product(sides[::2], sides[1::2]):
        for pair in ((old, new), (new, old)):
            stored_differences += pair[1].changes_since(pair[0].commit) is not None
            read_whole = msgspec.structs.replace(pair[1], changes_since=lambda _: None)
            found = changes_between(scripted_lab, *pair)
            assert found == changes_between(scripted_lab, pair[0], read_whole)
    assert stored_differences == 12
