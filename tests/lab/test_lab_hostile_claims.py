"""Lock files, commits and repositories with false claims."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from neuromirror.annex import link_target
from neuromirror.lab.lock_manifests import LockManifestDamagedError, LockManifestReader
from neuromirror.lab.lockfile import LockUnusableError, Pin, ResolvedVersion, dump_lock, load_lock
from neuromirror.transfer import get
from support.crafted_repositories import (
    FILE,
    KEY,
    LINK,
    CraftedRepository,
    file_at,
    state_of,
    write_lock,
)
from support.dataset_clones import failures, verify_all
from support.lock_folders import PUBLISHED, LockFolder, RestoreResult, restore_lock
from support.mirror_harness import run_git

WRONG = "sha256:" + "0" * 64


def restore_crafted(
    honest: LockFolder, folder: Path, files: Sequence[tuple[str, bytes]], listed: Sequence[int]
) -> RestoreResult:
    """Return the result for a dataset of files ``x0``, ``x1``, …, each a mode and a content.

    ``listed`` are the numbers of those in the lock's state.
    """
    pinned = honest.pin_of(PUBLISHED)
    name = f"{pinned.commit}:.neuromirror/dataset.json"
    description = msgspec.json.decode(
        run_git(honest.mirror_harness.repository(PUBLISHED), "show", name)
    )
    crafted = CraftedRepository(folder / "crafted.git", description)
    state = state_of(*(file_at(f"x{number}") for number in listed))
    entries = [
        (mode, b"x%d" % number, crafted.blob(content))
        for number, (mode, content) in enumerate(files)
    ]
    tree = crafted.tree(crafted.description_entry(state), *entries)
    commit = crafted.commit(tree)
    path = folder / "paper" / "datasets.lock"
    crafted.bundle(path.parent / f"datasets.lock.d/demo--000002/{commit}.bundle", commit)
    lock = write_lock(path, pinned, commit=commit, tree=tree, state=state, files=len(listed))
    return restore_lock(lock, folder / "paper" / "data", offline=True)


@pytest.mark.parametrize("where", ["../../other/", "absolute", "other hash", "../", "below/"])
def test_a_link_to_other_bytes_of_the_same_key_is_not_restored(
    lock_template: LockFolder, tmp_path: Path, where: str
) -> None:
    """The key's own bytes would be fetched and verified, while other bytes are read at the path."""
    target = link_target(KEY, b"x0")
    if where == "absolute":
        target = os.fsencode(tmp_path) + b"/paper/other/" + target
    elif where == "other hash":
        target = f".git/annex/objects/ab/cd/{KEY}/{KEY}".encode()
    else:
        target = where.encode() + target
    done = restore_crafted(lock_template, tmp_path, [(LINK, target)], [0])
    assert done.only().status == "error", done.only().message
    assert not done.folder(PUBLISHED).exists()


POINTERS = [
    (FILE, f"/annex/objects/{KEY}\n".encode()),
    ("100755", f"/annex/objects/{KEY}".encode()),
    (FILE, f"../.git/annex/objects/a/b/{KEY}/{KEY}\r\nmore".encode()),
]


def test_pointer_files_are_in_the_state(lock_template: LockFolder, tmp_path: Path) -> None:
    """git-annex gets the content of unlocked files too."""
    for number, pointer in enumerate(POINTERS):
        done = restore_crafted(lock_template, tmp_path / str(number), [pointer], [])
        assert done.only().status == "error", pointer
    done = restore_crafted(lock_template, tmp_path / "all", POINTERS, range(len(POINTERS)))
    assert done.only().status == "ok", done.only().message


def test_files_that_are_no_pointers_are_not_in_the_state(
    lock_template: LockFolder, tmp_path: Path
) -> None:
    contents = (b"", b"/annex/objects/", b"/annex/objects/no key\n", KEY.encode())
    done = restore_crafted(lock_template, tmp_path, [(FILE, content) for content in contents], [])
    assert done.only().status == "ok", done.only().message


def test_content_in_another_repository_is_not_what_get_got(
    lock_template: LockFolder, tmp_path: Path
) -> None:
    done = restore_crafted(lock_template, tmp_path, [(LINK, link_target(KEY, b"x0"))], [0])
    assert done.only().status == "ok", done.only().message
    folder = done.folder(PUBLISHED)
    content = folder / os.fsdecode(link_target(KEY, b"x0"))
    content.parent.mkdir(parents=True)
    content.write_bytes(b"x")
    other = tmp_path / "other" / os.fsdecode(link_target(KEY, b"x0"))
    other.parent.mkdir(parents=True)
    other.write_bytes(b"y")
    assert {one.status for one in get(folder)} <= {"ok", "notneeded"}
    (folder / "x0").unlink()
    (folder / "x0").symlink_to(other)
    assert [(one.status, Path(one.path).name) for one in get(folder) if one.failed] == [
        ("impossible", "x0")
    ]


def with_changes(honest: LockFolder, folder: Path, **changes: Any) -> LockFolder:
    paper = honest.copy(folder)
    (pin,) = paper.lock.datasets
    false = msgspec.structs.replace(pin, **changes)
    paper.file.write_bytes(dump_lock(msgspec.structs.replace(paper.lock, datasets=(false,))))
    return paper


def false_claims(pin: Pin) -> dict[str, dict[str, Any]]:
    resolved = pin.resolved
    return {
        "metadata": {"metadata": WRONG},
        "version": {"resolved": ResolvedVersion("9.9", resolved.doi)},
        "doi": {"resolved": ResolvedVersion(resolved.version, "10.9999/other")},
        "no doi": {"resolved": ResolvedVersion(resolved.version)},
        "name": {"name": "demo:000001"},
    }


@pytest.mark.parametrize("what", ["metadata", "version", "doi", "no doi", "name"])
def test_a_lock_that_contradicts_its_commit_is_refused(
    lock_template: LockFolder, restored_lock_folder: LockFolder, tmp_path: Path, what: str
) -> None:
    true = lock_template.pin_of(PUBLISHED)
    paper = with_changes(lock_template, tmp_path / "false", **false_claims(true)[what])
    done = restore_lock(paper.lock, tmp_path / "data", offline=True).only()
    assert done.status == "error", done.message
    assert not (tmp_path / "data" / "demo--000002").exists()
    # another strategy does not change the result
    restored = restored_lock_folder.folder / "data"
    (false,) = paper.lock.datasets
    (restored / "demo--000002").rename(restored / false.dataset.alias)
    found = verify_all(paper.file, within=restored, allow_missing=True)
    assert ("lock", ".", "error") in failures(found)


def test_a_pipe_instead_of_a_manifest_does_not_block(
    lock_template: LockFolder, tmp_path: Path
) -> None:
    paper = lock_template.copy(tmp_path / "paper")
    manifest = paper.lock.manifest_path(paper.pin_of(PUBLISHED))
    manifest.unlink()
    os.mkfifo(manifest)
    with pytest.raises(LockManifestDamagedError):
        LockManifestReader(manifest)
    assert ("manifest", ".", "error") in failures(verify_all(paper.file, within=tmp_path))
    paper.pin(PUBLISHED)
    assert manifest.is_file()


def test_a_pipe_or_an_endless_file_is_not_read_as_a_lock(tmp_path: Path) -> None:
    pipe = tmp_path / "datasets.lock"
    os.mkfifo(pipe)
    with pytest.raises(LockUnusableError):
        load_lock(pipe)
    sparse = tmp_path / "sparse.lock"
    with sparse.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(LockUnusableError):
        load_lock(sparse)
