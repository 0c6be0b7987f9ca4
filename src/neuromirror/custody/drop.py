"""Remove copies from a vault: listed first, and only what enough other vaults still have."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import suppress

from msgspec import Struct, field

from neuromirror.custody.copies import (
    KeepItem,
    KeepOutcome,
    UncheckedCopyError,
    copies_of,
    find_mismatch,
    item_outcome,
)
from neuromirror.index import Index, UnindexedFiles
from neuromirror.index.ledger import Ledger, LedgerCopy, Stored
from neuromirror.mint import CustodyRemote
from neuromirror.model import ConfigurationError, DatasetRef, NeuromirrorError
from neuromirror.store import Store
from neuromirror.store.custody import publish_locations
from neuromirror.transfer.outcomes import Status
from neuromirror.vault.protocol import CopyMissingError, Vault, VaultError

_BATCH = 500


class DropChangedError(ConfigurationError):
    """The copies that would be removed are not those that were listed."""


class DropRules(Struct, frozen=True):
    """The rules that protect copies.

    Attributes
    ----------
    released
        Numbers of the wishes that the removal ends.
    withdrawn
        The withdrawn datasets that the contents belong to, with their annex keys. Their last copies
        can be removed, unless other datasets have the contents, or may have them because the files
        of large Zarrs are not in the index.
    """

    released: frozenset[int] = frozenset()
    withdrawn: Mapping[DatasetRef, Collection[str]] = field(default_factory=dict)


class DropPlan(Struct):
    """The copies that are to be removed from a vault, from :func:`plan_drop`.

    Attributes
    ----------
    vault
        The vault.
    items
        The contents whose copies can be removed.
    refused
        Outcomes of the others.
    """

    vault: Vault
    rules: DropRules = DropRules()
    items: list[KeepItem] = field(default_factory=list)
    refused: list[KeepOutcome] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """The size of the copies that can be removed."""
        return sum(item.size or 0 for item in self.items)

    @property
    def id(self) -> str:
        """A digest of the vault and of the copies that can be removed, to confirm them."""
        digest = hashlib.sha256(self.vault.uuid.encode())
        for key in sorted(item.key for item in self.items):
            digest.update(b"\0" + key.encode())
        return digest.hexdigest()[:12]


def plan_drop(
    items: Sequence[KeepItem],
    vault: Vault,
    others: Sequence[Vault],
    ledger: Ledger,
    index: Index | None,
    rules: DropRules,
) -> DropPlan:
    """Find the copies that can be removed from a vault.

    Raises
    ------
    VaultError
        The vault cannot be read.
    """
    plan = DropPlan(vault, rules)
    keys = [one.key for one in items]
    recorded = copies_of(vault, ledger, keys)
    protected = ledger.wishes.needed(keys, vault.uuid, without=rules.released)
    elsewhere = _confirmed_copies(keys, vault, others, ledger)
    shared = set[str]()
    unindexed: list[UnindexedFiles] = []
    if index is not None and rules.withdrawn:
        shared = set(index.files.datasets_with(keys))
        unindexed = index.files.unindexed()
    for item in items:
        copies = elsewhere.get(item.key, [])
        own = recorded.get(item.key)
        if own is None:
            plan.refused.append(_outcome(vault, item, "notneeded", "the vault does not have it"))
        elif item.key in protected:
            why = "another 'neuromirror keep' or [[keep]] requires it in this vault"
            plan.refused.append(_outcome(vault, item, "impossible", why))
        elif item.key in shared:
            why = "other datasets have it"
            plan.refused.append(_outcome(vault, item, "notneeded", why))
        elif rules.withdrawn and unindexed and not copies:
            largest = max(one.largest for one in unindexed)
            why = (
                "files of large Zarrs are not in the index, so other datasets may have it; set "
                f"index_entries = {largest} in the mirror files and run 'neuromirror rebuild-index'"
            )
            plan.refused.append(_outcome(vault, item, "impossible", why))
        elif rules.withdrawn or _is_lost(vault, item.key, own, copies):
            plan.items.append(item)
        elif not copies:
            plan.refused.append(_outcome(vault, item, "impossible", "no other vault has it"))
        else:
            plan.items.append(item)
    return plan


def _is_lost(vault: Vault, key: str, own: LedgerCopy, others: Collection[str]) -> bool:
    """Return whether a copy that is recorded as missing or damaged has no right bytes now."""
    if own.state == "present":
        return False
    if all(one.size is None for one in vault.presence([key])):
        return True
    if own.state == "missing":
        return False
    try:
        return bool(others) or find_mismatch(vault, key) is not None
    except CopyMissingError:
        return True
    except UncheckedCopyError:
        return False  # its bytes may be readable later


def run_drop(
    plan: DropPlan, ledger: Ledger, store: Store | None, index: Index | None, confirmed: str
) -> Generator[KeepOutcome, None, None]:
    """Remove the copies of a plan.

    Raises
    ------
    DropChangedError
        Other copies than those of the confirmed plan would be removed.
    VaultError
        The vault cannot be written.
    """
    if confirmed != plan.id:
        raise DropChangedError(
            f"the copies that can be removed from {plan.vault.config.name} are not those that were "
            f"listed as {confirmed}; list them again and confirm {plan.id}"
        )
    vault = plan.vault
    vault.check_access(write=True)
    for start in range(0, len(plan.items), _BATCH):
        batch = plan.items[start : start + _BATCH]
        keys = [one.key for one in batch]
        recorded = copies_of(vault, ledger, keys)
        _publish(store, index, plan, removed=keys)
        try:
            for item in batch:
                # no record first: a copy that is counted is there
                ledger.forget(vault.uuid, [item.key])
                try:
                    vault.remove(item.key)
                except NeuromirrorError as error:
                    _restore_record(vault, ledger, recorded[item.key])
                    if isinstance(error, VaultError):
                        raise
                    yield _outcome(vault, item, "error", str(error))
                    continue
                yield _outcome(vault, item, "ok", "removed")
        finally:
            lacking = set(ledger.missing(vault.uuid, keys))
            _publish(store, index, plan, kept=[key for key in keys if key not in lacking])


def _confirmed_copies(
    keys: Sequence[str], vault: Vault, others: Sequence[Vault], ledger: Ledger
) -> dict[str, list[str]]:
    """Return the names of the other vaults that have each content now, by annex key."""
    recorded = ledger.copies(keys)
    found: dict[str, list[str]] = {}
    seen = {vault.uuid}
    for other in others:
        # two vault files can name one folder or bucket, whose copies count once
        if other.uuid in seen:
            continue
        seen.add(other.uuid)
        sizes = {
            one.key: one.size
            for some in recorded.values()
            for one in some
            if one.vault == other.uuid
        }
        for presence in other.presence(list(sizes)):
            if presence.agrees_with(sizes[presence.key]):
                found.setdefault(presence.key, []).append(other.config.name)
    return found


def _restore_record(vault: Vault, ledger: Ledger, copy: LedgerCopy) -> None:
    """Record a copy that was not removed, unless the vault does not confirm it."""
    with suppress(NeuromirrorError):
        for one in vault.presence([copy.key]):
            if one.size is not None:
                ledger.record(vault.uuid, [Stored(copy.key, one.size, one.method)])
                if copy.state != "present":
                    ledger.mark(vault.uuid, [copy.key], copy.state, one.method)


def _publish(
    store: Store | None,
    index: Index | None,
    plan: DropPlan,
    kept: Sequence[str] = (),
    removed: Sequence[str] = (),
) -> None:
    """Record in the repositories of datasets which contents a vault has, and has no more."""
    keys, vault = [*kept, *removed], plan.vault
    if store is None or index is None or not keys:
        return
    remote = CustodyRemote(vault.uuid, vault.config.name, vault.remote_config())
    by_dataset: dict[DatasetRef, set[str]] = {}
    for key, datasets in index.files.datasets_with(keys).items():
        for dataset in datasets:
            by_dataset.setdefault(dataset, set()).add(key)
    withdrawn = plan.rules.withdrawn
    by_dataset |= {dataset: set(keys).intersection(some) for dataset, some in withdrawn.items()}
    for dataset, some in by_dataset.items():
        if some:
            publish_locations(
                *(store, dataset, remote),
                kept=sorted(some.intersection(kept)),
                removed=sorted(some.intersection(removed)),
                withdrawn=dataset in withdrawn,
            )


def _outcome(vault: Vault, item: KeepItem, status: Status, message: str) -> KeepOutcome:
    return item_outcome(vault.config.name, item, status, message, "drop")
