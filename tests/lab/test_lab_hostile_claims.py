"""Locks, commits and repositories that claim more than is so."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from crawl_place import git
from lab_again import Lab
from lab_clones import failed, looked_at
from lab_hostile import FILE, KEY, LINK, Crafted, file_at, state_of, write_lock
from lab_pins import PUBLISHED, Paper, Restored, bring_back

from neuromirror.annex import link_target
from neuromirror.lab.get import get
from neuromirror.lab.lockfile import LockUnusable, Pin, Resolved, dump_lock, load_lock
from neuromirror.lab.manifests import ManifestDamaged, ManifestReader

WRONG = "sha256:" + "0" * 64


@pytest.fixture(scope="session")
def honest(still_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Paper:
    """A lock that says what is so."""
    paper = Paper(still_lab.place, tmp_path_factory.mktemp("honest"))
    paper.pin(PUBLISHED, bundle=True)
    return paper


def crafted_restore(
    honest: Paper, folder: Path, target: bytes, mode: str = LINK, *listed: str
) -> Restored:
    """What comes of a dataset whose one file ``x`` is a link to ``target``.

    With another ``mode`` it is a file of that content; ``listed`` is what the lock's state has.
    """
    pinned = honest.pinned(PUBLISHED)
    name = f"{pinned.commit}:.neuromirror/dataset.json"
    said = msgspec.json.decode(git(honest.place.repository(PUBLISHED), "show", name))
    crafted = Crafted(folder / "crafted.git", said)
    files = [file_at(name) for name in (listed if mode != LINK else ("x",))]
    state = state_of(*files)
    tree = crafted.tree(crafted.described(state), (mode, b"x", crafted.blob(target)))
    commit = crafted.commit(tree)
    path = folder / "paper" / "datasets.lock"
    crafted.bundle(path.parent / f"datasets.lock.d/demo--000002/{commit}.bundle", commit)
    lock = write_lock(path, pinned, commit=commit, tree=tree, state=state, files=len(files))
    return bring_back(lock, folder / "paper" / "data", offline=True)


@pytest.mark.parametrize("where", ["../../other/", "absolute", "other hash", "../", "below/"])
def test_a_link_to_other_bytes_of_the_same_key_is_not_restored(
    honest: Paper, tmp_path: Path, where: str
) -> None:
    """The key's own bytes would be got and proved, and others read at the path."""
    target = link_target(KEY, b"x")
    if where == "absolute":
        target = os.fsencode(tmp_path) + b"/paper/other/" + target
    elif where == "other hash":
        target = f".git/annex/objects/ab/cd/{KEY}/{KEY}".encode()
    else:
        target = where.encode() + target
    done = crafted_restore(honest, tmp_path, target)
    assert done.only().status == "error", done.only().message
    assert not done.folder(PUBLISHED).exists()


@pytest.mark.parametrize("mode", [FILE, "100755"])
@pytest.mark.parametrize(
    "content",
    [
        f"/annex/objects/{KEY}\n",
        f"/annex/objects/{KEY}",
        f"../.git/annex/objects/a/b/{KEY}/{KEY}\r\nmore",
    ],
)
def test_a_pointer_file_is_in_the_state(
    honest: Paper, tmp_path: Path, content: str, mode: str
) -> None:
    """git-annex gets the content of an unlocked file as it does that of a link."""
    done = crafted_restore(honest, tmp_path / "without", content.encode(), mode)
    assert done.only().status == "error", done.only().message
    done = crafted_restore(honest, tmp_path / "with", content.encode(), mode, "x")
    assert done.only().status == "ok", done.only().message


@pytest.mark.parametrize("content", ["", "/annex/objects/", "/annex/objects/no key\n", KEY])
def test_a_file_that_is_no_pointer_is_not_in_the_state(
    honest: Paper, tmp_path: Path, content: str
) -> None:
    done = crafted_restore(honest, tmp_path, content.encode(), FILE)
    assert done.only().status == "ok", done.only().message


def test_content_in_another_repository_is_not_what_get_got(honest: Paper, tmp_path: Path) -> None:
    done = crafted_restore(honest, tmp_path, link_target(KEY, b"x"))
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


def changed(honest: Paper, folder: Path, **changes: Any) -> Paper:
    paper = honest.copied(folder)
    (pin,) = paper.lock.datasets
    false = msgspec.structs.replace(pin, **changes)
    paper.file.write_bytes(dump_lock(msgspec.structs.replace(paper.lock, datasets=(false,))))
    return paper


def lies(pin: Pin) -> dict[str, dict[str, Any]]:
    said = pin.resolved
    return {
        "metadata": {"metadata": WRONG},
        "version": {"resolved": Resolved("9.9", said.doi)},
        "doi": {"resolved": Resolved(said.version, "10.9999/other")},
        "no doi": {"resolved": Resolved(said.version)},
        "name": {"name": "demo:000001"},
    }


@pytest.mark.parametrize("what", ["metadata", "version", "doi", "no doi", "name"])
def test_a_lock_that_contradicts_its_commit_is_refused(
    honest: Paper, tmp_path: Path, what: str
) -> None:
    true = honest.pinned(PUBLISHED)
    paper = changed(honest, tmp_path / "paper", **lies(true)[what])
    done = bring_back(paper.lock, tmp_path / "data", offline=True).only()
    assert done.status == "error", done.message
    assert not (tmp_path / "data" / "demo--000002").exists()
    # a clone that came in another way does not make it true
    restored = bring_back(honest.lock, tmp_path / "data", offline=True).folder(PUBLISHED)
    (false,) = paper.lock.datasets
    restored.rename(restored.with_name(false.dataset.alias))
    found = looked_at(paper.file, within=tmp_path / "data", allow_missing=True)
    assert ("lock", ".", "error") in failed(found)


def test_a_pipe_in_the_place_of_a_manifest_keeps_nobody_waiting(
    honest: Paper, tmp_path: Path
) -> None:
    paper = honest.copied(tmp_path / "paper")
    manifest = paper.lock.manifest_path(paper.pinned(PUBLISHED))
    manifest.unlink()
    os.mkfifo(manifest)
    with pytest.raises(ManifestDamaged):
        ManifestReader(manifest)
    assert ("manifest", ".", "error") in failed(looked_at(paper.file, within=tmp_path))
    paper.pin(PUBLISHED)
    assert manifest.is_file()


def test_a_pipe_or_a_file_without_end_is_no_lock(tmp_path: Path) -> None:
    pipe = tmp_path / "datasets.lock"
    os.mkfifo(pipe)
    with pytest.raises(LockUnusable):
        load_lock(pipe)
    sparse = tmp_path / "sparse.lock"
    with sparse.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(LockUnusable):
        load_lock(sparse)
