"""Leases: one worker per dataset at a time; the lease of a dead worker expires."""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from neuromirror.crawl.run_options import VisitSkippedError
from neuromirror.index import Schedule
from neuromirror.model import DatasetRef, NeuromirrorError

LEASE_SECONDS = 60.0
"""Lifetime of a lease without renewal."""

_RENEW_SECONDS = LEASE_SECONDS / 3


class LeaseLostError(NeuromirrorError):
    """Another worker has taken over the dataset; the results of this visit are discarded."""


class Lease(Struct, frozen=True):
    """The right of one worker to visit a dataset or run a task.

    ``name`` and ``token`` are as in :class:`~neuromirror.index.LeaseRow`.
    """

    name: str
    token: int


def lease_owner(what: str) -> str:
    """Return a readable name for the owner of a lease: ``what`` it does, machine and process id."""
    return f"{what} on {socket.gethostname()}, process {os.getpid()} ({secrets.token_hex(3)})"


class LeaseManager:
    """Claims the lease of each dataset that a run outside of the service visits, and renews it.

    So ``neuromirror sync`` and a service on the same store never visit one dataset at the same
    time.

    Parameters
    ----------
    schedule
        The schedule, which has the leases.
    owner
        The name of the run, from :func:`lease_owner`.
    clock
        Returns POSIX seconds.
    """

    def __init__(
        self, schedule: Schedule, owner: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._schedule = schedule
        self._owner = owner
        self._clock = clock

    @contextmanager
    def claim(self, dataset: DatasetRef) -> Iterator[None]:
        """Hold the dataset's lease during the block.

        Raises
        ------
        VisitSkippedError
            If another owner, named in the message, holds the lease.
        """
        name, clock = dataset.name, self._clock
        token = self._schedule.leases.claim(name, self._owner, clock(), LEASE_SECONDS)
        if token is None:
            other = self._schedule.leases.find(name, clock())
            by = "another run" if other is None else other.owner
            raise VisitSkippedError(f"is being visited by {by}")
        stopped = threading.Event()

        def renew() -> None:
            while not stopped.wait(_RENEW_SECONDS):
                self._schedule.leases.renew([(name, token)], clock(), LEASE_SECONDS)

        renewing = threading.Thread(target=renew, name=f"lease {name}", daemon=True)
        renewing.start()
        try:
            yield
        finally:
            stopped.set()
            renewing.join()
            self._schedule.leases.release(name, token)


@contextmanager
def open_lease_manager(path: Path, what: str) -> Iterator[LeaseManager | None]:
    """Yield a lease manager for a store's schedule; None if no service ever ran on the store.

    Parameters
    ----------
    path
        The file of the schedule.
    what
        The purpose of the run, for messages to others, such as ``sync``.
    """
    if not path.exists():
        yield None
        return
    with Schedule.open(path) as schedule:
        yield LeaseManager(schedule, lease_owner(what))
