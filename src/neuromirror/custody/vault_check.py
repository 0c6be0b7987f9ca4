"""Compare a vault with the ledger, and correct the ledger."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import islice
from typing import Final

from neuromirror.custody.copy_checks import UncheckedCopyError, find_fault, read_method
from neuromirror.custody.keep import KeepOutcome
from neuromirror.index.ledger import Ledger
from neuromirror.index.ledger_rows import CheckMethod, LedgerEvent, Stored
from neuromirror.transfer.key_checksums import key_checksum
from neuromirror.transfer.work_tree import map_in_order
from neuromirror.vault import CopyMissingError, Vault

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
    lost = ledger.finish_listing(uuid, started)
    message = "the vault does not have it any more"
    ledger.events.add(LedgerEvent(ledger.clock(), "missing", message, name, key) for key in lost)
    for key in lost:
        yield _outcome(vault, key, None, "error", message)


def _check_batch(
    vault: Vault, ledger: Ledger, batch: dict[str, int], *, full: bool
) -> Iterator[KeepOutcome]:
    new = set(ledger.missing(vault.uuid, list(batch)))
    known = [key for key in batch if key not in new and not full and _has_size(key, batch[key])]
    ledger.record(vault.uuid, [Stored(key, batch[key], "listing") for key in known])
    for key in known:
        yield _outcome(vault, key, batch[key], "notneeded", "in the vault")
    unknown = [key for key in batch if key not in set(known)]
    yield from _read(vault, ledger, unknown, batch, new)


def _read(
    vault: Vault, ledger: Ledger, keys: list[str], sizes: dict[str, int], new: set[str]
) -> Iterator[KeepOutcome]:
    """Read contents; record those that are right, and as damaged those that are recorded."""
    stop = threading.Event()

    def check(key: str) -> tuple[str, str | None, bool]:
        try:
            return key, find_fault(vault, key, stop), True
        except (CopyMissingError, UncheckedCopyError) as error:
            return key, str(error), False

    right: list[Stored] = []
    damaged: list[str] = []
    for key, fault, is_read in map_in_order(_JOBS, stop, check, keys):
        if fault is None:
            right.append(Stored(key, sizes[key], read_method(key)))
            yield _outcome(vault, key, sizes[key], "ok", "read", read_method(key))
        else:
            if key not in new and is_read:
                damaged.append(key)
            yield _outcome(vault, key, sizes[key], "error", fault)
    ledger.record(vault.uuid, right)
    ledger.mark(vault.uuid, damaged, "damaged", "full-read")
    now, name = ledger.clock(), vault.config.name
    ledger.events.add(
        LedgerEvent(now, "damaged", f"{name}: the bytes are wrong", name, key) for key in damaged
    )


def _has_size(key: str, size: int) -> bool:
    return key_checksum(key).size in (None, size)


def _outcome(
    vault: Vault,
    key: str,
    size: int | None,
    status: str,
    message: str,
    method: CheckMethod | None = None,
) -> KeepOutcome:
    return KeepOutcome(
        *("vault", status, "."),  # type: ignore[arg-type]
        message=message,
        key=key,
        size=size,
        vault=vault.config.name,
        method=method,
    )
