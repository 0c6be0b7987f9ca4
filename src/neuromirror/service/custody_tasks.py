"""Housekeeping tasks for vaults: run policies, read vaults, repair copies, drill lock files."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from neuromirror.config.policy_files import Policies, load_policies
from neuromirror.config.vault_files import VaultConfig, load_vaults
from neuromirror.crawl import JournalRecorder
from neuromirror.custody.announcements import record_announcements
from neuromirror.custody.drill import DrillStoppedError, run_drill
from neuromirror.custody.drill_records import DrillRecords
from neuromirror.custody.keep_outcomes import KeepOptions
from neuromirror.custody.policies import PolicyRun
from neuromirror.custody.policy_status import PoliciesStatus
from neuromirror.custody.rolling_read import ReadSettings, read_due_copies, repair_copies
from neuromirror.index import Index
from neuromirror.index.ledger import Ledger
from neuromirror.index.ledger_rows import LedgerEvent
from neuromirror.model import NeuromirrorError, count_of
from neuromirror.service.custody_status import damaged_vaults, policy_problems
from neuromirror.store import Store
from neuromirror.vault.opening import open_ledger, open_vault
from neuromirror.vault.protocol import Vault

_DAY = 86_400.0
_DRILL_SECONDS = _DAY / 4
_NAMED = 3


class CustodyError(NeuromirrorError):
    """Contents lack copies or are damaged, or a vault cannot be used."""


@dataclass(frozen=True, slots=True)
class CustodyTasks:
    """The tasks of a service for vaults.

    Attributes
    ----------
    store, index_path, recorder
        The store, with its index and recorder.
    folder
        The folder of the vault files and of ``policies.toml``, read in each run.
    is_stopping
        Ends a running task early when it returns true.
    """

    store: Store
    index_path: Path
    recorder: JournalRecorder
    folder: Path
    is_stopping: Callable[[], bool]

    def run_policies(self, seconds: float) -> str:
        """Make the copies that policies lack, most urgent first.

        Parameters
        ----------
        seconds
            The time after which the run stops.

        Returns
        -------
        str
            A summary.

        Raises
        ------
        CustodyError
            Contents cannot be kept in time, or a vault cannot be used.
        """
        vaults, policies = self._load()
        if not policies.settings.keep:
            return "no policies"
        options = KeepOptions(until=time.monotonic() + seconds, is_stopping=self.is_stopping)
        with self._open() as (index, ledger):
            run = PolicyRun(self.store, index, ledger, vaults, policies)
            with run:
                run.prepare()
                copied = sum(one.status == "ok" for one in run.copy(options))
                record_announcements(self.recorder, run.finish())
        problems = policy_problems(PoliciesStatus.load(self.store))
        if problems:
            raise CustodyError("; ".join(problems[:_NAMED]))
        return f"{count_of(copied, 'content')} copied"

    def read_vaults(self, seconds: float) -> str:
        """Read the copies that are due, and repair those that are damaged.

        Parameters
        ----------
        seconds
            The time after which reading stops; repairs have as much.

        Returns
        -------
        str
            A summary.

        Raises
        ------
        CustodyError
            A copy is damaged and cannot be repaired, or a vault cannot be read.
        """
        configs, policies = self._load()
        until = time.monotonic() + seconds
        problems: list[str] = []
        read = repaired = 0
        with self._open() as (index, ledger), ExitStack() as stack:
            vaults = self._open_vaults(stack, configs, problems)
            for number, vault in enumerate(vaults):
                # the first vaults leave time for the others
                share = max(0.0, until - time.monotonic()) / (len(vaults) - number)
                settings = ReadSettings(
                    policies.settings.full_read_days, time.monotonic() + share, self.is_stopping
                )
                try:
                    found = Counter(
                        one.host is None for one in read_due_copies(vault, ledger, settings)
                    )
                    read += found[True]
                    if found[False]:
                        count = count_of(found[False], "content")
                        problems.append(f"vault {vault.config.name}: {count} could not be read")
                    # also if reading took all the time
                    options = KeepOptions(
                        until=time.monotonic() + seconds / len(vaults), is_stopping=self.is_stopping
                    )
                    for one in repair_copies(vault, vaults, ledger, index, options):
                        repaired += one.status == "ok"
                except (NeuromirrorError, OSError) as error:
                    problems.append(str(error))
            problems += damaged_vaults(ledger.vaults())
        if problems:
            raise CustodyError("; ".join(problems[:_NAMED]))
        text = f"{count_of(read, 'content')} read"
        return f"{text}, {repaired} repaired" if repaired else text

    def run_drills(self) -> str:
        """Drill the lock file of a policy whose last drill is oldest, if it is due.

        Returns
        -------
        str
            A summary.

        Raises
        ------
        CustodyError
            The lock file could not be restored from the vaults alone.
        """
        vaults, policies = self._load()
        locks = self._locks(policies)
        records = DrillRecords.load(self.store)
        limit = time.time() - policies.settings.drill_days * _DAY
        last = {path: records.drills[path].at if path in records.drills else 0.0 for path in locks}
        due = sorted((at, path) for path, at in last.items() if at < limit)
        if not due or not policies.settings.drill_days:
            return "no drill is due"
        path = due[0][1]
        used = {name: vaults[name] for name in locks[path]}
        try:
            result = run_drill(
                *(Path(path), used, self.store),
                seconds=_DRILL_SECONDS,
                is_stopping=self.is_stopping,
            )
        except DrillStoppedError as error:
            return str(error)
        # other processes may have drilled other lock files in the meantime
        records = DrillRecords.load(self.store)
        records.drills = {
            known: one
            for known, one in records.drills.items()
            if known in locks or Path(known).exists()
        }
        records.drills[path] = result
        records.save(self.store)
        with open_ledger(self.store) as ledger:
            ledger.events.add([LedgerEvent(result.at, "drill", f"{path}: {result.message}")])
        failed = [f"drill of {path}: {r.message}" for path, r in records.drills.items() if not r.ok]
        if failed:
            raise CustodyError("; ".join(failed[:_NAMED]))
        return f"{path}: {result.message}"

    def _locks(self, policies: Policies) -> dict[str, set[str]]:
        """Return the lock files of the last runs of policies, with the vaults that have them."""
        status, found = PoliciesStatus.load(self.store), dict[str, set[str]]()
        for policy in policies.settings.keep:
            if policy.name in status.policies:
                for path in status.policies[policy.name].locks:
                    found.setdefault(path, set()).update(policy.vaults)
        return found

    def _load(self) -> tuple[dict[str, VaultConfig], Policies]:
        vaults = load_vaults(self.folder)
        return vaults, load_policies(self.folder, vaults)

    @contextmanager
    def _open(self) -> Iterator[tuple[Index, Ledger]]:
        with Index.open_readonly(self.index_path) as index, open_ledger(self.store) as ledger:
            yield index, ledger

    def _open_vaults(
        self, stack: ExitStack, configs: dict[str, VaultConfig], problems: list[str]
    ) -> list[Vault]:
        found = []
        for config in configs.values():
            try:
                found.append(stack.enter_context(closing(open_vault(config, self.store))))
            except NeuromirrorError as error:
                problems.append(str(error))
        return found
