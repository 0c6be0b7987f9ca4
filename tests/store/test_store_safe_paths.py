"""A SafeFolder follows no symlink."""

import os
import stat
from pathlib import Path

import pytest

from neuromirror.store.safe_paths import SafeFolder, UnsafePathError, refuse_symlinks


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "diary").write_text("mine")
    return folder


@pytest.fixture
def top(tmp_path: Path, victim: Path) -> Path:
    """A folder with symlinks to a folder, to a file, to a missing target, and to itself."""
    folder = tmp_path / "top"
    (folder / "real" / "inner").mkdir(parents=True)
    (folder / "link").symlink_to(victim)
    (folder / "file").symlink_to(victim / "diary")
    (folder / "dangling").symlink_to(victim / "new")
    (folder / "loop").symlink_to("loop")
    return folder


@pytest.mark.parametrize("names", [("link",), ("dangling",), ("loop",), ("file",), ("real", "..")])
@pytest.mark.parametrize("create", [False, True])
def test_no_folder_is_opened_through_a_symlink(
    top: Path, victim: Path, names: tuple[str, ...], *, create: bool
) -> None:
    with SafeFolder.open_path(top) as folder, pytest.raises(UnsafePathError):
        folder.folder(*names, "below", create=create)
    assert [path.name for path in victim.iterdir()] == ["diary"]


@pytest.mark.parametrize("name", ["file", "dangling", "link", "loop", "..", "a/b", "", "."])
def test_no_file_is_opened_through_a_symlink(top: Path, victim: Path, name: str) -> None:
    with SafeFolder.open_path(top) as folder, pytest.raises(UnsafePathError):
        folder.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    assert (victim / "diary").read_text() == "mine"
    assert not (victim / "new").exists()


def test_symlink_itself_is_removed_or_replaced(top: Path, victim: Path) -> None:
    with SafeFolder.open_path(top) as folder:
        folder.unlink("file")
        folder.remove_tree("link")
        name, descriptor = folder.new_file()
        os.close(descriptor)
        folder.replace(name, folder, "dangling")
    assert sorted(path.name for path in victim.iterdir()) == ["diary"]
    assert not (top / "file").is_symlink()
    assert not (top / "dangling").is_symlink()


def test_scratch_folder_is_private_to_its_owner_and_removed(top: Path) -> None:
    with SafeFolder.open_path(top) as folder:
        with folder.scratch() as made:
            assert stat.S_IMODE(made.path.stat().st_mode) == 0o700
            (made.path / "link").symlink_to(top / "real")
        assert not made.path.exists()
    assert (top / "real" / "inner").is_dir()


def test_absolute_path_may_contain_symlinks_but_not_below_a_foreign_folder(
    top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SafeFolder.open_path(top / "link" / "made", create=True) as folder:
        assert folder.path == top / "link" / "made"
    with pytest.raises(UnsafePathError):
        SafeFolder.open_path(top / "link" / "more", create=True, below=top)
    monkeypatch.chdir(top)
    with pytest.raises(UnsafePathError):
        SafeFolder.open_path(Path("link/more"), create=True)
    with SafeFolder.open_path(Path("real/inner")) as folder:
        assert folder.names() == []
    with SafeFolder.open_path(Path("../victim")) as folder:
        assert folder.names() == ["diary", "made"]
    assert not (top / "link" / "more").exists()


def test_moved_folder_stays_open(top: Path, victim: Path) -> None:
    with SafeFolder.open_path(top / "real") as folder:
        (top / "real").rename(top / "away")
        (top / "real").symlink_to(victim)
        os.close(folder.open("written", os.O_WRONLY | os.O_CREAT))
    assert (top / "away" / "written").exists()
    assert not (victim / "written").exists()


def test_symlinks_in_paths_for_other_programs_are_refused(top: Path) -> None:
    refuse_symlinks(top, "real/inner/missing", "missing/more")
    for path in ("link", "link/x", "real/../link", "dangling"):
        with pytest.raises(UnsafePathError):
            refuse_symlinks(top, path)


def test_a_tree_is_removed_however_deep_it_is(top: Path, victim: Path) -> None:
    with SafeFolder.open_path(top) as folder:
        inner = folder.folder("deep", create=True)
        for _ in range(1500):
            with inner:
                os.close(inner.open("file", os.O_WRONLY | os.O_CREAT))
                os.symlink(victim, "link", dir_fd=inner.descriptor)
                below = inner.folder("d", create=True)
                os.fchmod(inner.descriptor, 0o500)
            inner = below
        inner.__exit__()
        folder.remove_tree("deep")
        assert folder.status("deep") is None
    assert (victim / "diary").read_text() == "mine"


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY | os.O_CREAT, os.O_RDWR])
def test_a_pipe_is_refused(top: Path, flags: int) -> None:
    os.mkfifo(top / "pipe")
    with SafeFolder.open_path(top) as folder, pytest.raises(UnsafePathError):
        folder.open("pipe", flags)
