"""Lock files, commits and repositories with false claims."""

from __future__ import annotations

import os
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
    honest: LockFolder, folder: Path, target: bytes, mode: str = LINK, *listed: str
) -> RestoreResult:
    """Return the result for a dataset whose only file ``x`` is a link to ``target``.

    With another ``mode`` it is a file of that content; ``listed`` is what the lock's state has.
    """
    pinned = honest.pin_of(PUBLISHED)
    name = f"{pinned.commit}:.neuromirror/dataset.json"
    description = msgspec.json.decode(
        run_git(honest.mirror_harness.repository(PUBLISHED), "show", name)
    )
    crafted = CraftedRepository(folder / "crafted.git", description)
    files = [file_at(name) for name in (listed if mode != LINK else ("x",))]
    state = state_of(*files)
    tree = crafted.tree(crafted.description_entry(state), (mode, b"x", crafted.blob(target)))
    commit = crafted.commit(tree)
    path = folder / "paper" / "datasets.lock"
    crafted.bundle(path.parent / f"datasets.lock.d/demo--000002/{commit}.bundle", commit)
    lock = write_lock(path, pinned, commit=commit, tree=tree, state=state, files=len(files))
    return restore_lock(lock, folder / "paper" / "data", offline=True)


@pytest.mark.parametrize("where", ["../../other/", "absolute", "other hash", "../", "below/"])
def test_a_link_to_other_bytes_of_the_same_key_is_not_restored(
    lock_template: LockFolder, tmp_path: Path, where: str
) -> None:
    """The key's own bytes would be fetched and verified, while other bytes are read at the path."""
    target = link_target(KEY, b"x")
    if where == "absolute":
        target = os.fsencode(tmp_path) + b"/paper/other/" + target
    elif where == "other hash":
        target = f".git/annex/objects/ab/cd/{KEY}/{KEY}".encode()
    else:
        target = where.encode() + target
    done = restore_crafted(lock_template, tmp_path, target)
    assert done.only().status == "error", done.only().message
    assert not done.folder(PUBLISHED).exists()


@pytest.mark.parametrize(
    ("content", "mode"),
    [
        (f"/annex/objects/{KEY}\n", FILE),
        (f"/annex/objects/{KEY}", "100755"),
        (f"../.git/annex/objects/a/b/{KEY}/{KEY}\r\nmore", FILE),
    ],
)
def test_a_pointer_file_is_in_the_state(
    lock_template: LockFolder, tmp_path: Path, content: str, mode: str
) -> None:
    """git-annex gets the content of unlocked files too."""
    done = restore_crafted(lock_template, tmp_path / "without", content.encode(), mode)
    assert done.only().status == "error", done.only().message
    done = restore_crafted(lock_template, tmp_path / "with", content.encode(), mode, "x")
    assert done.only().status == "ok", done.only().message


@pytest.mark.parametrize("content", ["", "/annex/objects/", "/annex/objects/no key\n", KEY])
def test_a_file_that_is_no_pointer_is_not_in_the_state(
    lock_template: LockFolder, tmp_path: Path, content: str
) -> None:
    done = restore_crafted(lock_template, tmp_path, content.encode(), FILE)
    assert done.only().status == "ok", done.only().message


def test_content_in_another_repository_is_not_what_get_got(
    lock_template: LockFolder, tmp_path: Path
) -> None:
    done = restore_crafted(lock_template, tmp_path, link_target(KEY, b"x"))
    assert done.only().status == "ok", done.only().message
    folder = done.folder(PUBLISHED)
    content = folder / os.fsdecode(link_target(KEY, b"x"))
    content.parent.mkdir(parents=True)
    content.write_bytes(b"x")
    other = tmp_path / "other" / os.fsdecode(link_target(KEY, b"x"))
    other.parent.mkdir(parents=True)
    other.write_bytes(b"y")
    assert {one.status for one in get(folder)} <= {"ok", "notneeded"}
    (folder / "x").unlink()
    (folder / "x").symlink_to(other)
    assert [(one.status, Path(one.path).name) for one in get(folder) if one.failed] == [
        ("impossible", "x")
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
    lock_template: LockFolder, tmp_path: Path, what: str
) -> None:
    true = lock_template.pin_of(PUBLISHED)
    paper = with_changes(lock_template, tmp_path / "paper", **false_claims(true)[what])
    done = restore_lock(paper.lock, tmp_path / "data", offline=True).only()
    assert done.status == "error", done.message
    assert not (tmp_path / "data" / "demo--000002").exists()
    # another strategy does not change the result
    restored = restore_lock(lock_template.lock, tmp_path / "data", offline=True).folder(PUBLISHED)
    (false,) = paper.lock.datasets
    restored.rename(restored.with_name(false.dataset.alias))
    found = verify_all(paper.file, within=tmp_path / "data", allow_missing=True)
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
