"""Vault files: one TOML file per vault, and ``keep.toml`` beside them."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from glob import glob
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Struct
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator

from neuromirror.config.toml_files import check_file_name, load_toml
from neuromirror.model import ConfigurationError

KEEP_FILE = "keep.toml"
"""The file beside the vault files that lists what a service keeps; no vault has its name."""

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}\Z")

_RESERVED_NAMES = frozenset({"here", "keep", "origin", "web"})
"""Names of git remotes and repositories in clones, and :data:`KEEP_FILE`."""


class _VaultFile(BaseModel):
    """The settings that every kind of vault has."""

    model_config = ConfigDict(extra="forbid")

    title: str = Field(default="", description="Title for people; the vault's name if empty.")
    prefer: bool = Field(
        default=False, description="Whether readers try this vault before upstream, not after."
    )
    read_only: bool = Field(
        default=False, description="Whether nothing may be stored in the vault or removed from it."
    )
    private: bool = Field(
        default=False,
        description="Whether the vault may have data of a private store. "
        "Set it only if no other user can read the vault.",
    )


class DirectoryVaultFile(_VaultFile):
    """A vault in a folder: a bare git-annex repository."""

    kind: Literal["directory"]
    path: str = Field(
        default="", description="The folder, relative to the vault file [vaults/NAME in the store]."
    )
    url: str = Field(
        default="",
        description="The URL at which clients find the folder, if a web server serves it.",
    )

    @field_validator("url")
    @classmethod
    def _url(cls, url: str) -> str:
        return _http_url(url)


class S3VaultFile(_VaultFile):
    """A vault in a bucket of S3, in the layout of git-annex's S3 special remote."""

    kind: Literal["s3"]
    bucket: str = Field(description="The name of the bucket.")
    prefix: str = Field(
        default="", description="Prefix of the names of all objects, such as 'annex/'."
    )
    endpoint: str = Field(default="", description="URL of a server other than AWS.")
    region: str = Field(default="", description="Region [that of the profile, else us-east-1].")
    credentials: Literal["aws", "none"] = Field(
        default="aws",
        description="'aws': as found by the AWS tools, such as a profile; 'none': requests are not "
        "signed, and the vault can only be read.",
    )
    profile: str = Field(default="", description="Profile in the AWS configuration files.")
    storage_class: str = Field(
        default="STANDARD", description="Storage class of new objects, such as STANDARD_IA."
    )
    object_lock: Literal["", "GOVERNANCE", "COMPLIANCE"] = Field(
        default="", description="Mode of object lock for new objects; needs 'retention_days'."
    )
    retention_days: int = Field(
        default=0, ge=0, le=36_500, description="Days for which object lock keeps new objects."
    )
    public_url: str = Field(
        default="",
        description="Public URL of the objects, without the prefix and their "
        "names [none: readers need credentials].",
    )

    @field_validator("bucket")
    @classmethod
    def _bucket(cls, bucket: str) -> str:
        if not _BUCKET.match(bucket):
            raise ValueError(f"{bucket!r} is not the name of a bucket")
        return bucket

    @field_validator("prefix")
    @classmethod
    def _prefix(cls, prefix: str) -> str:
        if prefix.startswith("/") or not prefix.isprintable() or not prefix.isascii():
            raise ValueError("write a prefix in ASCII without '/' at its start, such as 'annex/'")
        return prefix

    @field_validator("endpoint", "public_url")
    @classmethod
    def _url(cls, url: str) -> str:
        return _http_url(url)


VaultFile = Annotated[DirectoryVaultFile | S3VaultFile, Field(discriminator="kind")]
"""The content of a vault file; the name of the file without ``.toml`` is the vault's name."""

VAULT_FILE: TypeAdapter[DirectoryVaultFile | S3VaultFile] = TypeAdapter(VaultFile)
"""Validates the content of vault files, and gives their JSON Schema."""


class VaultConfig(Struct, frozen=True):
    """A configured vault.

    Attributes
    ----------
    name
        The name of the vault, which is the name of its file without ``.toml``.
    path
        The path of the file.
    settings
        The settings in the file.
    """

    name: str
    path: Path
    settings: DirectoryVaultFile | S3VaultFile


def load_vault(path: Path) -> VaultConfig:
    """Load a vault file.

    Raises
    ------
    ConfigurationError
        If the file cannot be read or is invalid; the message names the file and the field.
    """
    name = check_file_name(path, "vault", _RESERVED_NAMES)
    settings = load_toml(path, VAULT_FILE.validate_python)
    if isinstance(settings, S3VaultFile) and bool(settings.object_lock) != bool(
        settings.retention_days
    ):
        raise ConfigurationError(f"{path}: 'object_lock' and 'retention_days' need each other")
    return VaultConfig(name, path, settings)


def load_vaults(folder: Path, *, required: bool = False) -> dict[str, VaultConfig]:
    """Load all vault files in a folder.

    Raises
    ------
    ConfigurationError
        If a file is invalid, or the folder is required and missing.
    """
    if not folder.is_dir():
        if required:
            raise ConfigurationError(f"{folder}: no such folder; name it with --vaults DIR")
        return {}
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".toml")
    except OSError as error:
        raise ConfigurationError(f"{folder}: cannot be read: {error.strerror}") from error
    return {path.stem: load_vault(path) for path in paths if path.name != KEEP_FILE}


def refuse_unsafe_vaults(vaults: Mapping[str, VaultConfig], folder: Path) -> None:
    """Refuse vault files that send signed requests to a server of their choice.

    Use it for a folder that the user did not name: it may have come with a repository of others.

    Raises
    ------
    ConfigurationError
        If a vault file does that.
    """
    for vault in vaults.values():
        if isinstance(vault.settings, S3VaultFile) and vault.settings.endpoint:
            raise ConfigurationError(
                f"{vault.path}: would sign requests to its endpoint with your credentials. A "
                f"folder {folder} may be from others; if this file is your own, set "
                f"NEUROMIRROR_VAULTS={folder}"
            )


def _http_url(url: str) -> str:
    if not url:
        return url
    parts = urlsplit(url)
    is_web = parts.scheme in ("http", "https") and url.isprintable()
    if not is_web or not parts.hostname or "@" in parts.netloc:
        raise ValueError(f"{url!r} is not a URL like https://data.example.org/vault")
    if parts.query or parts.fragment:
        raise ValueError(f"{url!r} has a query or a fragment; remove it")
    return url.rstrip("/")


class Keep(BaseModel):
    """A ``[[keep]]`` table: lock files, and the vault that has the contents they pin."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    locks: str = Field(min_length=1, description="Glob of lock files, relative to this file.")
    vault: str = Field(description="Name of the vault.")
    check_days: float = Field(
        default=90, gt=0, le=36_500, description="Days after which a copy is read and hashed again."
    )


class _KeepFile(BaseModel):
    """The content of ``keep.toml``."""

    model_config = ConfigDict(extra="forbid", frozen=True, title="neuromirror keep.toml")

    keep: tuple[Keep, ...] = ()


class KeepList(Struct, frozen=True):
    """The ``[[keep]]`` tables of a folder of vault files."""

    path: Path
    keeps: tuple[Keep, ...]

    def find_locks(self, keep: Keep) -> list[Path]:
        """Return the lock files of a table, sorted by path."""
        folder = self.path.parent
        names = glob(os.path.expanduser(keep.locks), root_dir=folder, recursive=True)
        # without "..", as the shell shows it to the user who drops the copies
        paths = [Path(os.path.abspath(folder / name)) for name in sorted(names)]
        return [path for path in paths if path.is_file()]


def load_keeps(folder: Path, vaults: Collection[str]) -> KeepList:
    """Load ``keep.toml`` in a folder of vault files; the list is empty without the file.

    Raises
    ------
    ConfigurationError
        The file is invalid, or names a vault that is not configured; the message names the file and
        the key.
    """
    path = folder / KEEP_FILE
    if not path.exists():
        return KeepList(path, ())
    keeps = load_toml(path, _KeepFile.model_validate).keep
    for number, keep in enumerate(keeps):
        if keep.vault not in vaults:
            known = ", ".join(sorted(vaults)) or "none"
            raise ConfigurationError(
                f"{path}: keep.{number}.vault: there is no file {folder / keep.vault}.toml; known "
                f"vaults: {known}"
            )
    return KeepList(path, keeps)
