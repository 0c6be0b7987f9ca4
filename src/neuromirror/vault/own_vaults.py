"""The vaults of the user's own vault files, as places to read copies from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from neuromirror.annex import BucketAccess, VaultAddress, VaultKind
from neuromirror.model import ConfigurationError

if TYPE_CHECKING:
    from neuromirror.config.vault_files import VaultConfig

LOCAL_VAULTS: Final = Path("vaults")
"""The folder of vault files in the working directory."""


class OwnVaults(NamedTuple):
    """The vaults of the user.

    Attributes
    ----------
    addresses
        Where copies are, by the names of the vaults.
    unused
        A message for each vault that cannot be used: why, and what to do.
    """

    addresses: list[VaultAddress]
    unused: list[str]


def own_vaults() -> OwnVaults:
    """Return the vaults in the files of ``$NEUROMIRROR_VAULTS``, else of ``./vaults``.

    A folder ``./vaults`` may come from others. Its files are safe to use here: content is compared
    with its key, no program is started, and they select neither the credentials of requests nor the
    server to which signed requests are sent. A folder that the user has named does both.

    Raises
    ------
    ConfigurationError
        A vault file is invalid, or the folder that the variable names is missing.
    """
    named = os.environ.get("NEUROMIRROR_VAULTS")
    if not named and not LOCAL_VAULTS.is_dir():
        return OwnVaults([], [])
    from neuromirror.config.vault_files import load_vaults

    vaults = load_vaults(Path(named) if named else LOCAL_VAULTS, required=bool(named))
    found: list[VaultAddress] = []
    unused: list[str] = []
    for _, vault in sorted(vaults.items()):
        one = _address(vault, is_named=bool(named))
        if isinstance(one, str):
            unused.append(one)
        else:
            found.append(one)
    return OwnVaults(found, unused)


def _address(vault: VaultConfig, *, is_named: bool) -> VaultAddress | str:
    """Return the address of a vault, or why there is none."""
    from neuromirror.config.vault_files import DirectoryVaultFile, refuse_unsafe_vaults
    from neuromirror.vault.opening import directory_path

    settings = vault.settings
    if isinstance(settings, DirectoryVaultFile):
        if not settings.path:
            return f"{vault.path} is not used: its folder is in a store; set 'path'"
        path = str(directory_path(vault, None))
        return VaultAddress(VaultKind.DIRECTORY, path, settings.prefer)
    if settings.public_url:
        base = f"{settings.public_url.rstrip('/')}/{settings.prefix}"
        return VaultAddress(VaultKind.S3, base, settings.prefer)
    if not is_named:
        try:
            refuse_unsafe_vaults({vault.name: vault}, vault.path.parent)
        except ConfigurationError as error:
            return str(error)
    access = BucketAccess(
        settings.endpoint,
        settings.region,
        settings.profile,
        is_signed=settings.credentials != "none",
    )
    base = f"s3://{settings.bucket}/{settings.prefix}"
    return VaultAddress(VaultKind.S3, base, settings.prefer, access if is_named else None)
