"""Leases: one worker at a dataset, and a dead worker's lease ends by itself."""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from neuromirror.crawl import VisitSkippedError
from neuromirror.index import Schedule
from neuromirror.model import DatasetRef, NeuromirrorError

LEASE_SECONDS = 60.0
"""How long a lease holds without being renewed."""

_RENEW_SECONDS = LEASE_SECONDS / 3


class LeaseLostError(NeuromirrorError):
    """Somebody else has taken a dataset over, and what was found out about it is not written."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on what ``name`` names; see :class:`~neuromirror.index.LeaseRow`."""

    name: str
    token: int


def lease_owner(what: str) -> str:
    """A name for whoever takes leases, told to people: machine, process, and what it does."""
    return f"{what} on {socket.gethostname()}, process {os.getpid()} ({secrets.token_hex(3)})"


class LeaseManager:
    """Takes leases for runs outside of the service, dataset by dataset, and renews them."""

    def __init__(
        self, schedule: Schedule, owner: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._schedule = schedule
        self._owner = owner
        self._clock = clock

    @contextmanager
    def claim(self, dataset: DatasetRef) -> Iterator[None]:
        """Holds the dataset's lease; raises VisitSkippedError, naming who has it, where somebody
        does."""
        name, clock = dataset.name, self._clock
        token = self._schedule.claim(name, self._owner, clock(), LEASE_SECONDS)
        if token is None:
            other = self._schedule.lease(name, clock())
            by = "another run" if other is None else other.owner
            raise VisitSkippedError(f"is being visited by {by}")
        stopped = threading.Event()

        def renew() -> None:
            while not stopped.wait(_RENEW_SECONDS):
                self._schedule.renew([(name, token)], clock(), LEASE_SECONDS)

        renewing = threading.Thread(target=renew, name=f"lease {name}", daemon=True)
        renewing.start()
        try:
            yield
        finally:
            stopped.set()
            renewing.join()
            self._schedule.release(name, token)


@contextmanager
def open_lease_manager(path: Path, what: str) -> Iterator[LeaseManager | None]:
    """Claims in the schedule of a store; None where no service ever ran on it."""
    if not path.exists():
        yield None
        return
    with Schedule.open(path) as schedule:
        yield LeaseManager(schedule, lease_owner(what))
