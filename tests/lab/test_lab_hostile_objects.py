"""Malformed git objects are rejected for every strategy, and nothing is written."""

import hashlib
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from neuromirror.lab.cite import states_of_lock
from neuromirror.lab.lock_manifests import ListedSubdataset, LockManifestHead, LockManifestWriter
from neuromirror.lab.lockfile import Lock, Pin
from neuromirror.model import NeuromirrorError
from neuromirror.store import SafeFolder
from support.crafted_repositories import (
    FILE,
    FOLDER,
    LINK,
    SUBDATASET,
    CraftedRepository,
    Entry,
    file_at,
    state_of,
    write_lock,
)
from support.lock_folders import PUBLISHED, LockFolder, restore_lock, run


@pytest.fixture(scope="session")
def valid_pin(lock_template: LockFolder) -> Pin:
    """A valid pin."""
    return lock_template.pin_of(PUBLISHED)


@pytest.fixture
def crafted_repository(description: dict[str, Any], tmp_path: Path) -> CraftedRepository:
    return CraftedRepository(tmp_path / "crafted.git", description)


def test_a_dataset_of_raw_objects_comes_back(
    crafted_repository: CraftedRepository, valid_pin: Pin, tmp_path: Path
) -> None:
    """The valid repository, which the other tests change."""
    lock = tmp_path / "paper" / "datasets.lock"
    state = state_of(file_at("x"))
    tree = crafted_repository.tree(
        crafted_repository.description_entry(state), (LINK, b"x", crafted_repository.link())
    )
    commit = crafted_repository.commit(tree)
    crafted_repository.bundle(lock.parent / f"datasets.lock.d/demo--000002/{commit}.bundle", commit)
    written = write_lock(lock, valid_pin, commit=commit, tree=tree, state=state, files=1)
    done = restore_lock(written, tmp_path / "data", offline=True).only()
    assert done.status == "ok", done.message
    assert (tmp_path / "data" / "demo--000002" / "x").is_symlink()


def test_a_duplicate_entry_puts_no_subdataset_outside(
    crafted_repository: CraftedRepository, valid_pin: Pin, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    lock = tmp_path / "paper" / "datasets.lock"
    bundles = lock.parent / "datasets.lock.d/demo--000002"
    empty = state_of()
    inner = crafted_repository.commit(
        crafted_repository.tree(crafted_repository.description_entry(empty))
    )
    crafted_repository.bundle(bundles / f"{inner}.bundle", inner)
    link = crafted_repository.link("../../victim/")
    (
        victim / Path(crafted_repository.git("cat-file", "blob", link)).relative_to("../../victim")
    ).mkdir(parents=True)
    before = sorted(victim.rglob("*"))
    part = {"id": valid_pin.dataset_id, "local-id": "1", "state": empty, "files": 0, "bytes": 0}
    listed = [
        file_at("x"),
        ListedSubdataset("x/sub", valid_pin.dataset_id, "demo:1", inner, empty, 0, 0),
    ]
    entries = [
        (LINK, b"x", link),
        (FOLDER, b"x", crafted_repository.tree((SUBDATASET, b"sub", inner))),
    ]
    for order in (1, -1):
        # the state of the files in git, in the order of the tree
        state = state_of(*listed[::order])
        tree = crafted_repository.tree(
            crafted_repository.description_entry(state, {"x/sub": part}), *entries[::order]
        )
        commit = crafted_repository.commit(tree)
        crafted_repository.bundle(bundles / f"{commit}.bundle", commit)
        written = write_lock(lock, valid_pin, commit=commit, tree=tree, state=state, files=1)
        done = restore_lock(written, tmp_path / "data", offline=True).only()
        assert sorted(victim.rglob("*")) == before
        assert done.status == "error", done.message
        assert not (tmp_path / "data" / "demo--000002").exists()


def _entries(crafted: CraftedRepository) -> dict[str, list[Entry]]:
    """Hostile entries of a root tree before the file ``x``, by their names in the test."""
    blob, link = crafted.blob(b"hostile\n"), crafted.link()
    inner = crafted.tree((FILE, b"hooks", blob))
    modules = crafted.blob(b'[submodule "x"]\n\tpath = x\n\turl = --upload-pack=touch /tmp/owned\n')
    climbing = crafted.blob(
        b'[submodule "../../modules/x"]\n\tpath = x\n\turl = https://a.invalid/\n'
    )
    commanded = crafted.blob(
        b'[submodule "x"]\n\tpath = x\n\turl = https://a.invalid/\n\tupdate = !touch /tmp/owned\n'
    )
    return {
        "repeated": [(FILE, b"a", blob), (FILE, b"a", link)],
        "repeated as a folder": [(FILE, b"a", blob), (FOLDER, b"a", inner)],
        "two folders": [(FOLDER, b"a", inner), (FOLDER, b"a", crafted.tree((FILE, b"z", blob)))],
        "unsorted": [(FILE, b"c", blob), (FILE, b"b", blob)],
        "parent": [(FOLDER, b"..", inner)],
        "dot": [(FOLDER, b".", inner)],
        "git": [(FOLDER, b".git", inner)],
        "GIT": [(FOLDER, b".GIT", inner)],
        "git~1": [(FOLDER, b"git~1", inner)],
        "git with a joiner": [(FOLDER, b".g\xe2\x80\x8cit", inner)],
        "git with a dot": [(FOLDER, b".git.", inner)],
        "slash": [(FILE, b"a/b", blob)],
        "no name": [(FILE, b"", blob)],
        "modules that are a link": [(LINK, b".gitmodules", link)],
        "modules with an option": [(FILE, b".gitmodules", modules)],
        "modules that climb": [(FILE, b".gitmodules", climbing)],
        "modules with a command": [(FILE, b".gitmodules", commanded)],
    }


def _hostile(crafted: CraftedRepository, entries: list[Entry]) -> tuple[str, str, str]:
    """Return commit, tree and state of a dataset with the only file ``x``."""
    state = state_of(file_at("x"))
    # a name that sorts before .neuromirror
    early = [entry for entry in entries if entry[1] < b".n"]
    late = [entry for entry in entries if entry not in early]
    link = (LINK, b"x", crafted.link())
    tree = crafted.tree(*early, crafted.description_entry(state), *late, link)
    return crafted.commit(tree), tree, state


@pytest.mark.parametrize("transport", ["bundle", "clone"])
def test_malformed_objects_are_refused(
    crafted_repository: CraftedRepository,
    valid_pin: Pin,
    tmp_path: Path,
    serve_directory: Callable[[Path], str],
    transport: str,
) -> None:
    clone = (f"{serve_directory(tmp_path)}/crafted.git",)
    for name, entries in _entries(crafted_repository).items():
        if (name, transport) == ("no name", "bundle"):
            continue  # git cannot write a bundle of these objects
        commit, tree, state = _hostile(crafted_repository, entries)
        pinned = {"commit": commit, "tree": tree, "state": state, "files": 1}
        path = tmp_path / "paper" / "datasets.lock"
        if transport == "bundle":
            bundle = path.parent / f"datasets.lock.d/demo--000002/{commit}.bundle"
            crafted_repository.bundle(bundle, commit)
            lock = write_lock(path, valid_pin, **pinned)
        else:
            crafted_repository.refs(commit)
            crafted_repository.git("update-server-info")
            lock = write_lock(path, valid_pin, **pinned, clone=clone)
        found = restore_lock(lock, tmp_path / "data", offline=transport == "bundle")
        assert found.only().status == "error", name
        assert not found.folder(PUBLISHED).exists()
        if transport == "bundle":
            with ExitStack() as stack, pytest.raises(NeuromirrorError):
                states_of_lock(lock, None, stack)


def _varint(number: int, first: int = 0, bits: int = 7) -> bytes:
    """Encode a number as in packs; the first byte of an object header has its type too."""
    low, rest = number & ((1 << bits) - 1), number >> bits
    if not rest:
        return bytes([first | low])
    return bytes([first | low | 0x80]) + _varint(rest)


def _with_delta_bomb(bundle: bytes, size: int) -> bytes:
    """Add a delta to a bundle that expands an empty block to ``size`` bytes."""
    head, _, pack = bundle.partition(b"\n\n")
    block = bytes(1 << 16)
    sha = hashlib.sha1(b"blob %d\0" % len(block) + block, usedforsecurity=False).digest()
    # opcode 0x80 copies 64 KiB from the start
    delta = _varint(len(block)) + _varint(size) + b"\x80" * (size >> 16)
    plain = _varint(len(block), 3 << 4, 4) + zlib.compress(block)
    deltaed = _varint(len(delta), 7 << 4, 4) + sha + zlib.compress(delta)
    count = int.from_bytes(pack[8:12], "big") + 2
    pack = pack[:8] + count.to_bytes(4, "big") + pack[12:-20] + plain + deltaed
    return head + b"\n\n" + pack + hashlib.sha1(pack, usedforsecurity=False).digest()


def test_a_delta_bomb_is_refused(
    crafted_repository: CraftedRepository, valid_pin: Pin, tmp_path: Path
) -> None:
    path = tmp_path / "paper" / "datasets.lock"
    state = state_of(file_at("x"))
    tree = crafted_repository.tree(
        crafted_repository.description_entry(state), (LINK, b"x", crafted_repository.link())
    )
    commit = crafted_repository.commit(tree)
    bundle = path.parent / f"datasets.lock.d/demo--000002/{commit}.bundle"
    crafted_repository.bundle(bundle, commit)
    honest = bundle.read_bytes()
    pinned = {"commit": commit, "tree": tree, "state": state, "files": 1}
    bundle.write_bytes(_with_delta_bomb(honest, (2 << 30) + (1 << 20)))
    lock = write_lock(path, valid_pin, **pinned)
    assert restore_lock(lock, tmp_path / "bomb", offline=True).only().status == "error"
    assert not (tmp_path / "bomb" / "demo--000002").exists()
    bundle.write_bytes(_with_delta_bomb(honest, 1 << 20))
    lock = write_lock(path, valid_pin, **pinned)
    assert restore_lock(lock, tmp_path / "data", offline=True).only().status == "ok"


def test_attributes_of_others_start_no_filter_of_this_machine(
    crafted_repository: CraftedRepository, valid_pin: Pin, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    for name in ("clean", "smudge"):
        run(tmp_path, "git", "config", "--global", f"filter.mine.{name}", f"touch {marker}; cat")
    state = state_of(file_at("x"))
    tree = crafted_repository.tree(
        (FILE, b".gitattributes", crafted_repository.blob(b"* filter=mine\n")),
        crafted_repository.description_entry(state),
        (FILE, b"a", crafted_repository.blob(b"text")),
        (LINK, b"x", crafted_repository.link()),
    )
    commit = crafted_repository.commit(tree)
    path = tmp_path / "paper" / "datasets.lock"
    crafted_repository.bundle(path.parent / f"datasets.lock.d/demo--000002/{commit}.bundle", commit)
    lock = write_lock(path, valid_pin, commit=commit, tree=tree, state=state, files=1)
    for status in ("ok", "notneeded"):
        found = restore_lock(lock, tmp_path / "data", offline=True)
        assert found.only().status == status, found.only().message
    assert (found.folder(PUBLISHED) / "a").read_bytes() == b"text"
    assert not marker.exists()


_PROGRAM = b"#!/bin/sh\ntouch /tmp/owned\n"


def _modules(settings: str) -> bytes:
    return f'[submodule "x"]\n\tpath = x\n\turl = https://a.invalid/\n{settings}'.encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(
            (name, _PROGRAM)
            for name in (
                *(".git/hooks/post-checkout", ".GIT/config", "git~1/config", ".g\u200cit/config"),
                *("../a", "a/../../b", "/a", "a//b", "./a"),
            )
        ),
        (".gitmodules", _modules("\tupdate = !touch /tmp/owned\n")),
        (".gitmodules", _modules("\turl = --upload-pack=touch /tmp/owned\n")),
        (".gitmodules", _modules('[submodule "../../modules/x"]\n\tpath = y\n')),
        (".gitmodules", None),
    ],
)
def test_a_manifest_holds_no_hooks(
    crafted_repository: CraftedRepository,
    valid_pin: Pin,
    tmp_path: Path,
    name: str,
    content: bytes | None,
) -> None:
    """Add a plain file, or a link, of any name to a manifest with correct ids."""
    lock = _lock_with_manifest(crafted_repository, valid_pin, tmp_path, name, content)
    before = sorted(lock.path.parent.rglob("*"))
    found = restore_lock(lock, tmp_path / "data", offline=True)
    assert found.only().status == "error", found.only().message
    assert list(found.into.iterdir()) == []
    assert sorted(lock.path.parent.rglob("*")) == before


def test_a_manifest_holds_a_valid_commit(
    crafted_repository: CraftedRepository, valid_pin: Pin, tmp_path: Path
) -> None:
    """A commit object without an author has the pinned id, and git rejects it."""
    written = partial(_lock_with_manifest, crafted_repository, valid_pin, tmp_path, "a", b"text")
    found = restore_lock(written(), tmp_path / "data", offline=True)
    assert found.only().status == "ok", found.only().message
    found = restore_lock(written(author=False), tmp_path / "other", offline=True)
    assert found.only().status == "error", found.only().message
    assert list(found.into.iterdir()) == []


def _lock_with_manifest(
    crafted: CraftedRepository,
    pin: Pin,
    folder: Path,
    name: str,
    content: bytes | None,
    *,
    author: bool = True,
) -> Lock:
    """Write a lock file with a manifest of one plain file; without content, of one link."""
    state = state_of() if content is not None else state_of(file_at(name))
    parts = name.encode().split(b"/")
    inner = (FILE, parts[-1], crafted.blob(content or b""))
    if content is None:
        inner = (LINK, name.encode(), crafted.link())
    for part in reversed(parts[:-1]):
        inner = (FOLDER, part, crafted.tree(inner))
    described = crafted.description_entry(state)
    tree = crafted.tree(*sorted([inner, described], key=lambda one: one[1]))
    commit = crafted.commit(tree, state)
    text = crafted.git("cat-file", "commit", commit)
    if not author:
        text = "".join(line for line in text.splitlines(True) if not line.startswith("author "))
        commit = crafted.write("commit", text.encode())
    path = folder / "paper" / "datasets.lock"
    head = LockManifestHead(
        manifest=1,
        dataset=pin.name,
        dataset_id=pin.dataset_id,
        source=pin.source,
        version="1.0",
        commit=commit,
        tree=tree,
        state=state,
        form="files",
        commit_object=text,
    )
    manifests = path.parent / "datasets.lock.d" / "demo--000002"
    with (
        SafeFolder.open_path(manifests, create=True) as opened,
        LockManifestWriter(opened, f"{commit}.jsonl.zst", head) as writer,
    ):
        description = crafted.git("cat-file", "blob", f"{described[2]}:dataset.json")
        writer.add_plain(".neuromirror/dataset.json", description.encode())
        if content is None:
            writer.add(file_at(name))
        else:
            writer.add_plain(name, content)
        writer.finish()
    files = int(content is None)
    return write_lock(path, pin, commit=commit, tree=tree, state=state, bundle=None, files=files)
