"""Remove copies from a vault: listed first, and only what enough other vaults still have."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from neuromirror.custody.keep import KeepOutcome
from neuromirror.custody.keep_plan import KeepItem
from neuromirror.index import Index
from neuromirror.index.ledger import Ledger
from neuromirror.index.ledger_rows import LedgerCopy, LedgerEvent
from neuromirror.mint import CustodyRemote
from neuromirror.model import ConfigurationError, NeuromirrorError
from neuromirror.store import Store
from neuromirror.store.custody import publish_locations
from neuromirror.vault import Vault, VaultError

_BATCH = 500


class DropChangedError(ConfigurationError):
    """The copies that would be removed are not those that were listed."""


@dataclass(frozen=True, slots=True)
class DropRules:
    """What protects copies.

    Attributes
    ----------
    minimum_copies
        Number of copies that other vaults must have. If 0, upstream has to promise to keep what no
        other vault has.
    released
        Numbers of the wishes that the removal ends.
    """

    minimum_copies: int = 1
    released: frozenset[int] = frozenset()


@dataclass(slots=True)
class DropPlan:
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
    items: list[KeepItem] = field(default_factory=list)
    refused: list[KeepOutcome] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """The size of the copies that can be removed."""
        return sum(one.size or 0 for one in self.items)

    @property
    def id(self) -> str:
        """A digest of the vault and of the copies that can be removed, to confirm them."""
        digest = hashlib.sha256(self.vault.uuid.encode())
        for key in sorted(one.key for one in self.items):
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

    Parameters
    ----------
    items
        The contents.
    vault
        The vault.
    others
        The other vaults that respond; each is asked whether it has its recorded copies.
    ledger
        The ledger.
    index
        The index, which knows what upstream promises to keep; None without one.
    rules
        What protects copies.

    Returns
    -------
    DropPlan
        The copies that can be removed, and why the others cannot.

    Raises
    ------
    VaultError
        The vault cannot be read.
    """
    plan = DropPlan(vault)
    keys = [one.key for one in items]
    lacking = set(ledger.missing(vault.uuid, keys))
    protected = ledger.wishes.needed(keys, vault.uuid, without=rules.released)
    elsewhere = _confirmed_copies(keys, vault, others, ledger)
    promised: set[str] = set()
    if index is not None and not rules.minimum_copies:
        promised = {key for key, one in index.content_sources(keys).items() if one.is_promised}
    for item in items:
        copies = elsewhere.get(item.key, [])
        if item.key in lacking:
            plan.refused.append(_outcome(vault, item, "notneeded", "the vault does not have it"))
        elif item.key in protected:
            why = "a policy or another 'neuromirror keep' wants it in this vault"
            plan.refused.append(_outcome(vault, item, "impossible", why))
        elif len(copies) < rules.minimum_copies:
            why = f"{len(copies)} other vaults have it, {rules.minimum_copies} are required"
            plan.refused.append(_outcome(vault, item, "impossible", why))
        elif not copies and item.key not in promised:
            why = "no other vault has it, and upstream does not promise to keep it"
            plan.refused.append(_outcome(vault, item, "impossible", why))
        else:
            plan.items.append(item)
    return plan


def run_drop(
    plan: DropPlan, ledger: Ledger, store: Store | None, index: Index | None, confirmed: str
) -> Iterator[KeepOutcome]:
    """Remove the copies of a plan.

    Parameters
    ----------
    plan
        The plan.
    ledger
        The ledger.
    store, index
        The store and its index, in which clones find the copies; None without them.
    confirmed
        The id of the plan that was listed and confirmed.

    Yields
    ------
    KeepOutcome
        One per content (action ``drop``).

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
        # no record first: a copy that is counted is there
        ledger.forget(vault.uuid, [one.key for one in batch])
        _unpublish(store, index, vault, [one.key for one in batch])
        for item in batch:
            try:
                vault.remove(item.key)
            except VaultError:
                raise
            except NeuromirrorError as error:
                yield _outcome(vault, item, "error", str(error))
            else:
                yield _outcome(vault, item, "ok", "removed")
        name, now = vault.config.name, ledger.clock()
        ledger.events.add(
            LedgerEvent(now, "removed", f"{name}: removed on request", name, one.key, one.dataset)
            for one in batch
        )


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
            one.key: one.size for some in recorded.values() for one in _copies_in(some, other.uuid)
        }
        for presence in other.presence(list(sizes)):
            if presence.size == sizes[presence.key]:
                found.setdefault(presence.key, []).append(other.config.name)
    return found


def _copies_in(copies: Sequence[LedgerCopy], vault: str) -> Iterator[LedgerCopy]:
    return (one for one in copies if one.vault == vault)


def _unpublish(store: Store | None, index: Index | None, vault: Vault, keys: Sequence[str]) -> None:
    """Record in the repositories of datasets that a vault has contents no more."""
    if store is None or index is None:
        return
    remote = CustodyRemote(vault.uuid, vault.config.name, vault.remote_config())
    by_dataset: dict[object, list[str]] = {}
    references = {}
    for source in index.content_sources(keys).values():
        for reference in source.datasets:
            references[reference.dataset_id] = reference
            by_dataset.setdefault(reference.dataset_id, []).append(source.key)
    for dataset_id, some in by_dataset.items():
        publish_locations(store, references[str(dataset_id)], remote, removed=sorted(some))


def _outcome(vault: Vault, item: KeepItem, status: str, message: str) -> KeepOutcome:
    return KeepOutcome(
        *("drop", status, item.path, message, item.dataset, item.version),  # type: ignore[arg-type]
        key=item.key,
        size=item.size,
        vault=vault.config.name,
    )
