"""Housekeeping tasks for vaults: run policies, read vaults, repair copies, drill lock files."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from msgspec import Struct

from neuromirror.config.policy_files import Policies, load_policies
from neuromirror.config.vault_files import VaultConfig, load_vaults
from neuromirror.crawl import JournalRecorder
from neuromirror.custody.announcements import record_announcements
from neuromirror.custody.drill import DrillStoppedError, run_drill
from neuromirror.custody.drill_records import DrillRecords, record_drill
from neuromirror.custody.keep_outcomes import KeepOptions
from neuromirror.custody.policies import PolicyRun
from neuromirror.custody.policy_status import PoliciesStatus
from neuromirror.custody.rolling_read import read_due_copies, repair_copies
from neuromirror.index import Index
from neuromirror.index.ledger import Ledger
from neuromirror.model import NeuromirrorError, count_of
from neuromirror.service.custody_status import damaged_vaults, policy_problems
from neuromirror.store import Store
from neuromirror.vault.opening import open_ledger, open_vault
from neuromirror.vault.protocol import Vault

_DAY = 86_400.0
_DRILL_SECONDS = _DAY / 4
_NAMED = 3
_REPEAT_DAYS = 1.0
"""Days after which a failed drill is repeated."""


class CustodyError(NeuromirrorError):
    """Contents lack copies or are damaged, or a vault cannot be used."""


class CustodyTasks(Struct, frozen=True):
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
                options = KeepOptions(until=time.monotonic() + share, is_stopping=self.is_stopping)
                days = policies.settings.full_read_days
                try:
                    found = Counter(
                        one.host is None for one in read_due_copies(vault, ledger, days, options)
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
        """Drill the lock file of a policy that is due for the longest time.

        A drill that failed is repeated after a day.

        Returns
        -------
        str
            A summary.

        Raises
        ------
        CustodyError
            A lock file could not be restored from the vaults alone, now or in its last drill.
        """
        vaults, policies = self._load()
        locks, message = self._locks(policies), "no drill is due"
        if policies.settings.drill_days:
            path = self._due_drill(locks, policies.settings.drill_days)
            if path is not None:
                used = {name: vaults[name] for name in locks[path]}
                try:
                    message = self._drill(Path(path), used)
                except DrillStoppedError as error:
                    return str(error)
        found = DrillRecords.load(self.store).drills
        failed = [
            f"drill of {path}: {found[path].message}"
            for path in locks
            if path in found and not found[path].ok
        ]
        if failed:
            raise CustodyError("; ".join(failed[:_NAMED]))
        return message

    def _due_drill(self, locks: Iterable[str], days: float) -> str | None:
        """Return the lock file whose drill is due for the longest time."""
        known, now = DrillRecords.load(self.store).drills, time.time()
        due: dict[str, float] = {}
        for path in locks:
            last = known.get(path)
            wait = days if last is None or last.ok else min(days, _REPEAT_DAYS)
            due[path] = 0.0 if last is None else last.at + wait * _DAY
        first = min(due, key=lambda path: (due[path], path), default=None)
        return first if first is not None and due[first] < now else None

    def _drill(self, lock: Path, vaults: dict[str, VaultConfig]) -> str:
        result = run_drill(
            *(lock, vaults, self.store), seconds=_DRILL_SECONDS, is_stopping=self.is_stopping
        )
        record_drill(self.store, lock, result)
        return f"{lock}: {result.message}"

    def _locks(self, policies: Policies) -> dict[str, set[str]]:
        """Return the lock files of the last runs of policies, with the vaults that have them."""
        status, found = PoliciesStatus.load(self.store), dict[str, set[str]]()
        for policy in policies.settings.keep:
            if policy.name in status.policies:
                for path in status.policies[policy.name].locks:
                    found.setdefault(str(Path(path).resolve()), set()).update(policy.vaults)
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
