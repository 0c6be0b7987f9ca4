"""Findings about one archive, and the report that they make."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

import msgspec

from neuromirror.model import NeuromirrorError

Status = Literal["ok", "limited", "broken", "unknown"]

FORMAT: Final = 1


class InvalidReportError(NeuromirrorError):
    """A stored report that cannot be read."""


class ConformanceFinding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one check found.

    Parameters
    ----------
    rule
        The name of the check, ``<kind>.<rule>``; the same in every release.
    status
        ``ok``: the documented rule holds. ``limited``: the archive does not offer it, and the
        mirror does without. ``broken``: the archive contradicts the rule, so that a mirror of it
        cannot be trusted. ``unknown``: there was nothing to check it on.
    observed
        What the archive answered.
    consequence
        What the mirror can or cannot rely on.
    """

    rule: str
    status: Status
    observed: str
    consequence: str = ""


class ConformanceReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All findings about an archive.

    Parameters
    ----------
    archive
        The mirror's name, or the address.
    source
        The kind of archive, as in mirror files.
    uri
        The archive's own address, without credentials.
    at
        When it was checked (ISO 8601, UTC).
    requests
        How many requests were made.
    findings
        In the order of the checks.
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
        """The rules that the archive contradicts."""
        return [one for one in self.findings if one.status == "broken"]

    def dump(self) -> bytes:
        """Return the report as JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


def load_report(content: bytes) -> ConformanceReport:
    """Return the report in a JSON document; raises InvalidReportError."""
    try:
        report = msgspec.json.decode(content, type=ConformanceReport)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidReportError(f"not a report of check-archive: {error}") from error
    if report.format != FORMAT:
        raise InvalidReportError(f"a report of format {report.format}; this program reads {FORMAT}")
    return report


def compare_reports(
    before: ConformanceReport, after: ConformanceReport
) -> Iterator[tuple[ConformanceFinding, ConformanceFinding]]:
    """Yield the findings whose status changed, before and after.

    A check that found nothing to try its rule on, in either report, is no change.
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
