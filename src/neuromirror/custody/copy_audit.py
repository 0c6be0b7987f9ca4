"""Ask vaults whether they still have the recorded copies, without reading them."""

from __future__ import annotations

from collections.abc import Iterator

from neuromirror.custody.keep import KeepOutcome
from neuromirror.index.ledger import Ledger
from neuromirror.index.ledger_rows import LedgerCopy, LedgerEvent, Stored
from neuromirror.vault import Presence, Vault

_BATCH = 1000


def audit_copies(vault: Vault, ledger: Ledger, before: float, budget: int) -> Iterator[KeepOutcome]:
    """Check copies that were not checked since a time; those that are gone do not count any more.

    Parameters
    ----------
    vault
        The vault.
    ledger
        The ledger.
    before
        POSIX seconds: copies whose last check is later are not checked.
    budget
        Maximum number of copies.

    Yields
    ------
    KeepOutcome
        One per copy (action ``audit``).

    Raises
    ------
    VaultError
        The vault does not respond; no copy is reported as missing then.
    """
    vault.check_access()
    while budget > 0:
        oldest = ledger.least_recently("checked", vault.uuid, min(budget, _BATCH))
        due = {one.key: one for one in oldest if one.checked < before}
        if not due:
            return
        budget -= len(due)
        confirmed: list[Stored] = []
        for found in vault.presence(list(due)):
            copy = due.pop(found.key)
            if found.size == copy.size:
                confirmed.append(Stored(copy.key, copy.size, found.method))
                yield _outcome(vault, copy, "ok", "the vault has it")
            else:
                yield _lost(vault, ledger, copy, found)
        ledger.record(vault.uuid, confirmed)


def _lost(vault: Vault, ledger: Ledger, copy: LedgerCopy, found: Presence) -> KeepOutcome:
    name, now = vault.config.name, ledger.clock()
    if found.size is None:
        message = "the vault does not have it any more"
        ledger.mark(vault.uuid, [copy.key], "missing", found.method)
        ledger.events.add([LedgerEvent(now, "missing", f"{name}: {message}", name, copy.key)])
    else:
        message = f"the vault has {found.size} bytes, expected {copy.size}"
        ledger.mark(vault.uuid, [copy.key], "damaged", found.method)
        ledger.events.add([LedgerEvent(now, "damaged", f"{name}: {message}", name, copy.key)])
    return _outcome(vault, copy, "error", message)


def _outcome(vault: Vault, copy: LedgerCopy, status: str, message: str) -> KeepOutcome:
    return KeepOutcome(
        *("audit", status, "."),  # type: ignore[arg-type]
        message=message,
        key=copy.key,
        size=copy.size,
        vault=vault.config.name,
    )
