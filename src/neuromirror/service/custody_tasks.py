"""The keeps of the service: its housekeeping task, and its state for status and metrics."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from msgspec import Struct, field

from neuromirror.config.vault_files import Keep, KeepList, VaultConfig, load_keeps, load_vaults
from neuromirror.custody.copies import KeepOptions, contents_of_lock, open_to_fill
from neuromirror.custody.drill import DrillRecords, DrillResult, KeepRecords, KeepResult
from neuromirror.custody.keep import keep
from neuromirror.custody.vaults import read_due_copies
from neuromirror.index import Index
from neuromirror.index.ledger import Ledger, LedgerVault, Wish
from neuromirror.lab.lockfile import load_lock
from neuromirror.model import NeuromirrorError, count_of
from neuromirror.store import Store
from neuromirror.vault.opening import open_ledger
from neuromirror.vault.protocol import Vault, VaultError


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
        f"vault {vault.name}: {vault.damaged} copies are damaged and {vault.missing} are missing "
        f"('neuromirror vault check {vault.name}' lists them)"
        for vault in vaults
        if vault.damaged or vault.missing
    ]


_NAMED: Final = 3
_RECORDED: Final = 20


class CustodyError(NeuromirrorError):
    """Contents could not be kept, copies are damaged, or a vault cannot be used."""


def run_keeps(
    store: Store,
    index_path: Path,
    folder: Path,
    seconds: float,
    is_stopping: Callable[[], bool] = lambda: False,
) -> str:
    """Run the ``[[keep]]`` tables in a folder of vault files; return a summary.

    For each table, the copies in its vault that are due are read; then contents of the lock files
    that the vault lacks are copied, also those that were found damaged. What does not fit in the
    time is done in the next run.

    Raises
    ------
    CustodyError
        Something could not be kept, or copies are damaged or missing; the rest was done.
    """
    configs = load_vaults(folder)
    keeps = load_keeps(folder, configs)
    records = KeepRecords(datetime.now(UTC).isoformat(timespec="seconds"))
    until, done = time.monotonic() + seconds, Counter[str]()
    with Index.open_readonly(index_path) as index, open_ledger(store) as ledger:
        run = _KeepRun(store, index, ledger, configs, done, is_stopping)
        for number, table in enumerate(keeps.keeps):
            result = KeepResult(table.locks, table.vault)
            records.keeps.append(result)
            # the first ones leave time for the others
            share = max(0.0, until - time.monotonic()) / (len(keeps.keeps) - number)
            try:
                run.keep(table, keeps, share, result)
            except (NeuromirrorError, OSError) as error:
                result.problems.append(str(error))
            result.problems = list(dict.fromkeys(result.problems))[:_RECORDED]
        vaults = {one.vault for one in keeps.keeps}
        damaged = damaged_vaults(vault for vault in ledger.vaults() if vault.name in vaults)
    records.save(store)
    if problems := [*keep_problems(records.keeps), *damaged]:
        raise CustodyError("; ".join(problems[:_NAMED]))
    return f"{count_of(done['copied'], 'content')} copied, {done['read']} read"


class _KeepRun(Struct):
    """One run of all tables; see :func:`run_keeps`."""

    store: Store
    index: Index
    ledger: Ledger
    configs: dict[str, VaultConfig]
    done: Counter[str]
    is_stopping: Callable[[], bool]

    def keep(self, table: Keep, keeps: KeepList, seconds: float, result: KeepResult) -> None:
        """Read what is due in the vault of a table, and keep its lock files."""
        locks = keeps.find_locks(table)
        result.lock_files = len(locks)
        if not locks:
            result.problems.append(f"no lock file matches {table.locks!r} in {keeps.path}")
        start = time.monotonic()
        with closing(open_to_fill(self.configs[table.vault], self.store, self.ledger)) as vault:
            vault.check_access(write=True)
            # half of the time, since damaged copies are replaced afterwards
            options = KeepOptions(until=start + seconds / 2, is_stopping=self.is_stopping)
            for outcome in read_due_copies(vault, self.ledger, table.check_days, options):
                self.done["read"] += outcome.status == "ok"
                if outcome.host is not None:
                    result.problems.append(f"{outcome.key}: {outcome.message}")
            sizes: dict[str, int] = {}
            for path in locks:
                try:
                    sizes |= self._keep_lock(path, vault, start + seconds, result)
                except VaultError:
                    raise
                except (NeuromirrorError, OSError) as error:
                    result.problems.append(str(error))
            lacking = self.ledger.missing(vault.uuid, list(sizes))
        result.contents, result.bytes = len(sizes), sum(sizes.values())
        result.lacking, result.lacking_bytes = len(lacking), sum(sizes[key] for key in lacking)

    def _keep_lock(
        self, path: Path, vault: Vault, until: float, result: KeepResult
    ) -> dict[str, int]:
        """Copy the contents of a lock file; return their sizes."""
        contents = contents_of_lock(load_lock(path), (), self.store, self.index)
        failed: dict[str, list[str]] = {}
        for finding in contents.findings:
            failed.setdefault(finding.message, []).append(finding.path)
        options = KeepOptions(
            allowed_hosts=contents.allowed_hosts,
            with_credentials=contents.are_public(self.store),
            until=until,
            is_stopping=self.is_stopping,
        )
        wish = Wish("lock", str(path), vault.uuid)
        others = list(self.configs.values())
        for outcome in keep(wish, contents, vault, others, self.store, self.ledger, options):
            self.done["copied"] += outcome.status == "ok"
            # what did not fit in the time has no key and is no failure
            if outcome.failed and (outcome.key is not None or outcome.status == "error"):
                failed.setdefault(outcome.message, []).append(outcome.path)
        for message, paths in failed.items():
            more = f" and {count_of(len(paths) - 1, 'other file')}" if len(paths) > 1 else ""
            result.problems.append(f"{path}: {paths[0]}{more}: {message}")
        return {key: one.size or 0 for key, one in contents.items.items()}
