"""The vaults of the user's own vault files, as places to read copies from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec.structs import replace

from neuromirror.annex import BucketAccess, VaultAddress, VaultKind
from neuromirror.model import ConfigurationError

if TYPE_CHECKING:
    from neuromirror.config.vault_files import VaultConfig
    from neuromirror.store import Store

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
    from neuromirror.config.vault_files import load_vaults, refuse_unsafe_vaults

    folder = Path(named) if named else LOCAL_VAULTS
    found, unused = list[VaultAddress](), list[str]()
    for _, vault in sorted(load_vaults(folder, required=bool(named)).items()):
        try:
            address = address_of(vault)
            if address.access is not None and not named:
                refuse_unsafe_vaults({vault.name: vault}, folder)
                address = replace(address, access=None)
            found.append(address)
        except ConfigurationError as error:
            unused.append(str(error))
    return OwnVaults(found, unused)


def address_of(vault: VaultConfig, store: Store | None = None) -> VaultAddress:
    """Return where readers find the copies in a vault.

    Raises
    ------
    ConfigurationError
        The configuration names no folder, and there is no store.
    """
    from neuromirror.config.vault_files import DirectoryVaultFile

    settings = vault.settings
    if isinstance(settings, DirectoryVaultFile):
        folder = str(directory_path(vault, store).absolute())
        return VaultAddress(VaultKind.DIRECTORY, folder, settings.prefer)
    if settings.public_url:
        base = f"{settings.public_url.rstrip('/')}/{settings.prefix}"
        return VaultAddress(VaultKind.S3, base, settings.prefer)
    access = BucketAccess(
        settings.endpoint,
        settings.region,
        settings.profile,
        is_signed=settings.credentials != "none",
    )
    base = f"s3://{settings.bucket}/{settings.prefix}"
    return VaultAddress(VaultKind.S3, base, settings.prefer, access)


def directory_path(config: VaultConfig, store: Store | None) -> Path:
    """Return the folder of a directory vault.

    Raises
    ------
    ConfigurationError
        The configuration names no folder, and there is no store.
    """
    from neuromirror.config.vault_files import DirectoryVaultFile

    assert isinstance(config.settings, DirectoryVaultFile)
    if config.settings.path:
        path = Path(config.settings.path).expanduser()
        return (config.path.parent / path).absolute()
    if store is None:
        raise ConfigurationError(
            f"{config.path}: without a store, the vault needs a 'path'; add one, or name the store "
            "with --store"
        )
    return store.root / "vaults" / config.name
