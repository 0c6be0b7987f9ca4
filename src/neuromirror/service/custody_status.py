"""The status of policies and vaults, for ``status`` and metrics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from msgspec import Struct, field

from neuromirror.custody.drill_records import DrillRecords, DrillResult
from neuromirror.custody.policy_status import PoliciesStatus
from neuromirror.index.ledger import Ledger
from neuromirror.index.ledger_rows import LedgerVault
from neuromirror.model import NeuromirrorError, count_of
from neuromirror.store import Store


class CustodyStatus(Struct):
    """The status of policies, vaults and drills of a store.

    Attributes
    ----------
    policies
        The results of the last runs of policies.
    vaults
        The vaults with the totals of their copies.
    announced
        Number of contents with announced missing copies, by policy.
    drills
        The last drill of each lock file, by its path.
    problem
        Why the ledger cannot be read; empty if it can.
    """

    policies: PoliciesStatus
    vaults: list[LedgerVault] = field(default_factory=list)
    announced: dict[str, int] = field(default_factory=dict)
    drills: dict[str, DrillResult] = field(default_factory=dict)
    problem: str = ""

    @classmethod
    def load(cls, store: Store) -> CustodyStatus:
        """Read the status; it is empty for a store without vaults.

        Parameters
        ----------
        store
            The store.
        """
        found = cls(PoliciesStatus.load(store), drills=DrillRecords.load(store).drills)
        if store.ledger_path.exists():
            try:
                with Ledger.open(store.ledger_path) as ledger:
                    found.vaults = ledger.vaults()
                    found.announced = ledger.events.announced()
            except NeuromirrorError as error:
                found.problem = str(error)
        return found

    def problems(self) -> Iterator[str]:
        """Yield a message for everything that an operator has to look at."""
        if self.problem:
            yield self.problem
        yield from policy_problems(self.policies)
        yield from damaged_vaults(self.vaults)
        for path, one in self.drills.items():
            if not one.ok:
                yield f"drill of {path}: {one.message}"


def policy_problems(status: PoliciesStatus) -> list[str]:
    """Return a message for each policy with contents that cannot be kept in time, and per vault.

    Parameters
    ----------
    status
        The results of the last runs.

    Returns
    -------
    list[str]
        The messages.
    """
    found = []
    for name, one in status.policies.items():
        if one.announced:
            when = ""
            if one.horizon:
                date = datetime.fromisoformat(one.horizon).date()
                when = f"; upstream may delete some from {date} on"
            found.append(
                f"policy {name}: {count_of(one.announced, 'content')} cannot be kept in time{when} "
                "('neuromirror policies' shows why)"
            )
        found += (f"policy {name}: {problem}" for problem in one.problems[:1])
    return found + [f"vault {name}: {problem}" for name, problem in status.vaults.items()]


def damaged_vaults(vaults: Iterable[LedgerVault]) -> list[str]:
    """Return a message for each vault with copies that are damaged or lost.

    Parameters
    ----------
    vaults
        The vaults.

    Returns
    -------
    list[str]
        The messages.
    """
    return [
        f"vault {one.name}: {one.damaged} copies are damaged and {one.missing} are missing "
        f"('neuromirror vault check {one.name}' lists them)"
        for one in vaults
        if one.damaged or one.missing
    ]
