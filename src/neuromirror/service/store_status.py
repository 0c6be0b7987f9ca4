"""Status of a store beyond its index: the schedule, known damage, permissions."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from datetime import UTC, datetime

from msgspec import Struct, field

from neuromirror.index import Schedule, TaskRow
from neuromirror.store import Store


class ScheduleSummary(Struct):
    """A mirror's tasks: their number, how many are due now, and when the next one is (ISO 8601).

    ``in_progress`` are the tasks with a valid lease, ``disabled`` those that failed too often.
    """

    tasks: int = 0
    due: int = 0
    next_due: str | None = None
    in_progress: list[str] = field(default_factory=list)
    disabled: list[str] = field(default_factory=list)


def schedule_summaries(store: Store, now: float | None = None) -> dict[str, ScheduleSummary]:
    """Return the schedule summary of each mirror; empty if no service ever ran on the store."""
    if not store.schedule_path.exists():
        return {}
    now = time.time() if now is None else now
    with Schedule.open(store.schedule_path) as schedule:
        tasks, leases = schedule.tasks(), schedule.leases.in_force(now)
    found: dict[str, ScheduleSummary] = {}
    upcoming: dict[str, float] = {}
    for row in tasks:
        if not row.mirror:
            continue
        summary = found.setdefault(row.mirror, ScheduleSummary())
        summary.tasks += 1
        if row.disabled:
            summary.disabled.append(row.name)
            continue
        for moment in _moments(row):
            if moment <= now:
                summary.due += 1
                break
            upcoming[row.mirror] = min(moment, upcoming.get(row.mirror, moment))
    for mirror, moment in upcoming.items():
        found[mirror].next_due = datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")
    for lease in leases:
        mirror = lease.name.partition(":")[0]
        if mirror in found:
            found[mirror].in_progress.append(lease.name)
    return found


def _moments(row: TaskRow) -> Iterable[float]:
    return sorted(one for one in (row.due, row.deep_due) if one is not None)


def unwritable_paths(store: Store) -> list[str]:
    """Return a message for each path of a store that its owner cannot write.

    Empty for other users, who may be meant to have read access only.
    """
    if os.geteuid() not in (0, store.root.stat().st_uid):
        return []
    folder = store.journal_path.parent
    return [
        f"{path} cannot be written, so that no sync can record anything; check its permissions "
        "and the mount options of its file system"
        for path in (folder, folder / "locks", store.journal_path)
        if path.exists() and not os.access(path, os.W_OK, effective_ids=True)
    ]


def format_age(moment: str | None) -> str:
    """Return `` (3 h ago)`` for a time of the journal; empty without one."""
    try:
        seconds = (datetime.now(UTC) - datetime.fromisoformat(moment or "")).total_seconds()
    except (ValueError, TypeError):
        return ""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f" ({seconds // length:.0f} {unit} ago)"
    return f" ({max(0, seconds):.0f} s ago)"
