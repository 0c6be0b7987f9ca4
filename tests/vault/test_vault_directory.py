"""The directory vault: what git-annex and other programs find in it."""

import os
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from neuromirror.model import ConfigurationError
from neuromirror.vault.directory import DirectoryVault
from neuromirror.vault.object_files import move_object, remove_object
from neuromirror.vault.protocol import (
    CopyMissingError,
    CopyRefusedError,
    VaultReadOnlyError,
    VaultUnavailableError,
)
from support.vaults import directory_vault, key_of, put, write_vault


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_content_is_stored_read_listed_and_removed(tmp_path: Path) -> None:
    vault = directory_vault(tmp_path)
    key = put(vault, tmp_path, b"some bytes")
    other = key_of(b"other")
    assert [(one.key, one.size) for one in vault.presence([key, other])] == [
        (key, 10),
        (other, None),
    ]
    assert list(vault.keys()) == [(key, 10)]
    with vault.open(key) as file:
        assert file.read() == b"some bytes"
    vault.flush()
    vault.remove(key)
    vault.remove(key)
    assert list(vault.keys()) == []
    with pytest.raises(CopyMissingError):
        vault.open(key)


def test_files_have_the_permissions_of_git_annex_and_nothing_is_left_in_tmp(tmp_path: Path) -> None:
    vault = directory_vault(tmp_path)
    path = vault.object_path(put(vault, tmp_path, b"x" * 5000))
    assert os.stat(path).st_mode & 0o777 == 0o444
    assert os.stat(os.path.dirname(path)).st_mode & 0o222 == 0
    assert list((vault.path / "annex" / "tmp").iterdir()) == []
    put(vault, tmp_path, b"x" * 5000)  # stored once more, into the frozen folder


def test_git_annex_gets_the_content_by_path_and_fsck_finds_nothing(tmp_path: Path) -> None:
    vault = directory_vault(tmp_path)
    content = b"content of a recording" * 1000
    key = put(vault, tmp_path, content)
    clone = tmp_path / "clone"
    clone.mkdir()
    run(clone, "git", "init", "-q")
    run(clone, "git", "annex", "init", "-q")
    run(clone, "git", "annex", "fromkey", "--force", key, "data.bin")
    run(clone, "git", "remote", "add", "nas", str(vault.path))
    run(clone, "git", "annex", "setpresentkey", key, vault.uuid, "1")
    run(clone, "git", "annex", "get", "data.bin", "--from", "nas")
    assert (clone / "data.bin").read_bytes() == content
    run(clone, "git", "annex", "fsck", "data.bin", "--from", "nas")
    assert run(vault.path, "git", "config", "annex.uuid").strip() == vault.uuid


def test_the_uuid_stays_and_differs_between_vaults(tmp_path: Path) -> None:
    first = directory_vault(tmp_path, "one")
    second = DirectoryVault(first.config, first.path, create=True)
    assert second.uuid == first.uuid
    assert directory_vault(tmp_path, "two").uuid != first.uuid
    assert first.remote_config()["location"] == str(first.path)


def test_clients_of_http_get_the_url(tmp_path: Path) -> None:
    vault = directory_vault(tmp_path, url="https://data.example.org/vault")
    assert vault.remote_config()["location"] == "https://data.example.org/vault"


def test_a_missing_folder_is_reported_and_never_created_by_readers(tmp_path: Path) -> None:
    config = write_vault(tmp_path / "vaults")
    with pytest.raises(VaultUnavailableError, match="mounted"):
        DirectoryVault(config, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "thesis.tex").write_text("text")
    with pytest.raises(ConfigurationError, match="not empty"):
        DirectoryVault(write_vault(tmp_path / "vaults"), folder, create=True)
    assert [one.name for one in folder.iterdir()] == ["thesis.tex"]


def test_a_read_only_vault_is_not_changed(tmp_path: Path) -> None:
    vault = directory_vault(tmp_path)
    key = put(vault, tmp_path, b"x")
    config = write_vault(
        tmp_path / "vaults", kind="directory", path=str(vault.path), read_only=True
    )
    reader = DirectoryVault(config, vault.path)
    with pytest.raises(VaultReadOnlyError):
        reader.remove(key)
    with pytest.raises(VaultReadOnlyError):
        reader.store(key, tmp_path / "source")
    assert [one.size for one in reader.presence([key])] == [1]


def test_files_of_killed_processes_are_removed_when_the_vault_is_opened_for_writing(
    tmp_path: Path,
) -> None:
    vault = directory_vault(tmp_path)
    drafts = vault.annex_dir / "tmp"
    for name in ("neuromirror-old", "neuromirror-new", "of-git-annex"):
        (drafts / name).write_bytes(b"x")
    for name in ("neuromirror-old", "of-git-annex"):
        os.utime(drafts / name, (1, 1))
    DirectoryVault(vault.config, vault.path)
    assert len(list(drafts.iterdir())) == 3
    directory_vault(tmp_path)
    assert {one.name for one in drafts.iterdir()} == {"neuromirror-new", "of-git-annex"}


def test_a_disk_that_is_not_mounted_says_nothing_about_copies(tmp_path: Path) -> None:
    vault = directory_vault(tmp_path)
    key = put(vault, tmp_path, b"x")
    other = directory_vault(tmp_path, "other")
    vault.path.rename(tmp_path / "unmounted")
    for disk in ("none", "empty", "other"):
        if disk == "empty":
            vault.path.mkdir()
        elif disk == "other":
            vault.path.rmdir()
            other.path.rename(vault.path)
        for request in (vault.check_access, vault.flush, lambda: list(vault.keys())):
            with pytest.raises(VaultUnavailableError):
                request()
        if disk != "other":
            with pytest.raises(VaultUnavailableError):
                list(vault.presence([key]))


def test_a_disk_that_disappears_during_a_listing_says_nothing_about_copies(tmp_path: Path) -> None:
    vault = directory_vault(tmp_path)
    keys = {put(vault, tmp_path, b"%d" % number) for number in range(4)}
    listed = vault.keys()
    assert next(listed)[0] in keys
    vault.path.rename(tmp_path / "unmounted")
    with pytest.raises(VaultUnavailableError):
        list(listed)


def test_a_file_that_cannot_be_read_is_one_error_and_not_that_of_the_vault(tmp_path: Path) -> None:
    vault = directory_vault(tmp_path)
    with pytest.raises(CopyRefusedError):
        vault.store(key_of(b"x"), tmp_path / "missing")
    # reading the memory of a process at address 0 fails with EIO, as a bad sector does
    with pytest.raises(CopyRefusedError):
        vault.store(key_of(b"x"), Path("/proc/self/mem"))
    assert list(vault.keys()) == []
    assert list((vault.annex_dir / "tmp").iterdir()) == []


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that other users can reach, unlike ``tmp_path``."""
    with TemporaryDirectory(prefix="neuromirror-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextmanager
def other_user() -> Iterator[None]:
    """Become another user of the same group during the block."""
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_what_another_user_stored_is_one_error_and_not_that_of_the_vault(
    shared_folder: Path,
) -> None:
    vault = directory_vault(shared_folder)
    key, own = put(vault, shared_folder, b"of root"), key_of(b"own")
    for one in (vault.path, *vault.path.rglob("*")):
        if one.name != key:
            one.chmod(0o775)
    with other_user():
        with pytest.raises(CopyRefusedError, match=key):
            vault.remove(key)
        with pytest.raises(CopyRefusedError, match=key):
            vault.store_bytes(key, memoryview(b"of root"))
        vault.store_bytes(own, memoryview(b"own"))
        assert sorted(vault.keys()) == sorted([(key, 7), (own, 3)])
        vault.remove(own)
    assert list((vault.annex_dir / "tmp").iterdir()) == []


def test_a_file_that_cannot_be_removed_is_one_error_and_not_that_of_the_vault(
    tmp_path: Path,
) -> None:
    vault = directory_vault(tmp_path)
    key = put(vault, tmp_path, b"x")
    path = Path(os.fsdecode(vault.object_path(key)))
    path.parent.chmod(0o755)
    path.unlink()
    path.mkdir()
    with pytest.raises(CopyRefusedError, match=key):
        vault.remove(key)


def test_objects_are_stored_while_others_with_the_same_hash_are_removed(tmp_path: Path) -> None:
    vault = directory_vault(tmp_path)
    objects = os.fsencode(vault.annex_dir / "objects" / "abc" / "def")
    done = threading.Event()

    def store(name: bytes, count: int) -> None:
        for _ in range(count):
            source = os.fsencode(tmp_path) + b"/" + name
            os.close(os.open(source, os.O_CREAT | os.O_WRONLY, 0o444))
            move_object(source, objects + b"/" + name + b"/" + name)
            assert remove_object(objects + b"/" + name + b"/" + name)

    def disturb() -> None:
        while not done.is_set():
            store(b"other", 1)

    with ThreadPoolExecutor(1) as pool:
        disturbing = pool.submit(disturb)
        try:
            store(b"key", 1000)
        finally:
            done.set()
        disturbing.result()
