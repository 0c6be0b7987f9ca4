"""Vault files: what is accepted, and what each mistake is called."""

from pathlib import Path

import pytest

from neuromirror.config.vault_files import (
    DirectoryVaultFile,
    S3VaultFile,
    load_vault,
    load_vaults,
    refuse_unsafe_vaults,
)
from neuromirror.model import ConfigurationError


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.toml"
    path.write_text(text)
    return path


def test_each_kind_is_loaded_with_its_options(tmp_path: Path) -> None:
    write(tmp_path, "nas", 'kind = "directory"\npath = "/archive"\nurl = "http://nas.example/v/"')
    write(tmp_path, "cloud", 'kind = "s3"\nbucket = "lab"\nprefix = "annex/"')
    write(tmp_path, "keep", "not = 'a vault'")
    vaults = load_vaults(tmp_path)
    assert {name: type(one.settings) for name, one in vaults.items()} == {
        "cloud": S3VaultFile,
        "nas": DirectoryVaultFile,
    }
    nas = vaults["nas"].settings
    assert isinstance(nas, DirectoryVaultFile)
    assert nas.url == "http://nas.example/v"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("kind = 'ftp'", "kind"),
        ("path = '/x'", "kind"),
        ("kind = 'directory'\nbucket = 'b'", "bucket"),
        ("kind = 'directory'\nurl = 'https://user:pw@host/'", "url"),
        ("kind = 's3'\nbucket = '../b'", "bucket"),
        ("kind = 's3'\nbucket = 'lab'\nprefix = '/x'", "prefix"),
        ("kind = 's3'\nbucket = 'lab'\nobject_lock = 'GOVERNANCE'", "retention_days"),
        ("kind = 'special-remote'", "kind"),
        ("kind = ", "TOML"),
    ],
)
def test_a_mistake_is_an_error_that_names_file_and_field(
    tmp_path: Path, text: str, named: str
) -> None:
    path = write(tmp_path, "lab", text)
    with pytest.raises(ConfigurationError, match=named) as caught:
        load_vault(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["Lab", "a b", "origin", "keep", "web"])
def test_names_that_a_git_remote_cannot_have_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="not a valid name"):
        load_vault(write(tmp_path, name, "kind = 'directory'"))


def test_a_folder_that_is_missing_is_an_error_only_if_it_is_required(tmp_path: Path) -> None:
    write(tmp_path, "nas", "kind = 'directory'")
    with pytest.raises(ConfigurationError, match="no such folder"):
        load_vaults(tmp_path / "none", required=True)
    assert load_vaults(tmp_path / "none") == {}


def test_a_folder_that_was_not_named_cannot_use_credentials(tmp_path: Path) -> None:
    write(tmp_path, "lab", "kind = 's3'\nbucket = 'lab'\nendpoint = 'https://evil.example'")
    with pytest.raises(ConfigurationError, match="NEUROMIRROR_VAULTS="):
        refuse_unsafe_vaults(load_vaults(tmp_path), tmp_path)
