"""The housekeeping task for vaults: keep what lock files pin, and read the copies that are due."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from msgspec import Struct

from neuromirror.config.vault_files import Keep, KeepList, VaultConfig, load_keeps, load_vaults
from neuromirror.custody.contents import contents_of_lock, open_to_fill
from neuromirror.custody.copies import KeepOptions
from neuromirror.custody.keep import keep
from neuromirror.custody.records import KeepRecords, KeepResult
from neuromirror.custody.vault_check import read_due_copies
from neuromirror.index import Index
from neuromirror.index.ledger import Ledger, Wish
from neuromirror.lab.lockfile import load_lock
from neuromirror.model import NeuromirrorError, count_of
from neuromirror.service.custody_status import damaged_vaults, keep_problems
from neuromirror.store import Store
from neuromirror.vault.errors import VaultError
from neuromirror.vault.opening import open_ledger
from neuromirror.vault.protocol import Vault

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
        damaged = damaged_vaults(one for one in ledger.vaults() if one.name in vaults)
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
