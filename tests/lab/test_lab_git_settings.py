"""What git is told on the user's machine changes neither bytes nor what is read as the dataset."""

from __future__ import annotations

from pathlib import Path

from neuromirror.lab.verify import verify
from support.lock_folders import PUBLISHED, LockFolder, restore_lock, run


def problems(folder: Path) -> list[tuple[str, str]]:
    """Return what verification of a dataset without content finds."""
    found = verify(folder, allow_missing=True)
    return [(one.path, one.message) for one in found if one.status == "error"]


def test_a_sparse_checkout_is_verified_as_git_reads_it(
    lock_folder: LockFolder, tmp_path: Path
) -> None:
    restored = restore_lock(lock_folder.lock, tmp_path / "data")
    assert restored.only().status == "ok"
    folder = restored.folder(PUBLISHED)
    whole = sorted(map(str, verify(folder)))
    run(folder, "git", "sparse-checkout", "set", "--no-cone", "/.datalad/")
    assert not (folder / "dandiset.yaml").exists()
    assert run(folder, "git", "status", "--porcelain") == ""
    assert sorted(map(str, verify(folder))) == whole
    run(folder, "git", "sparse-checkout", "disable")
    (folder / "dandiset.yaml").unlink()
    assert [path for path, _ in problems(folder)] == ["dandiset.yaml"]
