"""The last drill of each lock file."""

from __future__ import annotations

from pathlib import Path

import msgspec

from neuromirror.index.ledger_rows import LedgerEvent
from neuromirror.store import Store
from neuromirror.store.task_states import TaskState


class DrillResult(msgspec.Struct, forbid_unknown_fields=True):
    """The result of a drill.

    Attributes
    ----------
    at
        When it started, in POSIX seconds.
    ok
        Whether all pinned files were restored from the vaults and verified.
    seconds
        Duration of restoring and verifying.
    files, bytes
        Number and size of the restored files.
    vaults
        Names of the vaults.
    blocked
        What blocked upstream: ``kernel`` (the process had no network), or ``process`` (each
        connection of the process was checked).
    message
        The result as text.
    problems
        What could not be restored or verified, the first ones.
    commits
        The commits of the versions that the lock file pins completely.
    """

    at: float
    ok: bool
    seconds: float = 0.0
    files: int = 0
    bytes: int = 0
    vaults: list[str] = []
    blocked: str = ""
    message: str = ""
    problems: list[str] = []
    commits: list[str] = []


class DrillRecords(TaskState):
    """The last drill of each lock file, by its path."""

    task = "drills"
    drills: dict[str, DrillResult] = msgspec.field(default_factory=dict)

    def last_of(self, commit: str) -> DrillResult | None:
        """Return the last drill of a lock file that pins a version completely; None if none did.

        Parameters
        ----------
        commit
            The commit of the version.
        """
        found = [one for one in self.drills.values() if commit in one.commits]
        return max(found, key=lambda one: one.at, default=None)


def record_drill(store: Store, lock: Path, result: DrillResult) -> None:
    """Save the result of a drill, and record it as an event.

    The results of lock files that do not exist any more are removed.

    Parameters
    ----------
    store
        The store.
    lock
        The lock file.
    result
        The result.
    """
    # it loads pydantic, which pages that show a result do not need
    from neuromirror.vault.opening import open_ledger

    path = str(lock.resolve())
    # other processes may have drilled other lock files in the meantime
    records = DrillRecords.load(store)
    records.drills = {one: old for one, old in records.drills.items() if Path(one).exists()}
    records.drills[path] = result
    records.save(store)
    with open_ledger(store) as ledger:
        ledger.events.add([LedgerEvent(result.at, "drill", f"{path}: {result.message}")])
