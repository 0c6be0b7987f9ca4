"""The special-remote vault, with git-annex and the types ``directory`` and ``external``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from neuromirror.model import ConfigurationError
from neuromirror.vault.errors import CopyMissingError, CopyRefusedError, VaultUnavailableError
from neuromirror.vault.special_remote import SpecialRemoteVault
from support.special_remotes import (
    folder_remote,
    install_folder_remote,
    prepared_special_remote,
    special_remote_vault,
)
from support.vaults import key_of


def test_a_content_is_stored_read_listed_and_removed() -> None:
    folder = prepared_special_remote()
    vault = special_remote_vault(folder)
    content = b"some bytes" * 1000
    key, other = key_of(content), key_of(b"other")
    stored = vault.store_bytes(key, memoryview(content))
    assert (stored.size, stored.method) == (10_000, "git-annex")
    assert [one.size for one in vault.presence([key, other])] == [10_000, None]
    with vault.open(key) as file:
        assert file.read() == content
    assert list(vault.keys()) == [(key, 10_000)]
    # nothing stays in the private repository
    assert not list((folder / "private").rglob(f"*/{key}/{key}"))
    vault.remove(key)
    vault.remove(key)
    with pytest.raises(CopyMissingError):
        vault.open(key)


def test_a_remote_that_is_gone_is_one_error_per_content_and_then_of_the_vault() -> None:
    folder = prepared_special_remote()
    vault = special_remote_vault(folder)
    shutil.move(folder / "remote", folder / "unmounted")
    errors = []
    for number in range(4):
        content = b"%d" % number
        with pytest.raises((CopyRefusedError, VaultUnavailableError)) as caught:
            vault.store_bytes(key_of(content), memoryview(content))
        errors.append(type(caught.value))
    assert errors == [CopyRefusedError] * 3 + [VaultUnavailableError]


def test_an_unreachable_remote_says_nothing_about_its_contents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_folder_remote(tmp_path / "bin", monkeypatch)
    vault = special_remote_vault(tmp_path, "external", **folder_remote(tmp_path / "remote"))
    key, other = key_of(b"content"), key_of(b"other")
    vault.store_bytes(key, memoryview(b"content"))
    assert [one.size for one in vault.presence([key, other])] == [7, None]
    vault.check_access()
    shutil.move(tmp_path / "remote", tmp_path / "unmounted")
    for prepare in (
        lambda: None,
        (tmp_path / "remote.unknown").touch,
        (tmp_path / "remote").mkdir,  # another disk is mounted
    ):
        prepare()
        for request in (
            lambda: list(vault.presence([key])),
            lambda: vault.open(key),
            vault.check_access,
            lambda: list(vault.keys()),
        ):
            with pytest.raises(VaultUnavailableError):
                request()
    (tmp_path / "remote").rmdir()
    shutil.move(tmp_path / "unmounted", tmp_path / "remote")
    assert [one.size for one in vault.presence([key, other])] == [7, None]


@pytest.mark.parametrize("kind", ["directory", "external"])
def test_another_machine_reads_what_was_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    options = {}
    if kind == "external":
        install_folder_remote(tmp_path / "bin", monkeypatch)
        options = folder_remote(tmp_path / "remote")
    key = key_of(b"content")
    vault = special_remote_vault(tmp_path, kind, **options)
    vault.store_bytes(key, memoryview(b"content"))
    shutil.rmtree(tmp_path / "private")
    elsewhere = special_remote_vault(tmp_path, kind, **options)
    assert elsewhere.uuid == vault.uuid
    with elsewhere.open(key) as file:
        assert file.read() == b"content"


def test_what_cannot_be_set_up_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(VaultUnavailableError, match="no-such-type"):
        special_remote_vault(tmp_path, "no-such-type", url="x")
    with pytest.raises(ConfigurationError, match="encryption"):
        special_remote_vault(tmp_path, directory=str(tmp_path / "remote"), encryption="shared")


def test_a_vault_that_was_set_up_read_only_can_be_written_later(tmp_path: Path) -> None:
    special_remote_vault(tmp_path, read_only=True)
    vault = special_remote_vault(tmp_path)
    key, other = key_of(b"content"), key_of(b"other")
    vault.store_bytes(key, memoryview(b"content"))
    assert [one.size for one in vault.presence([key, other])] == [7, None]
    # what was stored stays listed
    assert list(special_remote_vault(tmp_path, read_only=True).keys()) == [(key, 7)]


def test_edited_options_are_set_up_again() -> None:
    folder = prepared_special_remote()
    first = special_remote_vault(folder)
    (folder / "other").mkdir()
    key, other = key_of(b"content"), key_of(b"other")
    vault = special_remote_vault(folder, directory=str(folder / "other"))
    vault.store_bytes(key, memoryview(b"content"))
    assert [one.size for one in vault.presence([key, other])] == [7, None]
    assert any(path.name == key for path in (folder / "other").rglob("*"))
    # without 'keep', the former options are not used with the contents of the new ones
    with pytest.raises(VaultUnavailableError, match="set up"):
        SpecialRemoteVault(first.config, folder / "private" / "tape.git")


def test_a_content_that_cannot_be_copied_leaves_no_file(
    tmp_path: Path, mount_disk: Callable[[str], Path]
) -> None:
    folder, disk = prepared_special_remote(), mount_disk("4m")
    shutil.move(folder / "private" / "tape.git", disk)
    (folder / "private").rename(folder / "moved")
    (folder / "private").symlink_to(disk)
    vault = special_remote_vault(folder)
    content = b"x" * (8 << 20)
    path = tmp_path / "source"
    path.write_bytes(content)
    with pytest.raises(CopyRefusedError):
        vault.store(key_of(content), path)
    with pytest.raises(CopyRefusedError):
        vault.store_bytes(key_of(content), memoryview(content))
    drafts = folder / "private" / "tape.git" / "annex" / "tmp"
    assert list(drafts.iterdir()) == []


def test_files_of_killed_processes_are_removed() -> None:
    folder = prepared_special_remote()
    drafts = folder / "private" / "tape.git" / "annex" / "tmp"
    for name in ("neuromirror-old", "neuromirror-new", "of-git-annex"):
        (drafts / name).write_bytes(b"x")
    for name in ("neuromirror-old", "of-git-annex"):
        os.utime(drafts / name, (1, 1))
    special_remote_vault(folder)
    assert {one.name for one in drafts.iterdir()} == {"neuromirror-new", "of-git-annex"}


def test_failures_between_which_a_content_is_read_are_not_those_of_the_vault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_folder_remote(tmp_path / "bin", monkeypatch)
    vault = special_remote_vault(tmp_path, "external", **folder_remote(tmp_path / "remote"))
    good, bad = key_of(b"good"), key_of(b"bad")
    vault.store_bytes(good, memoryview(b"good"))
    # neither written nor read as a file
    (tmp_path / "remote" / bad).mkdir()
    for _ in range(2):
        for _ in range(3):
            with pytest.raises(CopyRefusedError):
                vault.open(bad)
        with vault.open(good) as file:
            assert file.read() == b"good"
