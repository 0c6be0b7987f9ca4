"""Jobs of workers: visit a dataset, read a mirror's list, or update its superdatasets.

A job is idempotent: it may run twice or be killed at any point. It carries everything that it
needs, and its report holds metadata only.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from msgspec import Struct, field

from neuromirror.crawl import DatasetTask, Mirror, MirrorFile, Result, Sync, SyncRequest
from neuromirror.crawl.recorder import TOP_ALIAS, Lease
from neuromirror.model import DatasetHint
from neuromirror.service.job_recorder import JobRecorder
from neuromirror.service.writer_messages import job_channel
from neuromirror.store import Store

ALL_MIRRORS: Final = Mirror(TOP_ALIAS, Path(), MirrorFile(source=""))
"""The mirror of the job that updates the superdataset above all mirrors."""


class JobContext(Struct, frozen=True):
    """The paths that a job needs.

    Attributes
    ----------
    store
        The store.
    index
        The index; None for a worker on another machine, to which the folder of the store is
        mounted.
    private
        The private store; None without one.
    """

    store: Path
    index: Path | None
    private: Path | None


class Job(Struct, frozen=True):
    """A unit of work for one worker.

    Attributes
    ----------
    kind
        ``visit`` (update a dataset), ``listing`` (read the overview of a mirror) or
        ``superdatasets`` (update those of a mirror).
    lease
        The right of the worker to write the result.
    mirror
        The mirror; :data:`ALL_MIRRORS` for the superdataset above all mirrors.
    local_id
        The dataset to visit; None for the other kinds.
    hint
        The entry of the dataset in the overview; None to request it again.
    deep
        Whether the files are listed even if the archive reports no change.
    """

    kind: str
    lease: Lease
    mirror: Mirror
    local_id: str | None = None
    hint: DatasetHint | None = None
    deep: bool = False


class JobReport(Struct):
    """The report of a job: results by dataset, datasets due for a visit, and its duration."""

    results: list[Result] = field(default_factory=list)
    due: list[DatasetTask] = field(default_factory=list)
    seconds: float = 0.0


def run_job(context: JobContext, job: Job) -> JobReport:
    """Run a job in this process, and return its report.

    Its writes go to the service's writer through :data:`job_channel`, which the worker has set.

    Raises
    ------
    WriterLostError
        If the service is gone.
    NeuromirrorError
        If the visit itself fails.
    """
    began, report = time.monotonic(), JobReport()
    store = Store.open(context.store)
    recorder = JobRecorder(job_channel.get(), store, context.index)
    try:
        sync = Sync(
            store,
            context.index or store.index_path,
            deep=job.deep,
            jobs=1,
            private=context.private,
            recorder=recorder,
        )
        if job.kind == "visit":
            found = sync.visit(SyncRequest(job.mirror, job.local_id, job.hint))
        elif job.kind == "listing":
            found = sync.survey(job.mirror, report.due.append)
        elif job.mirror.name == ALL_MIRRORS.name:
            found = sync.update_top_superdataset()
        else:
            found = sync.update_superdatasets(job.mirror)
        report.results.extend(found)
    finally:
        recorder.close()
    report.seconds = time.monotonic() - began
    return report
