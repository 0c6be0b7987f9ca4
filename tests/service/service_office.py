"""A desk over a store, and jobs for workers that come to it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from crawl_place import Place

from neuromirror.crawl import Recorder, load_mirrors, recording
from neuromirror.index import Schedule
from neuromirror.service.desk import Desk
from neuromirror.service.jobs import Job, Report, do
from neuromirror.service.jobs import Place as Workplace
from neuromirror.service.leases import Lease


@dataclass
class Office:
    """What a service has around its workers."""

    place: Place
    schedule: Schedule
    desk: Desk
    recorder: Recorder

    def lease(self, name: str, seconds: float = 60) -> Lease:
        token = self.schedule.claim(name, "a test", time.time(), seconds)
        assert token is not None
        return Lease(name, token)

    def workplace(self, *, far: bool = False) -> Workplace:
        index = None if far else self.place.store.index_path
        return Workplace(self.place.folder, index, None, self.desk.address)

    def job(self, kind: str, name: str, **more: Any) -> Job:
        mirror, _, local_id = name.partition(":")
        lease = more.pop("lease", None) or self.lease(name)
        mirrors = load_mirrors(self.place.mirrors)
        return Job(kind, lease, mirrors[mirror], local_id or None, **more)

    def do(self, kind: str, name: str, *, far: bool = False, **more: Any) -> Report:
        job = self.job(kind, name, **more)
        try:
            return do(self.workplace(far=far), job)
        finally:
            self.schedule.give_back(job.lease.name, job.lease.token)


@contextmanager
def office_of(place: Place) -> Iterator[Office]:
    store = place.store
    with (
        recording(store, store.index_path) as recorder,
        Schedule.open(store.schedule_path) as schedule,
        Desk(recorder, schedule) as desk,
    ):
        yield Office(place, schedule, desk, recorder)
