"""What a worker does: one dataset visited, one mirror's list read, its super-datasets brought on.

A job may run twice, or be killed anywhere: what it does is the same the second time. It is told all
that it needs, and gives back metadata alone.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from neuromirror.crawl import Mirror, MirrorFile, Request, Result, Sync, Task
from neuromirror.crawl.failures import TOP_ALIAS
from neuromirror.model import DatasetHint
from neuromirror.service.desk import DeskAddress, DeskRecorder
from neuromirror.service.leases import Lease
from neuromirror.store import Store

TOP: Final = Mirror(TOP_ALIAS, Path(), MirrorFile(source=""))
"""Stands for all mirrors in a group job: that of the superdataset above theirs."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker works: the store's folder, its index, the private store, the desk.

    ``index`` is None for workers on machines that see the store's folder over a network.
    """

    store: Path
    index: Path | None
    private: Path | None
    desk: DeskAddress


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
class Report:
    """What came of a job: how datasets fared, and which are to be visited; it took ``seconds``."""

    results: list[Result] = field(default_factory=list)
    due: list[Task] = field(default_factory=list)
    seconds: float = 0.0


def do(place: Place, job: Job) -> Report:
    """Does a job in this process. Raises what a run raises, DeskGone, and LeaseLost."""
    began, report = time.monotonic(), Report()
    recorder = DeskRecorder(place.desk, job.lease, place.index)
    try:
        store = Store.open(place.store)
        sync = Sync(
            store,
            place.index or store.index_path,
            deep=job.deep,
            jobs=1,
            private=place.private,
            recorder=recorder,
        )
        if job.kind == "visit":
            found = sync.visit(Request(job.mirror, job.local_id, job.hint))
        elif job.kind == "list":
            found = sync.survey(job.mirror, report.due.append)
        elif job.mirror.name == TOP.name:
            found = sync.regroup_top()
        else:
            found = sync.regroup(job.mirror)
        report.results.extend(found)
    finally:
        recorder.close()
    report.seconds = time.monotonic() - began
    return report
