"""Compare vaults with the ledger, read copies that are due, and correct the ledger."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import islice
from typing import Final, Literal, NamedTuple

from msgspec.structs import replace

from neuromirror.custody.copies import (
    KeepOptions,
    KeepOutcome,
    UncheckedCopyError,
    copies_of,
    copy_outcome,
    find_fault,
    look_up_copies,
    read_method,
)
from neuromirror.index.ledger import CheckMethod, Ledger, Stored
from neuromirror.transfer.content_bodies import key_checksum
from neuromirror.transfer.outcomes import Status
from neuromirror.transfer.work_tree import map_in_order
from neuromirror.vault.errors import CopyMissingError, CopyRefusedError
from neuromirror.vault.protocol import Vault

_BATCH: Final = 1000
_LOOKED_UP: Final = 300
"""Copies per request of a vault; of more, S3 lists the whole bucket."""
_READ: Final = 256
_JOBS: Final = 4
_DAY: Final = 86_400.0
_LOST: Final = "the vault does not have it any more"


def check_vault(vault: Vault, ledger: Ledger, *, full: bool = False) -> Iterator[KeepOutcome]:
    """Compare what a vault has with the ledger, and correct the ledger.

    Copies that are not recorded or not present in the ledger are read; with ``full``, all of them.

    Raises
    ------
    VaultError
        The vault cannot be read; nothing is reported as missing then.
    """
    vault.check_access()
    uuid = vault.uuid
    ledger.add_vault(uuid, vault.config.name, vault.config.settings.kind)
    started = ledger.clock()
    listed = vault.keys()
    while batch := dict(islice(listed, _BATCH)):
        copies = copies_of(vault, ledger, list(batch))
        known: dict[str, int] = {}
        if not full:
            present = (key for key, one in copies.items() if one.state == "present")
            known = {key: batch[key] for key in present if _has_size(key, batch[key])}
        ledger.record(uuid, [Stored(key, size, "listing") for key, size in known.items()])
        for key, size in known.items():
            yield _outcome(vault, key, size, "notneeded", "in the vault")
        unknown = {key: size for key, size in batch.items() if key not in known}
        for check in _read(vault, ledger, unknown, KeepOptions()):
            if check.is_unread and check.key in copies and _has_size(check.key, check.size):
                # it was listed, so that it is not missing; a damaged copy stays damaged
                ledger.record(uuid, [Stored(check.key, check.size, "listing")])
            elif check.is_unread and not _has_size(check.key, check.size):
                ledger.mark(uuid, [check.key], "damaged", "listing")
            yield check.outcome(vault)
    ledger.finish_listing(uuid, started)
    # also those that were missing before
    last = ""
    while lost := ledger.copies_in(uuid, after=last, state="missing"):
        last = lost[-1].key
        for one in lost:
            yield _outcome(vault, one.key, None, "error", _LOST)


def read_due_copies(
    vault: Vault, ledger: Ledger, days: float, options: KeepOptions
) -> Iterator[KeepOutcome]:
    """Read the copies that were not read for some days, those of the longest time first.

    A copy that could not be read has the name of the vault as ``host``; nothing is known about it.

    Raises
    ------
    VaultError
        The vault cannot be read.
    """
    vault.check_access()
    before, unread = ledger.clock() - days * _DAY, 0
    while not options.is_over:
        # those that could not be read stay the oldest ones
        oldest = ledger.least_recently("hashed", vault.uuid, _READ, offset=unread)
        due = {one.key: one.size for one in oldest if one.hashed < before}
        if not due:
            return
        for check in _read(vault, ledger, due, options):
            unread += check.is_unread
            if check.fault is not None and check.method is None:
                ledger.mark(vault.uuid, [check.key], "missing", "listing")
            outcome = check.outcome(vault)
            yield replace(outcome, host=vault.config.name) if check.is_unread else outcome


class _Check(NamedTuple):
    """The result of reading a copy; without a method, the vault does not have it."""

    key: str
    size: int
    fault: str | None
    method: CheckMethod | None
    is_unread: bool = False

    def outcome(self, vault: Vault) -> KeepOutcome:
        status: Status = "ok" if self.fault is None else "error"
        outcome = _outcome(vault, self.key, self.size, status, self.fault or "read")
        return outcome if self.fault is not None else replace(outcome, method=self.method)


def _read(
    vault: Vault, ledger: Ledger, sizes: dict[str, int], options: KeepOptions
) -> Iterator[_Check]:
    """Read copies; record those that are right, and recorded ones that are damaged."""
    stop = threading.Event()

    def check(key: str) -> _Check | None:
        if options.is_over:
            return None
        try:
            return _Check(key, sizes[key], find_fault(vault, key, stop), read_method(key))
        except UncheckedCopyError as error:
            return _Check(key, sizes[key], str(error), "listing", is_unread=True)
        except CopyMissingError as error:
            return _Check(key, sizes[key], str(error), None)

    right: list[Stored] = []
    try:
        for found in map_in_order(_JOBS, stop, check, sizes):
            if found is None:
                continue
            if found.method is not None and found.fault is None:
                right.append(Stored(found.key, found.size, found.method))
            elif found.method is not None and not found.is_unread:
                # a vault that fails in the middle is no reason to distrust its copies
                vault.check_access()
                ledger.mark(vault.uuid, [found.key], "damaged", "full-read")
            yield found
    finally:
        # also if the vault fails, or the caller stops here: what was read is not read once more
        ledger.record(vault.uuid, right)


def audit_copies(vault: Vault, ledger: Ledger, before: float, budget: int) -> Iterator[KeepOutcome]:
    """Look up copies that were not checked since a time; those that are gone do not count any more.

    One with status ``error`` and a host stands for a copy that the vault refuses to describe.

    Raises
    ------
    VaultError
        The vault does not respond; no copy is reported as missing then.
    """
    vault.check_access()
    name, unchecked = vault.config.name, 0
    while budget > 0:
        # those that could not be checked stay the oldest ones
        limit = min(budget, _LOOKED_UP)
        oldest = ledger.least_recently("checked", vault.uuid, limit, offset=unchecked)
        due = {one.key: one for one in oldest if one.checked < before}
        if not due:
            return
        budget -= len(due)
        confirmed: list[Stored] = []
        try:
            for key, found in look_up_copies(vault, list(due)):
                size = due[key].size
                if isinstance(found, CopyRefusedError):
                    unchecked += 1
                    why = f"it could not be checked: {found}"
                    outcome = copy_outcome("audit", name, key, size, "error", why)
                    yield replace(outcome, host=name)
                elif found.agrees_with(size):
                    confirmed.append(Stored(key, size, found.method))
                    yield copy_outcome("audit", name, key, size, "ok", "the vault has it")
                else:
                    state: Literal["missing", "damaged"] = "missing"
                    message = _LOST
                    if found.size is not None:
                        state = "damaged"
                        message = f"the vault has {found.size} bytes, expected {size}"
                    ledger.mark(vault.uuid, [key], state, found.method)
                    yield copy_outcome("audit", name, key, size, "error", message)
        finally:
            # also if the vault fails, or the caller stops here
            ledger.record(vault.uuid, confirmed)


def _has_size(key: str, size: int) -> bool:
    return key_checksum(key).size in (None, size)


def _outcome(vault: Vault, key: str, size: int | None, status: Status, message: str) -> KeepOutcome:
    return copy_outcome("vault", vault.config.name, key, size, status, message)
