"""Nothing is written through symlinks in folders that came with a lock file."""

import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from neuromirror.cli import main
from neuromirror.store import UnsafePathError
from neuromirror.transfer import get
from neuromirror.transfer.repository_check import RepositoryRefusedError
from support.lock_folders import DRAFT, PUBLISHED, ZARR, LockFolder, restore_lock
from support.mirror_harness import MirrorHarness

_OLD = f"{'0' * 40}.bundle"
"""The name of a file that pin removes if it belongs to a lock file."""


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder outside that of the lock file."""
    folder = tmp_path / "victim"
    (folder / "demo--000002").mkdir(parents=True)
    (folder / "diary").write_text("mine")
    (folder / _OLD).write_text("mine")
    (folder / "demo--000002" / _OLD).write_text("mine")
    (folder / "empty").mkdir()
    return folder


def everything(folder: Path) -> dict[str, object]:
    """Return the content and metadata of a folder, to detect changes."""
    return {
        str(path): (path.lstat().st_mode, path.lstat().st_mtime_ns, path.lstat().st_ino)
        for path in [folder, *folder.rglob("*")]
    }


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("data", "../victim"),
        ("data", "../victim/missing"),
        ("data/.neuromirror-restore", "../../victim"),
        ("data/.neuromirror-restore", "../../victim/missing"),
        ("data/.neuromirror-restore/lock", "../../../victim/missing"),
        ("data/demo--000002", "../../victim/empty"),
        ("data/demo--000002", "../../victim/missing"),
    ],
)
def test_restore_writes_through_no_symlink_that_came_with_a_lock(
    lock_folder: LockFolder, victim: Path, link: str, target: str
) -> None:
    link_path = lock_folder.folder / link
    link_path.parent.mkdir(parents=True, exist_ok=True)
    link_path.symlink_to(target)
    before = everything(victim)
    with pytest.raises(UnsafePathError):
        restore_lock(lock_folder.lock, lock_folder.folder / "data")
    assert everything(victim) == before


@pytest.mark.timeout(60)
def test_a_pipe_in_place_of_a_lock_or_state_blocks_no_command(
    lock_folder: LockFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (lock_folder.folder / "data" / ".neuromirror-restore").mkdir(parents=True)
    pipes = ["data/.neuromirror-restore/lock", ".datasets.lock.pinning"]
    for name in pipes:
        os.mkfifo(lock_folder.folder / name)
    monkeypatch.chdir(lock_folder.folder)
    for arguments in (("restore", "datasets.lock", "--into", "data"), ("pin", PUBLISHED)):
        done = lock_folder.command(*arguments)
        assert done.exit_code == 2
        assert "is not a regular file" in done.stderr


def test_the_command_refuses_symlinks_in_a_relative_path(
    lock_folder: LockFolder, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (lock_folder.folder / "data").symlink_to(victim)
    monkeypatch.chdir(lock_folder.folder.parent)
    before = everything(victim)
    arguments = ["restore", "paper/datasets.lock", "--into", "paper/data"]
    done = CliRunner().invoke(main, ["--store", "none", *arguments], catch_exceptions=False)
    assert done.exit_code == 2
    assert everything(victim) == before


def test_a_symlink_that_the_caller_names_by_an_absolute_path_is_followed(
    lock_folder: LockFolder, tmp_path: Path
) -> None:
    (tmp_path / "large disk").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "large disk")
    assert restore_lock(lock_folder.lock, tmp_path / "data", offline=True).only().status == "ok"
    assert (tmp_path / "large disk" / "demo--000002" / ".git").is_dir()


def test_no_subdataset_is_placed_through_a_symlink(
    subdataset_harness: MirrorHarness, tmp_path: Path, victim: Path
) -> None:
    paper = LockFolder(subdataset_harness, tmp_path / "paper")
    paper.pin(ZARR, bundle=True)
    found = restore_lock(paper.lock, tmp_path / "data", offline=True)
    folder = found.folder(ZARR)
    (inner,) = (path.parent for path in folder.rglob("*/.git"))
    top = folder / inner.relative_to(folder).parts[0]
    shutil.rmtree(top)
    top.symlink_to(victim)
    before = everything(victim)
    done = restore_lock(paper.lock, tmp_path / "data", offline=True).only()
    assert done.status == "error"
    assert everything(victim) == before


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("datasets.lock.d", "../victim"),
        ("datasets.lock.d/demo--000002", "../../victim/demo--000002"),
        ("datasets.lock.d/demo--000002", "../../victim/missing"),
        ("datasets.lock.d/demo--000004", "../../victim"),
        (".datasets.lock.pinning", "../victim/missing"),
    ],
)
@pytest.mark.parametrize("remove", [False, True])
def test_pin_writes_and_deletes_nothing_elsewhere(
    lock_folder: LockFolder, victim: Path, link: str, target: str, *, remove: bool
) -> None:
    link_path = lock_folder.folder / link
    if link_path.is_dir():
        shutil.rmtree(link_path)
    link_path.symlink_to(target)
    before, lock = everything(victim), lock_folder.file.read_bytes()
    pins = (PUBLISHED, DRAFT)
    gone = ()
    if remove and "000004" not in link:
        pins, gone = (), (PUBLISHED,)
    with pytest.raises(UnsafePathError):
        lock_folder.pin(*pins, remove=gone, bundle=True)
    assert everything(victim) == before
    assert remove or lock_folder.file.read_bytes() == lock


@pytest.mark.parametrize("ending", [".jsonl.zst", ".bundle"])
def test_pin_writes_no_manifest_or_bundle_through_a_symlink(
    lock_folder: LockFolder, victim: Path, ending: str
) -> None:
    (link_path,) = lock_folder.folder.rglob(f"*{ending}")
    link_path.unlink()
    link_path.symlink_to(victim / "diary")
    before = everything(victim)
    with pytest.raises(UnsafePathError):
        lock_folder.pin(PUBLISHED, bundle=True)
    assert everything(victim) == before


@pytest.mark.parametrize(
    ("link", "output"), [("out", "out/citation.txt"), ("out", "out"), ("up", "up/empty/new.txt")]
)
def test_cite_writes_through_no_symlink_in_a_relative_path(
    lock_folder: LockFolder, victim: Path, monkeypatch: pytest.MonkeyPatch, link: str, output: str
) -> None:
    (lock_folder.folder / link).symlink_to("../victim")
    monkeypatch.chdir(lock_folder.folder)
    before = everything(victim)
    done = CliRunner().invoke(main, ["--store", "none", "cite", "datasets.lock", "-o", output])
    assert (done.exit_code, type(done.exception)) == (2, SystemExit)
    assert everything(victim) == before


@pytest.mark.parametrize(
    "name", ["annex/objects", "annex/othertmp", "annex/tmp", "annex/transfer", "neuromirror"]
)
def test_get_writes_nothing_elsewhere(
    restored_lock_folder: LockFolder, victim: Path, name: str
) -> None:
    folder = restored_lock_folder.folder / "data" / "demo--000002"
    link_path = folder / ".git" / name
    if link_path.is_dir():
        shutil.rmtree(link_path)
    link_path.symlink_to(victim)
    (victim / "get-1.keys").write_text("mine")
    before = everything(victim)
    with pytest.raises(RepositoryRefusedError, match=f"the symlink '{name}'"):
        list(get(folder))
    assert everything(victim) == before


def test_get_enters_no_subdataset_through_a_symlink(
    subdataset_harness: MirrorHarness, tmp_path: Path, victim: Path
) -> None:
    paper = LockFolder(subdataset_harness, tmp_path / "paper")
    paper.pin(ZARR, bundle=True)
    folder = restore_lock(paper.lock, tmp_path / "data", offline=True).folder(ZARR)
    (inner,) = (path.parent for path in folder.rglob("*/.git"))
    top = folder / inner.relative_to(folder).parts[0]
    top.rename(victim / top.name)
    top.symlink_to(victim / top.name)
    before = everything(victim)
    found = list(get(folder, recursive=True))
    assert [one.status for one in found if one.path == str(inner.relative_to(folder))] == ["error"]
    assert everything(victim) == before
