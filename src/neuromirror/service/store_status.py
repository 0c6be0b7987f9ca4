"""Status of a store beyond its index: the service and its schedule, permissions."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime

from msgspec import Struct, field

from neuromirror.index import Schedule, TaskRow
from neuromirror.service.housekeeping import HOUSEKEEPING_PREFIX
from neuromirror.store import Store

_HOUR, _DAY = 3600.0, 86_400.0


class ScheduleSummary(Struct):
    """A mirror's tasks: their number, how many are due now, and when the next one is (ISO 8601).

    ``in_progress`` are the tasks with a valid lease, ``disabled`` those that failed too often.
    ``overdue_since`` is when the mirror's list should have been read; None if it is not overdue.
    """

    tasks: int = 0
    due: int = 0
    next_due: str | None = None
    in_progress: list[str] = field(default_factory=list)
    disabled: list[str] = field(default_factory=list)
    overdue_since: str | None = None


class ServiceStatus(Struct):
    """The service of a store.

    ``mirrors`` are the schedule summaries of the mirrors, ``checks`` the times of the last
    housekeeping tasks, and ``last_active`` that of the last finished task (all ISO 8601).
    ``postponed`` are the superdatasets whose update waits for failed datasets, and since when.
    """

    is_running: bool
    last_active: str | None = None
    checks: dict[str, str] = field(default_factory=dict)
    postponed: dict[str, str] = field(default_factory=dict)
    mirrors: dict[str, ScheduleSummary] = field(default_factory=dict)

    def problems(self) -> Iterator[str]:
        """Yield a message for everything that an operator has to look at."""
        overdue = {
            name: summary.overdue_since
            for name, summary in self.mirrors.items()
            if summary.overdue_since
        }
        if overdue and not self.is_running:
            yield (
                f"no service runs on this store since {self.last_active}, and the lists of "
                f"{', '.join(overdue)} are overdue; start it ('neuromirror serve'), or run "
                "'neuromirror sync'"
            )
        elif overdue:
            for name, moment in overdue.items():
                yield (
                    f"the list of {name} is due since {moment}, although a service runs; its log "
                    "says what it waits for"
                )


def service_status(store: Store, now: float | None = None) -> ServiceStatus | None:
    """Return the status of a store's service; None if none ever ran on the store."""
    if not store.schedule_path.exists():
        return None
    now = time.time() if now is None else now
    status = ServiceStatus(is_running=store.is_locked("service"))
    with Schedule.open(store.schedule_path, readonly=True) as schedule:
        tasks, leases = schedule.tasks(), schedule.leases.in_force(now)
    ended = [row.ended for row in tasks if row.ended is not None]
    status.last_active = _iso(max(ended)) if ended else None
    status.postponed = {
        name.removeprefix("superdataset-"): since.isoformat(timespec="seconds")
        for name, since in store.postponements().items()
    }
    upcoming: dict[str, float] = {}
    for row in tasks:
        if not row.mirror:
            if row.name.startswith(HOUSEKEEPING_PREFIX) and row.ended is not None:
                status.checks[row.name.removeprefix(HOUSEKEEPING_PREFIX)] = _iso(row.ended)
            continue
        summary = status.mirrors.setdefault(row.mirror, ScheduleSummary())
        summary.tasks += 1
        if row.disabled:
            summary.disabled.append(row.name)
            continue
        if not row.local_id and _is_overdue(row, store, now, is_running=status.is_running):
            summary.overdue_since = _iso(row.due or 0.0)
        for moment in sorted(moment for moment in (row.due, row.deep_due) if moment is not None):
            if moment <= now:
                summary.due += 1
                break
            upcoming[row.mirror] = min(moment, upcoming.get(row.mirror, moment))
    for mirror, moment in upcoming.items():
        status.mirrors[mirror].next_due = _iso(moment)
    for lease in leases:
        mirror = lease.name.partition(":")[0]
        if mirror in status.mirrors:
            status.mirrors[mirror].in_progress.append(lease.name)
    return status


def _is_overdue(row: TaskRow, store: Store, now: float, *, is_running: bool) -> bool:
    """Whether a mirror's list should have been read long ago.

    Without a service, ``serve --once`` may run once a day, or ``sync`` may read the list.
    """
    listed = store.last_listed(row.mirror)
    grace = _HOUR + (row.spacing if is_running else _DAY)
    due = max(row.due or now, 0.0 if listed is None else listed.timestamp())
    return due + grace < now


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")


def unwritable_paths(store: Store) -> list[str]:
    """Return a message for each path of a store that its owner cannot write.

    Empty for other users, who may be meant to have read access only.
    """
    if os.geteuid() not in (0, store.root.stat().st_uid):
        return []
    folder = store.journal.path.parent
    return [
        f"{path} cannot be written, so that no sync can record anything; check its permissions "
        "and the mount options of its file system"
        for path in (folder, folder / "locks", store.journal.path)
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
