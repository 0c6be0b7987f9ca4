"""``neuromirror check-archive``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from neuromirror.cli.commands import argument, command
from neuromirror.cli.common import Settings, settings_options

if TYPE_CHECKING:
    from neuromirror.conformance import ConformanceFinding, ConformanceReport
    from neuromirror.sources import Source


@command(
    "check-archive",
    example="""\
neuromirror check-archive dandi
neuromirror check-archive s3://aind-open-data --output report.json""",
)
@argument(
    "archive",
    metavar="URL|MIRROR",
    help="A mirror, the base URL of a DANDI, BOSS or ndstore API, or a bucket (s3://NAME/PREFIX).",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the report to this file too.",
)
@settings_options
def check_archive_command(settings: Settings, archive: str, output: Path | None) -> None:
    """Check with at most 200 requests whether an archive behaves as neuromirror expects.

    The archive is only read. The rules are about listings and their
    pages, digests, versions, HEAD requests for parts, byte ranges, conditional requests, redirects,
    missing objects and rate limits.

    Each finding is a line: ok (the documented rule holds), limited (the archive does not offer
    it), broken (the archive contradicts it) or unknown (no data to check it on). The report about
    a mirror is saved in the store, if there is one, so that "neuromirror doctor --archives" can
    compare it with the archive later.

    Exit code: 0 no rule is broken, 1 if a rule is broken, 2 wrong usage or unknown archive.
    """
    from neuromirror.conformance import check_archive

    kind, source = _open_source(settings, archive)

    def show(finding: ConformanceFinding) -> None:
        record = {
            "path": archive,
            "rule": finding.rule,
            "result": finding.status,
            "status": "error" if finding.status == "broken" else "ok",
            "message": finding.observed,
            "consequence": finding.consequence,
        }
        tail = f"; {finding.consequence}" if finding.consequence else ""
        line = f"{finding.status:<8} {finding.rule:<26} {finding.observed}{tail}"
        settings.emit("check-archive", record, line)

    report = check_archive(source, archive, kind, show)
    saved = _save_report(settings, archive, report, output)
    settings.print_text(
        f"{report.requests} requests, {len(report.findings)} findings, {len(report.broken)} broken"
        + (f"; report in {saved}" if saved else "")
    )
    sys.exit(1 if report.broken else 0)


def _open_source(settings: Settings, archive: str) -> tuple[str, Source]:
    """Return the kind and the source of a mirror or a URL."""
    from neuromirror.conformance import open_archive
    from neuromirror.crawl import find_mirror

    if "://" in archive:
        return open_archive(archive)
    mirror = find_mirror(settings.mirrors(), archive)
    return mirror.settings.source, mirror.open()


def _save_report(
    settings: Settings, archive: str, report: ConformanceReport, output: Path | None
) -> Path | None:
    """Write the report to ``output`` and, for a mirror, to the store; return its path."""
    from neuromirror.store import NotAStoreError

    content = report.dump()
    if output is not None:
        output.write_bytes(content)
    if "://" in archive:
        return output
    try:
        store = settings.store()
    except NotAStoreError:
        return output
    path = store.archive_report_path(archive)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.write_bytes(content)
    temporary.replace(path)
    return path
