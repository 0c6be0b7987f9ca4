"""What a worker does: one dataset visited, one mirror's list read, its super-datasets brought on.

A job may run twice, or be killed anywhere: what it does is the same the second time. It is told all
that it needs, and gives back metadata alone.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from neuromirror.crawl import DatasetTask, Mirror, MirrorFile, Result, Sync, SyncRequest
from neuromirror.crawl.failure_log import TOP_ALIAS
from neuromirror.model import DatasetHint
from neuromirror.service.leases import Lease
from neuromirror.service.write_server import RemoteRecorder, WriteServerAddress
from neuromirror.store import Store

ALL_MIRRORS: Final = Mirror(TOP_ALIAS, Path(), MirrorFile(source=""))
"""Stands for all mirrors in a group job: that of the superdataset above theirs."""


@dataclass(frozen=True, slots=True)
class JobContext:
    """Where a worker works: the store's folder, its index, the private store, the desk.

    ``index`` is None for workers on machines that see the store's folder over a network.
    """

    store: Path
    index: Path | None
    private: Path | None
    write_server: WriteServerAddress


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of work. ``kind`` is visit | list | group; ``lease`` is the right to write.

    A visit is of ``local_id``; ``hint`` is what the overview said of it, None to ask again.
    """

    kind: str
    lease: Lease
    mirror: Mirror
    local_id: str | None = None
    hint: DatasetHint | None = None
    deep: bool = False


@dataclass(slots=True)
class JobReport:
    """What came of a job: how datasets fared, and which are to be visited; it took ``seconds``."""

    results: list[Result] = field(default_factory=list)
    due: list[DatasetTask] = field(default_factory=list)
    seconds: float = 0.0


def run_job(context: JobContext, job: Job) -> JobReport:
    """Does a job in this process. Raises what a run raises, WriteServerLostError, and
    LeaseLostError."""
    began, report = time.monotonic(), JobReport()
    recorder = RemoteRecorder(context.write_server, job.lease, context.index)
    try:
        store = Store.open(context.store)
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
        elif job.kind == "list":
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
