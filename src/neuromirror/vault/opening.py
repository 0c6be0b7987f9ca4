"""Open vaults and the ledger."""

from __future__ import annotations

from neuromirror.config.vault_files import DirectoryVaultFile, VaultConfig
from neuromirror.index.ledger import Ledger
from neuromirror.store import Store
from neuromirror.store.durable_files import make_folder
from neuromirror.vault.directory import DirectoryVault
from neuromirror.vault.own_vaults import directory_path
from neuromirror.vault.protocol import Vault


def open_vault(config: VaultConfig, store: Store | None, *, create: bool = False) -> Vault:
    """Open a vault.

    Raises
    ------
    VaultError
        The vault cannot be used.
    ConfigurationError
        Its configuration cannot be used.
    """
    settings = config.settings
    if isinstance(settings, DirectoryVaultFile):
        return DirectoryVault(config, directory_path(config, store), create=create)
    from neuromirror.vault.s3 import S3Vault

    return S3Vault(config, create=create)


def open_ledger(store: Store | None) -> Ledger:
    """Open the ledger of a store, or that of the user.

    Raises
    ------
    IndexUnusableError
        The file is not a ledger or cannot be written.
    """
    if store is not None:
        return Ledger.open(store.ledger_path)
    from platformdirs import user_data_path

    folder = user_data_path("neuromirror")
    make_folder(folder)
    return Ledger.open(folder / "custody.sqlite")
