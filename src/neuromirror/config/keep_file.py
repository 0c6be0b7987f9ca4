"""The file ``keep.toml`` beside the vault files: the lock files that a service keeps in vaults."""

from __future__ import annotations

import os
from collections.abc import Collection
from glob import glob
from pathlib import Path

from msgspec import Struct
from pydantic import BaseModel, ConfigDict, Field

from neuromirror.config.toml_files import load_toml
from neuromirror.config.vault_files import KEEP_FILE
from neuromirror.model import ConfigurationError


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
