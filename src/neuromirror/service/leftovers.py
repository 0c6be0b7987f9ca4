"""Leases that nobody works by any more, ended before their time."""

from __future__ import annotations

import os
import re
import socket

from neuromirror.index import LeaseRow, Schedule
from neuromirror.model import DatasetRef
from neuromirror.service.leases import SECONDS
from neuromirror.store import Store, StoreBusy

_OWNER = re.compile(r".* on (.*), process (\d+) \([0-9a-f]+\)")
"""What :func:`neuromirror.service.leases.owner` gives."""

_WAIT = 1.0
"""Seconds in which the workers of a service that was killed end."""


class Leftovers:
    """Ends leases of the dead, and those that a clock that was ahead has made too long.

    ``owner`` is the name of those that are not left over. The caller holds the lock of the store's
    one service.
    """

    def __init__(self, store: Store, schedule: Schedule, owner: str) -> None:
        self._store = store
        self._schedule = schedule
        self._owner = owner
        self._too_long: set[LeaseRow] = set()

    def end_of_the_dead(self, now: float) -> list[str]:
        """Ends leases of processes of this machine that are no more; gives what they were of.

        A dataset's lease only when nobody has its lock: a worker may outlive its service for a
        moment.
        """
        ended = []
        for lease in self._schedule.leases(now):
            if lease.owner != self._owner and _is_dead(lease.owner) and self._is_free(lease.name):
                self._schedule.give_back(lease.name, lease.token)
                ended.append(lease.name)
        return ended

    def end_of_the_future(self, now: float) -> list[str]:
        """Ends leases longer than any that is given, and not renewed since the last call.

        That is to be as long ago as leases hold.
        """
        found = set(self._schedule.leases(now + 2 * SECONDS))
        left = sorted(found & self._too_long, key=lambda one: one.name)
        self._too_long = found
        for lease in left:
            self._schedule.give_back(lease.name, lease.token)
        return [lease.name for lease in left]

    def _is_free(self, name: str) -> bool:
        row = self._schedule.task(name)
        if row is None or not row.source_uri:
            return ":" not in name
        dataset = DatasetRef(row.mirror, row.local_id, row.source_uri)
        try:
            with self._store.lock(dataset.dataset_id, name, wait=_WAIT):
                return True
        except StoreBusy:
            return False


def _is_dead(owner: str) -> bool:
    told = _OWNER.fullmatch(owner)
    if told is None or told[1] != socket.gethostname():
        return False
    process = int(told[2])
    # in a container every service has the number of the one before
    return process == os.getpid() or not _runs(process)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
