"""The job of a task of the schedule."""

from __future__ import annotations

from msgspec.structs import replace

from neuromirror.crawl import Mirror
from neuromirror.crawl.recorder import Lease
from neuromirror.index import TaskRow
from neuromirror.model import DatasetHint, DatasetRef
from neuromirror.service.jobs import Job

_CONNECTIONS = 16
"""Concurrent requests per host unless a mirror's file sets another limit."""


def job_of_task(
    row: TaskRow, kind: str, lease: Lease, mirror: Mirror, workers: int, *, deep: bool
) -> Job:
    """Return the job that a worker has to run for a row of the schedule.

    Parameters
    ----------
    row
        The row of the task.
    kind
        The kind of the job (:class:`Job`).
    lease
        The lease of the task.
    mirror
        The mirror.
    workers
        The number of jobs that the service runs at a time; those of this mirror share its request
        limits.
    deep
        Whether the visit ignores that the archive reports no change.
    """
    return Job(
        kind, lease, _with_shared_limits(mirror, workers), row.local_id or None, _hint(row), deep
    )


def _with_shared_limits(mirror: Mirror, workers: int) -> Mirror:
    """Return the mirror with a job's share of its limits: jobs share no connections."""
    settings = mirror.settings
    jobs = min(settings.schedule.workers, workers)
    if jobs == 1:
        return mirror
    most, pace = settings.net.connections_per_host, settings.net.requests_per_second
    if most is None:
        connections = settings.options.get("connections", 0)
        most = max(_CONNECTIONS, 2 * connections if isinstance(connections, int) else 0)
    net: dict[str, object] = {"connections_per_host": max(1, most // jobs)}
    if pace is not None:
        net["requests_per_second"] = pace / jobs
    shared = settings.model_copy(update={"net": settings.net.model_copy(update=net)})
    return replace(mirror, settings=shared)


def _hint(row: TaskRow) -> DatasetHint | None:
    """Return the list's entry of a dataset; None if the schedule does not hold all of it."""
    if not row.local_id or (row.fingerprint is not None and not row.title):
        return None
    dataset = DatasetRef(row.mirror, row.local_id, row.source_uri)
    return DatasetHint(dataset, row.fingerprint, row.title)
