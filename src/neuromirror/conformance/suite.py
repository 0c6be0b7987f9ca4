"""Run all checks of one archive, within a budget of requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Final

from neuromirror.conformance import boss, dandi, ndstore, s3
from neuromirror.conformance.report import Check, ConformanceFinding, ConformanceReport
from neuromirror.model import NeuromirrorError, Traffic, total_traffic
from neuromirror.net import NetError, TrafficCounter, count_traffic
from neuromirror.sources import Source
from neuromirror.sources.boss import BossSource
from neuromirror.sources.dandi import DandiSource
from neuromirror.sources.ndstore import NdstoreSource
from neuromirror.sources.s3.bucket_source import BucketSource

REQUEST_LIMIT: Final = 200
"""Maximum number of requests per run, including retries and redirects."""


class RequestBudgetExceededError(NeuromirrorError):
    """The run reached its maximum number of requests."""


class _RequestBudget(TrafficCounter):
    """Counts requests, and raises RequestBudgetExceededError beyond the budget."""

    def add(self, host: str, more: Traffic) -> None:
        super().add(host, more)
        if self.requests > REQUEST_LIMIT:  # it is counted before it is sent
            raise RequestBudgetExceededError(
                f"not checked: the limit of {REQUEST_LIMIT} requests was reached"
            )

    @property
    def requests(self) -> int:
        return total_traffic(self.hosts()).requests


def check_archive(
    source: Source,
    name: str,
    kind: str,
    progress: Callable[[ConformanceFinding], None] = lambda one: None,
) -> ConformanceReport:
    """Check a live archive.

    The checks are read-only and use at most :data:`REQUEST_LIMIT` requests.

    Parameters
    ----------
    source
        The source of a mirror file or a URL.
    name
        The name of the archive in the report.
    kind
        The kind of source, as in mirror files.
    progress
        Called with each finding.

    Returns
    -------
    ConformanceReport
        A check that failed because of the archive is ``broken``; one that was not run because of
        the request budget is ``unknown``.
    """
    counter = _RequestBudget()
    findings: list[ConformanceFinding] = []

    def add(finding: ConformanceFinding) -> None:
        findings.append(finding)
        progress(finding)

    with count_traffic(counter):
        for rule, check in _checks(source):
            try:
                for finding in check():
                    add(finding)
            except RequestBudgetExceededError as error:
                add(ConformanceFinding(rule, "unknown", str(error)))
            except NetError as error:
                add(ConformanceFinding(rule, "broken", str(error), "the check failed; try again"))
            except NeuromirrorError as error:
                add(ConformanceFinding(rule, "broken", str(error)))
    return ConformanceReport(
        archive=name,
        source=kind,
        uri=source.uri,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        requests=min(counter.requests, REQUEST_LIMIT),
        findings=findings,
    )


def _checks(source: Source) -> Iterator[tuple[str, Check]]:
    """Yield the name and the function of each check of a source."""
    if isinstance(source, DandiSource):
        yield from dandi.checks(source)
    elif isinstance(source, BucketSource):
        yield from s3.checks(source.bucket, source.bucket_prefix)
    elif isinstance(source, BossSource):
        yield from boss.checks(source)
    elif isinstance(source, NdstoreSource):
        yield from ndstore.checks(source)
    else:
        finding = ConformanceFinding("source", "unknown", f"no checks for {type(source).__name__}")
        yield "source", lambda: iter([finding])
