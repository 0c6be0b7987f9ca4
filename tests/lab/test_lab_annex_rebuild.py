"""The git-annex branch of a manifest is the same from this process and from a worker process."""

from pathlib import Path

import pytest

from neuromirror.lab import rebuild
from neuromirror.lab.lock_manifests import LockManifestReader
from neuromirror.lab.rebuild import annex_branch_worker, write_annex_branch
from neuromirror.mint.annex_worker import AnnexWorkerError
from support.lock_folders import PUBLISHED, LockFolder, restore_lock, run


@pytest.fixture
def lock_folder(lock_folder: LockFolder) -> LockFolder:
    """A folder with a lock file and its manifest, without a bundle."""
    lock_folder.delete_files(".bundle")
    return lock_folder


@pytest.fixture
def manifest(lock_folder: LockFolder) -> Path:
    """The path of the manifest."""
    return lock_folder.lock.manifest_path(lock_folder.pin_of(PUBLISHED))


def _git_dir(folder: Path) -> Path:
    folder.mkdir()
    run(folder, "git", "init", "-q", "--bare")
    return folder


def test_a_worker_writes_the_same_branch(manifest: Path, tmp_path: Path) -> None:
    reader = LockManifestReader(manifest)
    own = write_annex_branch(reader, _git_dir(tmp_path / "own"))
    with annex_branch_worker(reader, _git_dir(tmp_path / "worker")) as worker:
        found = worker.result()
    assert found[1] is not None
    assert own[1] is not None
    assert (found[0], found[1].name, found[1].objects) == (own[0], own[1].name, own[1].objects)
    assert found[1].pack.is_relative_to(tmp_path / "worker")


def test_a_damaged_manifest_is_an_error_of_the_worker(manifest: Path, tmp_path: Path) -> None:
    reader = LockManifestReader(manifest)
    git_dir = _git_dir(tmp_path / "worker")
    manifest.write_bytes(manifest.read_bytes()[:-10])
    with (
        annex_branch_worker(reader, git_dir) as worker,
        pytest.raises(AnnexWorkerError, match="truncated"),
    ):
        worker.result()
    assert list((git_dir / "objects" / "pack").iterdir()) == []


def test_a_dataset_restored_by_two_processes_is_the_same(
    lock_folder: LockFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = set()
    for name, limit in (("one", 1 << 40), ("two", 0)):
        monkeypatch.setattr(rebuild, "_MIN_WORKER_BYTES", limit)
        found = restore_lock(lock_folder.lock, tmp_path / name, offline=True)
        assert found.only().status == "ok", found.only().message
        folder = found.folder(PUBLISHED)
        assert run(folder, "git", "fsck", "--strict", "--no-dangling", "--no-progress") == ""
        refs.add(run(folder, "git", "rev-parse", "HEAD", "git-annex"))
        # the next command of git-annex commits the record of this repository
        uuid = run(folder, "git", "config", "annex.uuid").strip()
        run(folder, "git", "annex", "describe", "here", "restored")
        assert f"{uuid} restored " in run(folder, "git", "show", "git-annex:uuid.log")
    assert len(refs) == 1
