"""A writer over a store, and jobs for its workers."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from neuromirror.crawl import JournalRecorder, load_mirrors, open_recorder
from neuromirror.crawl.recorder import Lease
from neuromirror.index import Schedule
from neuromirror.service.jobs import Job, JobReport, run_job
from neuromirror.service.jobs import JobContext as Workplace
from neuromirror.service.worker_pool import run_call
from neuromirror.service.writer import Writer
from support.mirror_harness import MirrorHarness


@dataclass
class JobHarness:
    """The objects that the workers of a service need."""

    mirror_harness: MirrorHarness
    schedule: Schedule
    writer: Writer
    recorder: JournalRecorder

    def lease(self, name: str, seconds: float = 60) -> Lease:
        token = self.schedule.leases.claim(name, "a test", time.time(), seconds)
        assert token is not None
        return Lease(name, token)

    def job_context(self, *, far: bool = False) -> Workplace:
        index = None if far else self.mirror_harness.store.index_path
        return Workplace(self.mirror_harness.folder, index, None)

    def job(self, kind: str, name: str, **more: Any) -> Job:
        mirror, _, local_id = name.partition(":")
        lease = more.pop("lease", None) or self.lease(name)
        mirrors = load_mirrors(self.mirror_harness.mirrors)
        return Job(kind, lease, mirrors[mirror], local_id or None, **more)

    def run_job(self, kind: str, name: str, *, far: bool = False, **more: Any) -> JobReport:
        job = self.job(kind, name, **more)
        try:
            return self.run(job, far=far)
        finally:
            self.schedule.leases.release(job.lease.name, job.lease.token)

    def run(self, job: Job, *, far: bool = False) -> JobReport:
        """Runs a job in this thread and keeps its lease."""
        with closing(self.writer.open(job)) as channel:
            return run_call(channel, run_job, self.job_context(far=far), job)


@contextmanager
def open_job_harness(mirror_harness: MirrorHarness) -> Iterator[JobHarness]:
    store = mirror_harness.store
    with (
        open_recorder(store, store.index_path) as recorder,
        Schedule.open(store.schedule_path) as schedule,
    ):
        yield JobHarness(mirror_harness, schedule, Writer(recorder, schedule), recorder)
