"""The status of what is kept in vaults, for ``status`` and metrics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct, field

from neuromirror.custody.records import DrillRecords, DrillResult, KeepRecords, KeepResult
from neuromirror.index.ledger import Ledger, LedgerVault
from neuromirror.model import NeuromirrorError
from neuromirror.store import Store


class CustodyStatus(Struct):
    """The last run of ``[[keep]]``, the vaults and the drills of a store.

    ``problem`` is why the ledger cannot be read.
    """

    keeps: list[KeepResult]
    vaults: list[LedgerVault] = field(default_factory=list)
    drills: dict[str, DrillResult] = field(default_factory=dict)
    problem: str = ""

    @classmethod
    def load(cls, store: Store) -> CustodyStatus:
        """Read the status; it is empty for a store without vaults."""
        found = cls(KeepRecords.load(store).keeps, drills=DrillRecords.load(store).drills)
        if store.ledger_path.exists():
            try:
                with Ledger.open(store.ledger_path) as ledger:
                    found.vaults = ledger.vaults()
            except NeuromirrorError as error:
                found.problem = str(error)
        return found

    def problems(self) -> Iterator[str]:
        """Yield a message for everything that an operator has to look at."""
        if self.problem:
            yield self.problem
        yield from keep_problems(self.keeps)
        yield from damaged_vaults(self.vaults)
        for path, one in self.drills.items():
            if not one.ok:
                yield f"drill of {path}: {one.message}"


def keep_problems(keeps: Iterable[KeepResult]) -> list[str]:
    """Return a message for each reason why contents could not be kept."""
    return [f"keep {one.locks} in {one.vault}: {why}" for one in keeps for why in one.problems]


def damaged_vaults(vaults: Iterable[LedgerVault]) -> list[str]:
    """Return a message for each vault with copies that are damaged or lost."""
    return [
        f"vault {one.name}: {one.damaged} copies are damaged and {one.missing} are missing "
        f"('neuromirror vault check {one.name}' lists them)"
        for one in vaults
        if one.damaged or one.missing
    ]
