"""Compare a vault with the ledger, and correct the ledger."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from itertools import islice
from typing import Final

from msgspec.structs import replace

from neuromirror.custody.copy_checks import (
    Fault,
    UncheckedCopyError,
    copies_of,
    find_fault,
    read_method,
    record_faults,
    recorded_copies,
)
from neuromirror.custody.keep_outcomes import KeepOutcome, copy_outcome
from neuromirror.index.ledger import Ledger
from neuromirror.index.ledger_rows import CheckMethod, LedgerEvent, Stored
from neuromirror.transfer.key_checksums import key_checksum
from neuromirror.transfer.outcomes import Status
from neuromirror.transfer.work_tree import map_in_order
from neuromirror.vault.errors import CopyMissingError
from neuromirror.vault.protocol import Vault

_BATCH: Final = 1000
_JOBS: Final = 4


def check_vault(vault: Vault, ledger: Ledger, *, full: bool = False) -> Iterator[KeepOutcome]:
    """Compare what a vault has with the ledger, and correct the ledger.

    Parameters
    ----------
    vault
        The vault.
    ledger
        The ledger.
    full
        Whether to read all contents, also those that are recorded.

    Yields
    ------
    KeepOutcome
        One per content that the vault has or should have.

    Raises
    ------
    VaultError
        The vault cannot be read; nothing is reported as missing then.
    """
    vault.check_access()
    name, uuid = vault.config.name, vault.uuid
    ledger.add_vault(uuid, name, vault.config.settings.kind)
    started = ledger.clock()
    listed = vault.keys()
    while batch := dict(islice(listed, _BATCH)):
        yield from _check_batch(vault, ledger, batch, full=full)
    message = "the vault does not have it any more"
    lost = ledger.finish_listing(uuid, started)
    ledger.events.add(LedgerEvent(ledger.clock(), "missing", message, name, key) for key in lost)
    # also those that were missing before
    for one in recorded_copies(vault, ledger, "missing"):
        yield _outcome(vault, one.key, None, "error", message)


def _check_batch(
    vault: Vault, ledger: Ledger, batch: dict[str, int], *, full: bool
) -> Iterator[KeepOutcome]:
    copies = copies_of(vault, ledger, list(batch))
    present = [key for key in batch if key in copies and copies[key].state == "present"]
    known = [key for key in present if not full and _has_size(key, batch[key])]
    ledger.record(vault.uuid, [Stored(key, batch[key], "listing") for key in known])
    for key in known:
        yield _outcome(vault, key, batch[key], "notneeded", "in the vault")
    unknown = [key for key in batch if key not in set(known)]
    yield from _read(vault, ledger, unknown, batch, copies.keys())


def _read(
    vault: Vault,
    ledger: Ledger,
    keys: list[str],
    sizes: dict[str, int],
    recorded: Collection[str],
) -> Iterator[KeepOutcome]:
    """Read contents; record those that are right, and what was found about recorded ones."""
    stop = threading.Event()

    def check(key: str) -> tuple[str, str | None, CheckMethod | None]:
        try:
            return key, find_fault(vault, key, stop), read_method(key)
        except UncheckedCopyError as error:
            return key, str(error), "listing"
        except CopyMissingError as error:
            return key, str(error), None

    confirmed: list[Stored] = []
    damaged: list[Fault] = []
    for key, fault, method in map_in_order(_JOBS, stop, check, keys):
        if fault is None and method is not None:
            confirmed.append(Stored(key, sizes[key], method))
            yield replace(_outcome(vault, key, sizes[key], "ok", "read"), method=method)
            continue
        if method == "listing" and _has_size(key, sizes[key]):
            # it was listed, so that it is not missing; a damaged copy stays damaged
            confirmed += [Stored(key, sizes[key], method)] if key in recorded else []
        elif method is not None and key in recorded:
            damaged.append(Fault(key, "damaged", fault or ""))
        yield _outcome(vault, key, sizes[key], "error", fault or "")
    ledger.record(vault.uuid, confirmed)
    record_faults(vault, ledger, damaged)


def _has_size(key: str, size: int) -> bool:
    return key_checksum(key).size in (None, size)


def _outcome(vault: Vault, key: str, size: int | None, status: Status, message: str) -> KeepOutcome:
    return copy_outcome("vault", vault.config.name, key, size, status, message)
