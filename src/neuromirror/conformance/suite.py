"""Run all checks of one archive, within a budget of requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Final

from neuromirror.conformance import boss, dandi, ndstore, s3
from neuromirror.conformance.report import ConformanceFinding, ConformanceReport
from neuromirror.model import NeuromirrorError, Traffic, total_traffic
from neuromirror.net import NetError, TrafficCounter, count_traffic
from neuromirror.sources import Source
from neuromirror.sources.boss import BossSource
from neuromirror.sources.dandi import DandiSource
from neuromirror.sources.ndstore import NdstoreSource
from neuromirror.sources.s3.bucket_source import BucketSource

REQUEST_LIMIT: Final = 200
"""Requests that one run makes at most, retries and redirects included."""


class RequestBudgetExceededError(NeuromirrorError):
    """The requests that one run may make were made."""


class _RequestBudget(TrafficCounter):
    """Counts requests, and ends the check that makes one too many."""

    def add(self, host: str, more: Traffic) -> None:
        super().add(host, more)
        if self.requests > REQUEST_LIMIT:  # it is counted before it is sent
            raise RequestBudgetExceededError(f"not checked: {REQUEST_LIMIT} requests were made")

    @property
    def requests(self) -> int:
        return total_traffic(self.hosts()).requests


Check = Callable[[], Iterator[ConformanceFinding]]


def check_archive(
    source: Source,
    name: str,
    kind: str,
    progress: Callable[[ConformanceFinding], None] = lambda one: None,
) -> ConformanceReport:
    """Check a live archive.

    Nothing is written anywhere: the archive is only read, with at most :data:`REQUEST_LIMIT`
    requests.

    Parameters
    ----------
    source
        The opened source of a mirror file or an address.
    name
        What the report calls the archive.
    kind
        The kind of source, as in mirror files.
    progress
        Is called with each finding as it is made.

    Returns
    -------
    Report
        A check that could not be made is a finding ``broken`` where the archive failed, and
        ``unknown`` where the budget did not reach.
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
                add(
                    ConformanceFinding(
                        rule, "broken", str(error), "the check could not be made; try again"
                    )
                )
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
