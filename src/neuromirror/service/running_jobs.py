"""Running jobs and their results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Protocol

from msgspec import Struct, field

from neuromirror.crawl import DatasetTask, Result
from neuromirror.crawl.plan import describe_unexpected
from neuromirror.index import TaskRow
from neuromirror.model import NeuromirrorError, Traffic
from neuromirror.net import redact
from neuromirror.service.jobs import Job, JobReport


class ServiceObserver(Protocol):
    """Is called when jobs, requests and housekeeping tasks finish; the metrics implement it."""

    def job_finished(self, kind: str, mirror: str, outcome: str, seconds: float) -> None:
        """Count a finished job; ``outcome`` is a JobOutcome or a listing's outcome."""
        ...

    def requests_sent(self, mirror: str, traffic: Mapping[str, Traffic]) -> None:
        """Count the requests of a job by host."""
        ...

    def housekeeping_finished(self, name: str, ok: bool, seconds: float) -> None:
        """Count a finished run of a housekeeping task."""
        ...

    def tick_finished(self, seconds: float) -> None:
        """Count a finished tick."""
        ...


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
    """

    results: Sequence[Result] = ()
    due: Sequence[DatasetTask] = field(default_factory=list)
    error: str = ""
    is_superseded: bool = False

    @property
    def problems(self) -> list[Result]:
        """Results that report an error or a warning."""
        return [one for one in self.results if one.exit_code]


def collect_result(running_job: RunningJob) -> JobResult:
    """Return the result of a finished job; never raises."""
    if running_job.future.cancelled():
        return JobResult(is_superseded=True)
    error = running_job.future.exception()
    if error is None:
        report = running_job.future.result()
        return JobResult(report.results, report.due)
    if isinstance(error, NeuromirrorError | OSError):
        return JobResult(error=redact(str(error)) or type(error).__name__)
    return JobResult(error=describe_unexpected(error))
