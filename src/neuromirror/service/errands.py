"""Jobs on their way, and how they fared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from neuromirror.crawl import Result, Task
from neuromirror.index import TaskRow
from neuromirror.model import NeuromirrorError, Traffic
from neuromirror.net import redact
from neuromirror.service.jobs import Job, Report
from neuromirror.service.leases import LeaseLost


class Observer(Protocol):
    """Who counts what a service does."""

    def job_ended(self, kind: str, mirror: str, outcome: str, seconds: float) -> None:
        """A job is over; ``outcome`` is a word of :mod:`neuromirror.service.policy`."""
        ...

    def asked(self, mirror: str, traffic: Mapping[str, Traffic]) -> None:
        """What a job asked of each host."""
        ...

    def chore_ended(self, name: str, ok: bool, seconds: float) -> None:
        """A chore is over."""
        ...

    def ticked(self, seconds: float) -> None:
        """A tick is over."""
        ...


@dataclass(slots=True, eq=False)
class Errand:
    """A job that somebody is at, or that is over and not written down yet.

    ``row`` is its task as it was when the job began, at ``since`` (the schedule's clock) and
    ``began`` (ISO 8601, as the journal has times). ``again``: what the job is about changed
    meanwhile. ``told``: the journal knows of its failure.
    """

    row: TaskRow
    job: Job
    since: float
    began: str
    future: Future[Report]
    again: bool = False
    told: bool = False

    @property
    def mirror(self) -> str:
        """The mirror's name."""
        return self.job.mirror.name


@dataclass(frozen=True, slots=True)
class Fared:
    """How a job fared: what it reported, or ``broken``, why there is no report.

    ``dropped``: somebody else has the work now, and nothing is written of it here.
    """

    results: Sequence[Result] = ()
    due: Sequence[Task] = field(default_factory=list)
    broken: str = ""
    dropped: bool = False

    @property
    def problems(self) -> list[Result]:
        """What went wrong, for people."""
        return [one for one in self.results if one.exit_code]


def fared(errand: Errand) -> Fared:
    """How a job fared that is over; never raises."""
    if errand.future.cancelled():
        return Fared(dropped=True)
    error = errand.future.exception()
    if error is None:
        report = errand.future.result()
        return Fared(report.results, report.due)
    if isinstance(error, LeaseLost):
        return Fared(dropped=True)
    if isinstance(error, NeuromirrorError | OSError):
        return Fared(broken=redact(str(error)) or type(error).__name__)
    # nobody has looked at what is in it, and it goes into the journal
    return Fared(broken=redact(f"unexpected {type(error).__name__}: {error}; please report this"))
