"""What git is told on the user's machine changes neither bytes nor what is read as the dataset."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuromirror.lab.verify import verify
from support.lock_folders import PUBLISHED, LockFolder, restore_lock, run

SETTINGS = "[core]\n\tautocrlf = true\n\teol = crlf\n\tattributesFile = ~/attributes\n"


def problems(folder: Path) -> list[tuple[str, str]]:
    """Return what verification of a dataset without content finds."""
    found = verify(folder, allow_missing=True)
    return [(one.path, one.message) for one in found if one.status == "error"]


@pytest.mark.parametrize("attributes", ["", "* text=auto\n", "* text\n"])
def test_no_setting_of_git_changes_a_byte(
    lock_folder: LockFolder, isolated_home: Path, tmp_path: Path, attributes: str
) -> None:
    with (isolated_home / ".gitconfig").open("a") as file:
        file.write(SETTINGS)
    (isolated_home / "attributes").write_text(attributes)
    restored = restore_lock(lock_folder.lock, tmp_path / "data", offline=True)
    assert restored.only().status == "ok"
    folder = restored.folder(PUBLISHED)
    clone = tmp_path / "clone"
    store = lock_folder.mirror_harness.repository(PUBLISHED)
    run(tmp_path, "git", "clone", "-q", str(store), str(clone))
    done = lock_folder.command("clone", PUBLISHED, str(tmp_path / "ours"))
    assert done.exit_code == 0, done.output
    for one in (folder, clone, tmp_path / "ours"):
        assert b"\r" not in (one / "dandiset.yaml").read_bytes()
        assert run(one, "git", "status", "--porcelain") == ""
        assert problems(one) == []
    assert run(folder, "git", "config", "core.autocrlf").strip() == "false"


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
