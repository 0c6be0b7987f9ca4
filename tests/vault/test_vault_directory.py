"""The directory vault: what git-annex and other programs find in it."""

import os
import subprocess
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from neuromirror.model import ConfigurationError
from neuromirror.vault import (
    CopyMissingError,
    DirectoryVault,
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
    (url,) = vault.locations(key)
    assert Path(unquote(urlsplit(url).path)).read_bytes() == b"some bytes"
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
    again = DirectoryVault(first.config, first.path, create=True)
    assert again.uuid == first.uuid
    assert directory_vault(tmp_path, "two").uuid != first.uuid
    assert first.remote_config()["location"] == str(first.path)


def test_clients_of_http_get_the_url(tmp_path: Path) -> None:
    vault = directory_vault(tmp_path, url="https://data.example.org/vault")
    key = key_of(b"x")
    below = os.path.relpath(os.fsdecode(vault.object_path(key)), vault.path)
    assert vault.locations(key)[1] == f"https://data.example.org/vault/{below}"
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
