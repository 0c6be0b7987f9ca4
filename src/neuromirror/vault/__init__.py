"""Vaults: places where a lab holds copies of content, and the ledger of these copies.

Names are imported on first use, because clones without vaults use only some modules.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_EXPORTS = {
    "CheckMethod": "neuromirror.index.ledger_rows",
    "CopyMissingError": "neuromirror.vault.errors",
    "CopyRefusedError": "neuromirror.vault.errors",
    "CopyState": "neuromirror.index.ledger_rows",
    "DirectoryVault": "neuromirror.vault.directory",
    "Ledger": "neuromirror.index.ledger",
    "LedgerCopy": "neuromirror.index.ledger_rows",
    "LedgerEvent": "neuromirror.index.ledger_rows",
    "LedgerVault": "neuromirror.index.ledger_rows",
    "Presence": "neuromirror.vault.protocol",
    "Stored": "neuromirror.index.ledger_rows",
    "Vault": "neuromirror.vault.protocol",
    "VaultCredentialsError": "neuromirror.vault.errors",
    "VaultError": "neuromirror.vault.errors",
    "VaultFullError": "neuromirror.vault.errors",
    "VaultReadOnlyError": "neuromirror.vault.errors",
    "VaultUnavailableError": "neuromirror.vault.errors",
    "Wish": "neuromirror.index.ledger_rows",
    "open_ledger": "neuromirror.vault.opening",
    "open_vault": "neuromirror.vault.opening",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)
