"""The vaults of the user's own vault files, as places to read copies from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from neuromirror.annex import VaultAddress, VaultKind

if TYPE_CHECKING:
    from neuromirror.config.vault_files import VaultConfig

LOCAL_VAULTS: Final = Path("vaults")
"""The folder of vault files in the working directory."""


def own_vault_addresses() -> list[VaultAddress]:
    """Return where copies are, by the vault files of ``$NEUROMIRROR_VAULTS``, else of ``./vaults``.

    A folder ``./vaults`` may come from others. Its files are safe to use here: content is compared
    with its key, no program is started, and buckets with an endpoint of their own are left out.

    Returns
    -------
    list of VaultAddress
        The directory vaults with a path and the buckets, by name; empty without vault files.

    Raises
    ------
    ConfigurationError
        A vault file is invalid, or the folder that the variable names is missing.
    """
    named = os.environ.get("NEUROMIRROR_VAULTS")
    if not named and not LOCAL_VAULTS.is_dir():
        return []
    from neuromirror.config.vault_files import load_vaults

    vaults = load_vaults(Path(named) if named else LOCAL_VAULTS, required=bool(named))
    found = (_address(vaults[name]) for name in sorted(vaults))
    return [one for one in found if one is not None]


def _address(vault: VaultConfig) -> VaultAddress | None:
    from neuromirror.config.vault_files import DirectoryVaultFile, S3VaultFile
    from neuromirror.vault.opening import directory_path

    settings = vault.settings
    if isinstance(settings, DirectoryVaultFile) and settings.path:
        path = str(directory_path(vault, None))
        return VaultAddress(VaultKind.DIRECTORY, path, settings.prefer)
    if isinstance(settings, S3VaultFile):
        if settings.public_url:
            base = f"{settings.public_url.rstrip('/')}/{settings.prefix}"
            return VaultAddress(VaultKind.S3, base, settings.prefer)
        if not settings.endpoint:
            base = f"s3://{settings.bucket}/{settings.prefix}"
            return VaultAddress(VaultKind.S3, base, settings.prefer)
    return None
