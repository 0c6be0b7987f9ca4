"""Early release of leases whose owner no longer runs."""

from __future__ import annotations

import os
import re
import socket

from neuromirror.crawl.recorder import LEASE_SECONDS
from neuromirror.index import LeaseRow, Schedule
from neuromirror.model import DatasetRef
from neuromirror.store import Store, StoreBusyError

_OWNER = re.compile(r".* on (.*), process (\d+) \([0-9a-f]+\)")
"""The format of :func:`neuromirror.crawl.recorder.lease_owner`."""

_WAIT = 1.0
"""Seconds that the workers of a killed service may take to exit."""


class StaleLeases:
    """Ends orphaned leases, and those that a wrong clock has made too long.

    ``owner`` is the running service, whose own leases are kept. The caller holds the service lock
    of the store.
    """

    def __init__(self, store: Store, schedule: Schedule, owner: str) -> None:
        self._store = store
        self._schedule = schedule
        self._owner = owner
        self._overlong: set[LeaseRow] = set()

    def end_orphaned(self, now: float) -> list[str]:
        """End the leases of processes of this machine that have exited; return their names.

        The lease of a dataset is ended only if the dataset's lock is free, because a worker may
        briefly outlive its service.
        """
        ended = []
        for lease in self._schedule.leases.in_force(now):
            if (
                lease.owner != self._owner
                and _is_orphaned(lease.owner)
                and self._is_free(lease.name)
            ):
                self._schedule.leases.release(lease.name, lease.token)
                ended.append(lease.name)
        return ended

    def end_overlong(self, now: float) -> list[str]:
        """End leases that exceed the maximum lifetime and were not renewed since the last call.

        Call it at intervals of at least the lifetime of a lease.
        """
        found = set(self._schedule.leases.in_force(now + 2 * LEASE_SECONDS))
        left = sorted(found & self._overlong, key=lambda one: one.name)
        self._overlong = found
        for lease in left:
            self._schedule.leases.release(lease.name, lease.token)
        return [lease.name for lease in left]

    def _is_free(self, name: str) -> bool:
        row = self._schedule.task(name)
        if row is None or not row.source_uri:
            return ":" not in name
        dataset = DatasetRef(row.mirror, row.local_id, row.source_uri)
        try:
            with self._store.lock(dataset.dataset_id, name, wait=_WAIT):
                return True
        except StoreBusyError:
            return False


def _is_orphaned(owner: str) -> bool:
    match = _OWNER.fullmatch(owner)
    if match is None or match[1] != socket.gethostname():
        return False
    process = int(match[2])
    # in a container each service may get the same process id
    return process == os.getpid() or not _is_running(process)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
