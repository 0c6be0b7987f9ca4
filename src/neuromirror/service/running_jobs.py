"""Jobs on their way, and how they fared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from neuromirror.crawl import DatasetTask, Result
from neuromirror.index import TaskRow
from neuromirror.model import NeuromirrorError, Traffic
from neuromirror.net import redact
from neuromirror.service.jobs import Job, JobReport
from neuromirror.service.leases import LeaseLostError


class ServiceObserver(Protocol):
    """Who counts what a service does."""

    def job_finished(self, kind: str, mirror: str, outcome: str, seconds: float) -> None:
        """A job is over; ``outcome`` is a word of :mod:`neuromirror.service.scheduling_policy`."""
        ...

    def requests_sent(self, mirror: str, traffic: Mapping[str, Traffic]) -> None:
        """What a job asked of each host."""
        ...

    def housekeeping_finished(self, name: str, ok: bool, seconds: float) -> None:
        """A chore is over."""
        ...

    def tick_finished(self, seconds: float) -> None:
        """A tick is over."""
        ...


@dataclass(slots=True, eq=False)
class RunningJob:
    """A job that somebody is at, or that is over and not written down yet.

    ``row`` is its task as it was when the job began, at ``since`` (the schedule's clock) and
    ``began`` (ISO 8601, as the journal has times). ``again``: what the job is about changed
    meanwhile. ``told``: the journal knows of its failure.
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
        """The mirror's name."""
        return self.job.mirror.name


@dataclass(frozen=True, slots=True)
class JobResult:
    """How a job fared: what it reported, or ``broken``, why there is no report.

    ``dropped``: somebody else has the work now, and nothing is written of it here.
    """

    results: Sequence[Result] = ()
    due: Sequence[DatasetTask] = field(default_factory=list)
    error: str = ""
    is_superseded: bool = False

    @property
    def problems(self) -> list[Result]:
        """What went wrong, for people."""
        return [one for one in self.results if one.exit_code]


def collect_result(running_job: RunningJob) -> JobResult:
    """How a job fared that is over; never raises."""
    if running_job.future.cancelled():
        return JobResult(is_superseded=True)
    error = running_job.future.exception()
    if error is None:
        report = running_job.future.result()
        return JobResult(report.results, report.due)
    if isinstance(error, LeaseLostError):
        return JobResult(is_superseded=True)
    if isinstance(error, NeuromirrorError | OSError):
        return JobResult(error=redact(str(error)) or type(error).__name__)
    # nobody has looked at what is in it, and it goes into the journal
    return JobResult(
        error=redact(f"unexpected {type(error).__name__}: {error}; please report this")
    )
