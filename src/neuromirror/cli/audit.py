"""``neuromirror audit``."""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import closing

import click

from neuromirror.cli.common import HostMessages, Settings, settings_options

_MAX_SHOWN = 20
"""Places that are named up to so many; --json names all."""


@click.command("audit")
@click.argument("names", nargs=-1, metavar="[MIRROR | DATASET]...")
@click.option(
    "--budget",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    metavar="N",
    help="Ask at most so many places.",
)
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    default=30,
    show_default=True,
    metavar="DAYS",
    help="Ask those that were not asked for so long.",
)
@settings_options
def audit_command(
    settings: Settings, names: tuple[str, ...], *, budget: int, older_than: float
) -> None:
    """Ask whether the places of files still have what was mirrored.

    Nothing is downloaded: a place is asked for size, checksum and object version, as "neuromirror
    verify --remote" asks. Those that were never asked come first, then those asked longest ago; the
    next run goes on behind them. What they say is recorded, and shown by status and show. MIRROR is
    a mirror (dandi), DATASET one of its datasets (dandi:000027) in all its versions; without names
    it is the whole store. One server gets ten requests a second at most.

    Exit code: 0 all that were asked have it, 1 some do not, or could not be asked.
    """
    from datetime import UTC, datetime, timedelta

    from tqdm import tqdm

    from neuromirror.crawl import FailureLog, open_recorder
    from neuromirror.crawl.failure_log import AUDIT
    from neuromirror.lab.audit import AuditScope, audit
    from neuromirror.service.housekeeping_tasks import audit_settings_of

    store = settings.store()
    # the store alone is enough; mirror files say how hard their archives may be asked
    mirrors = settings.mirrors().values() if any(settings.mirrors_folder.glob("*.toml")) else ()
    counts: Counter[str] = Counter()
    failed = named = 0
    hosts = HostMessages("audit")
    with (
        open_recorder(store, settings.index_path(store)) as recorder,
        FailureLog(recorder).watch(AUDIT),
    ):
        asking = audit(
            recorder,
            tuple(map(AuditScope.parse, names)) or (AuditScope(),),
            budget=budget,
            older_than=timedelta(days=older_than),
            settings=audit_settings_of(store, mirrors),
            now=datetime.now(UTC),
        )
        with (
            closing(asking) as findings,
            tqdm(
                total=budget, disable=None, leave=False, file=sys.stderr, unit=" places"
            ) as progress,
        ):
            for finding in findings:
                progress.update()
                counts[finding.health.value if finding.health else "unknown"] += 1
                failed += finding.failed
                is_shown = finding.failed and hosts.is_first(finding)
                if finding.host is None:
                    line = f"{finding.dataset} {finding.path}  {finding.message} ({finding.url})"
                    named += is_shown
                    is_shown = is_shown and named <= _MAX_SHOWN
                else:
                    line = f"{finding.host}  {finding.message}"
                line = f"{finding.status:<10} {line}"
                settings.emit("audit", finding.to_json(), line if is_shown else None)
    hosts.print_counts(settings)
    if named > _MAX_SHOWN:
        settings.print_text(f"… and {named - _MAX_SHOWN} more (--json lists all)")
    summary = ", ".join(f"{count} {health}" for health, count in sorted(counts.items()))
    settings.print_text(f"{counts.total()} places asked" + (f": {summary}" if summary else ""))
    sys.exit(1 if failed else 0)
