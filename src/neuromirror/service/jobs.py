"""Jobs of workers: visit a dataset, read a mirror's list, or update its superdatasets.

A job is idempotent: it may run twice or be killed at any point. It carries everything that it
needs, writes through the service's writer, and its report holds metadata only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from neuromirror.config.mirror_files import MirrorFile
from neuromirror.crawl import DatasetTask, Mirror, RefMove, Result, Sync, SyncRequest
from neuromirror.crawl.plan import describe_unexpected, is_local_fault
from neuromirror.crawl.recorder import TOP_ALIAS, Lease
from neuromirror.index import CrawlIndex, Index, IndexMissingError, RemoteIndex, TaskRow
from neuromirror.model import DatasetHint, DatasetRef, JournalEntry, NeuromirrorError
from neuromirror.net import redact
from neuromirror.service.writer import (
    Channel,
    Publish,
    Query,
    Record,
    WriterLostError,
    encode_arguments,
    encode_entries,
    job_channel,
    send_request,
)
from neuromirror.store import Store

# --- the recorder of a job

_T = TypeVar("_T")


class JobRecorder:
    """The :class:`~neuromirror.crawl.Recorder` of a job: sends writes to the service's writer.

    Queries read the local index directly. On other machines there is no ``index_path``, since
    SQLite files must not be read over a network: the writer answers the queries there.
    """

    def __init__(self, channel: Channel, store: Store, index_path: Path | None) -> None:
        self._channel = channel
        self._store = store
        self._path = index_path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="index")
        self._index: Index | None = None

    def record(self, *entries: JournalEntry) -> None:
        """See :class:`~neuromirror.crawl.Recorder`."""
        send_request(self._channel, Record(encode_entries(entries)))

    def publish(self, dataset: DatasetRef, move: RefMove, *entries: JournalEntry) -> None:
        """See :class:`~neuromirror.crawl.Recorder`."""
        send_request(self._channel, Publish(dataset, move, encode_entries(entries)))
        if self._path is None:
            self._store.repositories.of(dataset).refresh()

    def query(self, name: str, arguments: dict[str, Any]) -> msgspec.Raw:
        """See :class:`~neuromirror.index.QuerySender`."""
        return send_request(self._channel, Query(name, encode_arguments(arguments)))

    def ask(self, question: Callable[[CrawlIndex], _T]) -> _T:
        """See :class:`~neuromirror.crawl.Recorder`."""
        if self._path is None:
            return question(RemoteIndex(self))
        return self._thread.submit(self._ask, self._path, question).result()

    def _ask(self, path: Path, question: Callable[[CrawlIndex], _T]) -> _T:
        if self._index is not None and self._index.is_replaced:
            self._index.close()
            self._index = None
        if self._index is None:
            self._index = self._open_index(path)
        return question(self._index)

    def _open_index(self, path: Path) -> Index:
        try:
            return Index.open_readonly(path)
        except IndexMissingError:
            # deleted while the service runs: its writer rebuilds it from the journal
            self.record()
            return Index.open_readonly(path)

    def reader(self) -> CrawlIndex:
        """See :class:`~neuromirror.crawl.Recorder`."""
        return RemoteIndex(self) if self._path is None else self._open_index(self._path)

    def close(self) -> None:
        """Close the index."""
        if self._index is not None:
            self._thread.submit(self._index.close).result()
        self._thread.shutdown()


# --- jobs

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


# --- the job of a task of the schedule

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


# --- running jobs and their results


class WorkerLostError(NeuromirrorError):
    """The worker process of a job died; published states are complete, and the job is retried."""


class RunningJob(Struct, eq=False):
    """A job that is running, or finished and not recorded yet.

    ``row`` is its task when the job started, at ``started_at`` (clock of the schedule) or
    ``started_iso`` (ISO 8601, as in the journal). ``is_outdated``: its input changed since.
    ``is_recorded``: its failure is in the journal.
    """

    row: TaskRow
    job: Job
    started_at: float
    started_iso: str
    future: Future[JobReport]
    is_outdated: bool = False
    is_recorded: bool = False

    @property
    def mirror(self) -> str:
        """Name of the mirror."""
        return self.job.mirror.name


class JobResult(Struct, frozen=True):
    """Result of a finished job: its report, or in ``error`` the reason why it has no report.

    ``is_superseded``: another worker has taken over the task, so that nothing is recorded.
    ``is_local_fault``: this machine or the worker caused the failure, not archive or dataset.
    """

    results: Sequence[Result] = ()
    due: Sequence[DatasetTask] = field(default_factory=list)
    error: str = ""
    is_superseded: bool = False
    is_local_fault: bool = False

    @property
    def failed(self) -> bool:
        """Whether the job or one of its steps failed."""
        return bool(self.error) or any(result.status == "error" for result in self.results)

    @property
    def problems(self) -> list[Result]:
        """Results that report an error or a warning."""
        return [result for result in self.results if result.exit_code]


def collect_result(running_job: RunningJob) -> JobResult:
    """Return the result of a finished job; never raises."""
    if running_job.future.cancelled():
        return JobResult(is_superseded=True)
    error = running_job.future.exception()
    if error is None:
        report = running_job.future.result()
        local_fault = any(result.local_fault for result in report.results)
        return JobResult(report.results, report.due, is_local_fault=local_fault)
    if isinstance(error, NeuromirrorError | OSError):
        lost = isinstance(error, WorkerLostError | WriterLostError)
        message = redact(str(error)) or type(error).__name__
        return JobResult(error=message, is_local_fault=lost or is_local_fault(error))
    return JobResult(error=describe_unexpected(error))
