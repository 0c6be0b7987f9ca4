"""Large manifests of lock files are verified once, and then looked up without reading them."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuromirror.lab import load_lock
from neuromirror.lab.lock_manifests import LockManifestDamagedError
from neuromirror.stream import VersionTree, open_tree, remote_trees
from neuromirror.stream.remote_trees import LockListing
from neuromirror.volume import open_zarr
from support.pinned_locks import pin_latest
from support.streamed_zarrs import StreamedZarrs


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder; every manifest counts as large."""
    monkeypatch.setenv("NEUROMIRROR_CACHE", str(tmp_path / "pieces"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remote_trees, "_LARGE", 1)
    return tmp_path / "cache" / "neuromirror" / "listings"


def _pin(zarrs: StreamedZarrs, folder: Path, form: str) -> Path:
    folder.mkdir()
    return pin_latest(zarrs.harnesses[form], folder / "datasets.lock", f"demo:{zarrs.dandiset}")


def _described(tree: VersionTree, folder: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for entry in tree.entries(folder) or ():
        path = f"{folder}/{entry.name}".strip("/")
        if entry.is_folder:
            found.update(_described(tree, path))
        else:
            found[path] = tree.document(path) or tree.file(path)
    return found


@pytest.mark.parametrize("form", ["inline", "manifest"])
def test_kept_listing_equals_the_manifest(
    zarrs: StreamedZarrs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, cache: Path
) -> None:
    lock = _pin(zarrs, tmp_path / "paper", form)
    trees = []
    for value in ("off", str(tmp_path / "pieces"), str(tmp_path / "pieces")):
        monkeypatch.setenv("NEUROMIRROR_CACHE", value)
        tree = open_tree(lock)
        trees.append(_described(tree))
        assert tree.file("nowhere") is None
        assert tree.entries("nowhere") is None
        tree.close()
    assert len(trees[0]) > 80
    assert trees[0] == trees[1] == trees[2]
    kept = len([*cache.iterdir()])
    assert kept == (1 if form == "inline" else 3)  # one per dataset
    opened = open_zarr(lock, zarrs.path(3))
    assert set(opened) >= {"0", "1", "10"}
    assert len([*cache.iterdir()]) == kept


def test_damaged_or_foreign_listing_is_not_used(
    zarrs: StreamedZarrs, tmp_path: Path, cache: Path
) -> None:
    lock = load_lock(_pin(zarrs, tmp_path / "paper", "inline"))
    (pin,) = lock.datasets
    path = lock.manifest_path(pin)
    expected = LockListing(path, pin.commit, pin.state).documents
    (kept,) = cache.iterdir()
    content = kept.read_bytes()
    for damaged in (b"", content[:-3], content[: len(content) // 2], b"\0" * 100):
        kept.write_bytes(damaged)
        assert LockListing(path, pin.commit, pin.state).documents == expected
    manifest = bytearray(path.read_bytes())
    manifest[len(manifest) // 2] ^= 1
    path.write_bytes(manifest)
    with pytest.raises(LockManifestDamagedError):
        LockListing(path, pin.commit, pin.state)
    with pytest.raises(LockManifestDamagedError):
        LockListing(path, "0" * 40, pin.state)
