"""Read every byte of a vault within some days, and repair what is damaged.

The copies whose bytes were not hashed for the longest time are read first, so that each run
continues where the last one stopped.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Final
from urllib.parse import urlsplit

from msgspec.structs import replace

from neuromirror.annex import parse_key
from neuromirror.custody.copy_checks import (
    Fault,
    UncheckedCopyError,
    find_fault,
    look_up_copies,
    read_method,
    record_faults,
    recorded_copies,
)
from neuromirror.custody.keep_outcomes import KeepOptions, KeepOutcome, copy_outcome
from neuromirror.custody.keep_plan import KeepItem
from neuromirror.custody.vault_copies import CopyTask, fill_vault
from neuromirror.index import ContentSource, Index
from neuromirror.index.ledger import Ledger
from neuromirror.index.ledger_rows import CheckMethod, CopyState, LedgerCopy, LedgerEvent, Stored
from neuromirror.transfer.outcomes import Status
from neuromirror.transfer.work_tree import map_in_order
from neuromirror.vault.errors import CopyMissingError, CopyRefusedError
from neuromirror.vault.protocol import Vault

_DAY: Final = 86_400.0
_BATCH: Final = 256
_JOBS: Final = 4


def read_due_copies(
    vault: Vault, ledger: Ledger, days: float, options: KeepOptions
) -> Iterator[KeepOutcome]:
    """Read the copies of a vault that are due, and mark those with wrong bytes as damaged.

    A copy is due when three quarters of the time have passed, so that a vault that is down for
    some days is still read in time.

    Parameters
    ----------
    vault
        The vault.
    ledger
        The ledger.
    days
        Every content is read within this time.
    options
        When to stop.

    Yields
    ------
    KeepOutcome
        One per content that was read (action ``read``); one with status ``error`` and a host for
        each that could not be read, of which nothing is known.

    Raises
    ------
    VaultError
        The vault cannot be read; no copy is reported as damaged then.
    """
    vault.check_access()
    before = ledger.clock() - 0.75 * days * _DAY
    stop = threading.Event()

    def check(one: LedgerCopy) -> tuple[LedgerCopy, str | None, bool]:
        if options.is_over:
            return one, None, False
        try:
            return one, find_fault(vault, one.key, stop), True
        except CopyMissingError:
            return one, "the vault does not have it", True
        except UncheckedCopyError as error:
            return one, str(error), False

    def outcome(
        one: LedgerCopy, status: Status, message: str, method: CheckMethod | None = None
    ) -> KeepOutcome:
        name = vault.config.name
        return copy_outcome("read", name, one.key, one.size, status, message, method)

    unread = 0
    while not options.is_over:
        # those that could not be read stay the oldest ones
        oldest = ledger.least_recently("hashed", vault.uuid, _BATCH, offset=unread)
        due = [one for one in oldest if one.hashed < before]
        if not due:
            return
        right: list[Stored] = []
        try:
            for one, fault, is_read in map_in_order(_JOBS, stop, check, due):
                if not is_read:
                    if fault is not None:
                        unread += 1
                        yield replace(outcome(one, "error", fault), host=vault.config.name)
                    continue
                if fault is None:
                    right.append(Stored(one.key, one.size, read_method(one.key)))
                    yield outcome(one, "ok", "all bytes read", read_method(one.key))
                    continue
                # a vault that fails in the middle is no reason to distrust its copies
                vault.check_access()
                _record(vault, ledger, one, fault)
                yield outcome(one, "error", fault)
        finally:
            # also if the vault fails, or the caller stops here: what was read is not read once more
            ledger.record(vault.uuid, right)


def repair_copies(
    vault: Vault,
    others: Sequence[Vault],
    ledger: Ledger,
    index: Index | None,
    options: KeepOptions,
) -> Iterator[KeepOutcome]:
    """Replace damaged and missing copies of a vault from other vaults, else from upstream.

    Parameters
    ----------
    vault
        The vault.
    others
        The other vaults.
    ledger
        The ledger.
    index
        The index, which knows where contents are upstream; None without one.
    options
        The options of copying.

    Yields
    ------
    KeepOutcome
        One per copy (action ``repair``): ``ok`` if the vault has the right bytes again.

    Raises
    ------
    VaultError
        The vault cannot be written.
    """
    ledger.add_vault(vault.uuid, vault.config.name, vault.config.settings.kind)
    damaged = [one.key for one in recorded_copies(vault, ledger, "damaged")]
    missing = [one.key for one in recorded_copies(vault, ledger, "missing")]
    needed = ledger.wishes.needed([*damaged, *missing], vault.uuid)
    required = [key for key in (*damaged, *missing) if key in needed]
    # missing contents that no policy keeps need no attention
    ledger.forget(vault.uuid, [key for key in missing if key not in needed])
    if not required or vault.config.settings.read_only:
        return
    upstream = {} if index is None else index.content_sources(required)
    known = ledger.copies(required)
    by_uuid = {one.uuid: one for one in others if one.uuid != vault.uuid}
    tasks = [
        CopyTask(
            _item(key, upstream.get(key)),
            [by_uuid[one.vault] for one in known.get(key, ()) if one.vault in by_uuid],
        )
        for key in required
    ]
    hosts = {urlsplit(ref.source_uri).netloc for one in upstream.values() for ref in one.datasets}
    options = replace(options, allowed_hosts=options.allowed_hosts | hosts)
    for outcome in fill_vault(tasks, vault, ledger, options):
        yield _repaired(ledger, outcome)


def _item(key: str, source: ContentSource | None) -> KeepItem:
    if source is None:
        return KeepItem("", "", ".", key, parse_key(key).size, ())
    ref = source.datasets[0]
    name = f"{ref.mirror}:{ref.local_id}"
    return KeepItem(name, "", source.path, key, source.size, source.urls)


def _repaired(ledger: Ledger, outcome: KeepOutcome) -> KeepOutcome:
    if outcome.status == "ok":
        message = f"{outcome.vault}: the copy was replaced ({outcome.message or 'from upstream'})"
        ledger.events.add(
            [
                LedgerEvent(
                    *(ledger.clock(), "repaired", message),
                    vault=outcome.vault,
                    key=outcome.key,
                    dataset=outcome.dataset or None,
                )
            ]
        )
    return replace(outcome, action="repair")


def _record(vault: Vault, ledger: Ledger, copy: LedgerCopy, fault: str) -> None:
    # a copy that the vault refuses to describe is there
    ((_, found),) = look_up_copies(vault, [copy.key])
    is_there = isinstance(found, CopyRefusedError) or found.size is not None
    state: CopyState = "damaged" if is_there else "missing"
    record_faults(vault, ledger, [Fault(copy.key, state, fault)])
