"""Results of the last runs of ``[[keep]]`` and of drills, for ``status`` and metrics."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct, field

from neuromirror.store import Store
from neuromirror.store.store import TaskState


class KeepResult(Struct, forbid_unknown_fields=True):
    """The result of the last run of a ``[[keep]]`` table.

    Attributes
    ----------
    locks, vault
        The glob of the lock files, and the name of the vault.
    lock_files
        Number of lock files that match.
    contents, bytes
        Number and size of the contents that they pin.
    lacking, lacking_bytes
        Those of which the vault has no copy yet.
    problems
        Why contents could not be kept, the first ones.
    """

    locks: str
    vault: str
    lock_files: int = 0
    contents: int = 0
    bytes: int = 0
    lacking: int = 0
    lacking_bytes: int = 0
    problems: list[str] = []


class KeepRecords(TaskState):
    """The results of the last run of a service."""

    task = "keep"
    at: str = ""
    keeps: list[KeepResult] = field(default_factory=list)


class DrillResult(Struct, forbid_unknown_fields=True):
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
    drills: dict[str, DrillResult] = field(default_factory=dict)


def record_drill(store: Store, lock: Path, result: DrillResult) -> None:
    """Save the result of a drill; those of lock files that do not exist any more are removed."""
    # other processes may have drilled other lock files in the meantime
    records = DrillRecords.load(store)
    records.drills = {one: old for one, old in records.drills.items() if Path(one).exists()}
    records.drills[str(lock.resolve())] = result
    records.save(store)
