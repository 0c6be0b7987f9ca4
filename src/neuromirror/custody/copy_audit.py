"""Ask vaults whether they still have the recorded copies, without reading them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from msgspec.structs import replace

from neuromirror.custody.copy_checks import look_up_copies
from neuromirror.custody.keep_outcomes import KeepOutcome, copy_outcome
from neuromirror.index.ledger import Ledger
from neuromirror.index.ledger_rows import LedgerCopy, LedgerEvent, Stored
from neuromirror.vault.errors import CopyRefusedError
from neuromirror.vault.protocol import Presence, Vault

_BATCH = 300
"""Copies per request of a vault; of more, S3 lists the whole bucket."""


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
        One per copy (action ``audit``); one with status ``error`` and a host for each that the
        vault refuses to describe, of which nothing is known.

    Raises
    ------
    VaultError
        The vault does not respond; no copy is reported as missing then.
    """
    vault.check_access()
    name, unchecked = vault.config.name, 0
    while budget > 0:
        # those that could not be checked stay the oldest ones
        limit = min(budget, _BATCH)
        oldest = ledger.least_recently("checked", vault.uuid, limit, offset=unchecked)
        due = {one.key: one for one in oldest if one.checked < before}
        if not due:
            return
        budget -= len(due)
        confirmed: list[Stored] = []
        try:
            for key, found in look_up_copies(vault, list(due)):
                copy = due[key]
                if isinstance(found, CopyRefusedError):
                    unchecked += 1
                    why = f"it could not be checked: {found}"
                    outcome = copy_outcome("audit", name, key, copy.size, "error", why)
                    yield replace(outcome, host=name)
                elif found.agrees_with(copy.size):
                    confirmed.append(Stored(copy.key, copy.size, found.method))
                    yield copy_outcome("audit", name, key, copy.size, "ok", "the vault has it")
                else:
                    yield _lost(vault, ledger, copy, found)
        finally:
            # also if the vault fails, or the caller stops here
            ledger.record(vault.uuid, confirmed)


def _lost(vault: Vault, ledger: Ledger, copy: LedgerCopy, found: Presence) -> KeepOutcome:
    name = vault.config.name
    state: Literal["missing", "damaged"] = "missing"
    message = "the vault does not have it any more"
    if found.size is not None:
        state, message = "damaged", f"the vault has {found.size} bytes, expected {copy.size}"
    ledger.mark(vault.uuid, [copy.key], state, found.method)
    event = LedgerEvent(ledger.clock(), state, f"{name}: {message}", name, copy.key)
    ledger.events.add([event])
    return copy_outcome("audit", name, copy.key, copy.size, "error", message)
