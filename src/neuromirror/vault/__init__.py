"""Vaults: places where a lab holds copies of content, and the ledger of these copies."""

from neuromirror.index.ledger import Ledger
from neuromirror.index.ledger_rows import (
    CheckMethod,
    CopyState,
    LedgerCopy,
    LedgerEvent,
    LedgerVault,
    Stored,
    Wish,
)
from neuromirror.vault.directory import DirectoryVault
from neuromirror.vault.errors import (
    CopyMissingError,
    CopyRefusedError,
    VaultCredentialsError,
    VaultError,
    VaultFullError,
    VaultReadOnlyError,
    VaultUnavailableError,
)
from neuromirror.vault.opening import open_ledger, open_vault
from neuromirror.vault.protocol import Presence, Vault

__all__ = [
    "CheckMethod",
    "CopyMissingError",
    "CopyRefusedError",
    "CopyState",
    "DirectoryVault",
    "Ledger",
    "LedgerCopy",
    "LedgerEvent",
    "LedgerVault",
    "Presence",
    "Stored",
    "Vault",
    "VaultCredentialsError",
    "VaultError",
    "VaultFullError",
    "VaultReadOnlyError",
    "VaultUnavailableError",
    "Wish",
    "open_ledger",
    "open_vault",
]
