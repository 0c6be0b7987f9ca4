"""Leases that nobody works by any more, ended before their time."""

from __future__ import annotations

import os
import re
import socket

from neuromirror.index import LeaseRow, Schedule
from neuromirror.model import DatasetRef
from neuromirror.service.leases import LEASE_SECONDS
from neuromirror.store import Store, StoreBusyError

_OWNER = re.compile(r".* on (.*), process (\d+) \([0-9a-f]+\)")
"""What :func:`neuromirror.service.leases.owner` gives."""

_WAIT = 1.0
"""Seconds in which the workers of a service that was killed end."""


class StaleLeases:
    """Ends leases of the dead, and those that a clock that was ahead has made too long.

    ``owner`` is the name of those that are not left over. The caller holds the lock of the store's
    one service.
    """

    def __init__(self, store: Store, schedule: Schedule, owner: str) -> None:
        self._store = store
        self._schedule = schedule
        self._owner = owner
        self._overlong: set[LeaseRow] = set()

    def end_orphaned(self, now: float) -> list[str]:
        """Ends leases of processes of this machine that are no more; gives what they were of.

        A dataset's lease only when nobody has its lock: a worker may outlive its service for a
        moment.
        """
        ended = []
        for lease in self._schedule.leases(now):
            if (
                lease.owner != self._owner
                and _is_orphaned(lease.owner)
                and self._is_free(lease.name)
            ):
                self._schedule.release(lease.name, lease.token)
                ended.append(lease.name)
        return ended

    def end_overlong(self, now: float) -> list[str]:
        """Ends leases longer than any that is given, and not renewed since the last call.

        That is to be as long ago as leases hold.
        """
        found = set(self._schedule.leases(now + 2 * LEASE_SECONDS))
        left = sorted(found & self._overlong, key=lambda one: one.name)
        self._overlong = found
        for lease in left:
            self._schedule.release(lease.name, lease.token)
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
    # in a container every service has the number of the one before
    return process == os.getpid() or not _is_running(process)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
