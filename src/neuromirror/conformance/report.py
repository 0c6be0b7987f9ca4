"""The findings of one archive and their report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Literal

import msgspec

from neuromirror.model import NeuromirrorError

Status = Literal["ok", "limited", "broken", "unknown"]

FORMAT: Final = 1


class InvalidReportError(NeuromirrorError):
    """A stored report of an archive check cannot be parsed."""


class ConformanceFinding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The result of one check.

    Attributes
    ----------
    rule
        The name of the check, ``<kind>.<rule>``; the same in every release.
    status
        ``ok``: the archive complies. ``limited``: the archive lacks an optional feature.
        ``broken``: the archive violates the rule, so that a mirror of it cannot be trusted.
        ``unknown``: the archive has no data to check the rule on.
    observed
        The observed behaviour.
    consequence
        The effect on a mirror of the archive.
    """

    rule: str
    status: Status
    observed: str
    consequence: str = ""


Check = Callable[[], Iterator[ConformanceFinding]]
"""Yields the findings of one check."""


def name_checks(kind: str, *checks: Check) -> Iterator[tuple[str, Check]]:
    """Yield checks with their names.

    Parameters
    ----------
    kind
        The start of the names.
    checks
        The checks, in the order in which they run.

    Yields
    ------
    tuple[str, Check]
        The name and the function.
    """
    for check in checks:
        yield f"{kind}.{check.__name__}", check


class ConformanceReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The findings of an archive.

    Attributes
    ----------
    archive
        The name of the mirror, or the URL.
    source
        The kind of archive, as in mirror files.
    uri
        The URI of the archive, without credentials.
    at
        The time of the check (ISO 8601, UTC).
    requests
        The number of requests.
    findings
        The findings, in the order of the checks.
    format
        The version of the report's format.
    """

    archive: str
    source: str
    uri: str
    at: str
    requests: int
    findings: list[ConformanceFinding]
    format: int = FORMAT

    @property
    def broken(self) -> list[ConformanceFinding]:
        """The findings with status ``broken``."""
        return [one for one in self.findings if one.status == "broken"]

    def dump(self) -> bytes:
        """Return the report as JSON.

        Returns
        -------
        bytes
            The JSON text.
        """
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


def load_report(content: bytes) -> ConformanceReport:
    """Parse a report in JSON.

    Parameters
    ----------
    content
        The content of the file.

    Returns
    -------
    ConformanceReport
        The report.

    Raises
    ------
    InvalidReportError
        The content is not a report.
    """
    try:
        report = msgspec.json.decode(content, type=ConformanceReport)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidReportError(f"not a report of check-archive: {error}") from error
    if report.format != FORMAT:
        raise InvalidReportError(
            f"report format {report.format} is unsupported; run check-archive again"
        )
    return report


def compare_reports(
    before: ConformanceReport, after: ConformanceReport
) -> Iterator[tuple[ConformanceFinding, ConformanceFinding]]:
    """Yield the findings whose status changed, as pairs (before, after).

    Changes from or to ``unknown`` are ignored.

    Parameters
    ----------
    before
        The earlier report.
    after
        The later report of the same archive.

    Yields
    ------
    tuple[ConformanceFinding, ConformanceFinding]
        The finding of the earlier report and that of the later one.
    """
    earlier = {one.rule: one for one in before.findings}
    for now in after.findings:
        then = earlier.get(now.rule)
        if (
            then is not None
            and then.status != now.status
            and "unknown"
            not in (
                then.status,
                now.status,
            )
        ):
            yield then, now
