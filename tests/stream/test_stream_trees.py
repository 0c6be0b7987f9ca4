"""A version has the same files from the store, from a lock file and from a clone."""

import hashlib
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from neuromirror.lab import load_lock
from neuromirror.lab.lock_manifests import LockManifestDamagedError, PinnedState
from neuromirror.model import NeuromirrorError
from neuromirror.stream import VersionTree, open, open_tree, remote_trees
from neuromirror.stream.remote_trees import LockListing
from neuromirror.volume import open_zarr
from support.mirror_harness import MirrorHarness
from support.pinned_locks import pin_latest
from support.streamed_zarrs import StreamedZarrs

NWB = "sub-101/sub-101_ses-01_ecephys.nwb"


def walk(tree: VersionTree, folder: str = "") -> Iterator[str]:
    for entry in tree.entries(folder) or ():
        path = f"{folder}/{entry.name}".strip("/")
        if entry.is_folder:
            yield from walk(tree, path)
        else:
            yield path


def described(tree: VersionTree) -> dict[str, object]:
    """Return what a tree knows of each file."""
    found: dict[str, object] = {}
    for path in walk(tree):
        file = tree.file(path)
        if file is None:
            found[path] = tree.document(path)
        else:
            # identical files share the URLs that git-annex knows
            found[path] = (file.path, file.key, file.digest, file.size, bool(file.urls))
    return found


def test_a_lock_file_has_the_files_of_its_version(
    demo_harness: MirrorHarness, tmp_path: Path
) -> None:
    lock = pin_latest(demo_harness, tmp_path / "datasets.lock", "demo:000005")
    assert described(open_tree(lock)) == described(
        open_tree("demo:000005", store=demo_harness.folder)
    )


def test_several_pins_are_folders_of_a_lock_file(
    demo_harness: MirrorHarness, tmp_path: Path
) -> None:
    lock = pin_latest(demo_harness, tmp_path / "a.lock", "demo:000001", "demo:000005")
    tree = open_tree(lock)
    assert [entry.name for entry in tree.entries("") or ()] == ["demo:000001", "demo:000005"]
    assert tree.file(f"demo:000001/{NWB}") is not None
    assert tree.file(NWB) is None
    assert tree.entries("demo:000003") is None


def test_a_clone_has_the_files_of_its_commit(demo_harness: MirrorHarness, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(
        ["git", "clone", "-q", str(demo_harness.repository("demo:000001")), str(clone)], check=True
    )
    assert described(open_tree(clone)) == described(
        open_tree("demo:000001", store=demo_harness.folder)
    )


def git(folder: Path, *arguments: str, stdin: bytes | None = None) -> bytes:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, check=True).stdout


def test_a_zarr_in_a_subdataset_is_followed(
    subdataset_mirror: MirrorHarness, demo_harness: MirrorHarness, tmp_path: Path
) -> None:
    own = "dataset.json", "assets.jsonl", ".datalad", ".git", ".neuromirror"
    inline = described(open_tree("demo:000005", store=demo_harness.folder))
    expected = {path: one for path, one in inline.items() if not any(x in path for x in own)}
    lock = pin_latest(subdataset_mirror, tmp_path / "datasets.lock", "demo:000005")
    for tree in (open_tree("demo:000005", store=subdataset_mirror.folder), open_tree(lock)):
        found = described(tree)
        assert {path: found.get(path) for path in expected} == expected


def test_content_of_a_clone_is_read_there_and_verified(
    demo_harness: MirrorHarness, tmp_path: Path
) -> None:
    clone = tmp_path / "clone"
    repository = str(demo_harness.repository("demo:000001"))
    subprocess.run(["git", "clone", "-q", repository, str(clone)], check=True)
    subprocess.run(["git", "-C", str(clone), "annex", "get", "-q", NWB], check=True)
    tree = open_tree(clone)
    file = tree.file(NWB)
    assert file is not None
    path = tree.local_content(file)
    assert path is not None
    right = path.read_bytes()
    assert f"sha256:{hashlib.sha256(right).hexdigest()}" == file.digest
    path.chmod(0o644)
    path.write_bytes(b"?" + right[1:])
    with open(tree, NWB) as opened:
        assert opened.read() == right


@pytest.mark.parametrize("name", ["dandiset.yaml", NWB, ""])
def test_objects_of_a_clone_are_hashed(
    demo_harness: MirrorHarness, tmp_path: Path, name: str
) -> None:
    """A received clone has other objects under the ids that its commit names."""
    clone, pack = tmp_path / "clone", tmp_path / "moved.pack"
    repository = str(demo_harness.repository("demo:000001"))
    subprocess.run(["git", "clone", "-q", repository, str(clone)], check=True)
    git_dir = clone / ".git"
    for path in (git_dir / "objects" / "pack").glob("*.pack"):
        path.rename(pack)
        git(clone, "unpack-objects", "-q", stdin=pack.read_bytes())
    sha = git(clone, "rev-parse", f"HEAD:{name}").decode().strip()
    kind = git(clone, "cat-file", "-t", sha).decode().strip()
    old, new = {
        "dandiset.yaml": (b"name", b"game"),
        NWB: (b"SHA256E-s", b"SHA256E-s1"),
        "": (b"dandiset.yaml", b"dandiset.yamL"),
    }[name]
    content = git(clone, "cat-file", kind, sha)
    assert old in content
    content = content.replace(old, new)
    forged = git_dir / "objects" / sha[:2] / sha[2:]
    forged.chmod(0o644)
    forged.write_bytes(zlib.compress(b"%s %d\0%s" % (kind.encode(), len(content), content)))
    with pytest.raises(NeuromirrorError, match=f"{sha} does not match its id"):
        described(open_tree(clone))


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
    path, pinned = lock.manifest_path(pin), PinnedState.of_pin(lock, pin)
    expected = LockListing(pinned).documents
    (kept,) = cache.iterdir()
    content = kept.read_bytes()
    for damaged in (b"", content[:-3], content[: len(content) // 2], b"\0" * 100):
        kept.write_bytes(damaged)
        assert LockListing(pinned).documents == expected
    manifest = bytearray(path.read_bytes())
    manifest[len(manifest) // 2] ^= 1
    path.write_bytes(manifest)
    with pytest.raises(LockManifestDamagedError):
        LockListing(pinned)
