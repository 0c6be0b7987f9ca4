"""``neuromirror audit``."""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import closing

import click

from neuromirror.cli.common import HostMessages, Settings, settings_options

_NAMED = 20
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

    from neuromirror.crawl import FailureLog, recording
    from neuromirror.crawl.failures import AUDIT
    from neuromirror.lab.audit import Scope, audit
    from neuromirror.service.chores import asking_of

    store = settings.store()
    # the store alone is enough; mirror files say how hard their archives may be asked
    mirrors = settings.mirrors().values() if any(settings.mirrors_folder.glob("*.toml")) else ()
    said: Counter[str] = Counter()
    failed = named = 0
    hosts = HostMessages("audit")
    with (
        recording(store, settings.index_path(store)) as recorder,
        FailureLog(recorder).watch(AUDIT),
    ):
        asking = audit(
            recorder,
            tuple(map(Scope.of, names)) or (Scope(),),
            budget=budget,
            older_than=timedelta(days=older_than),
            asking=asking_of(store, mirrors),
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
                said[finding.health.value if finding.health else "unknown"] += 1
                failed += finding.failed
                told = finding.failed and hosts.is_news(finding)
                if finding.host is None:
                    line = f"{finding.dataset} {finding.path}  {finding.message} ({finding.url})"
                    named += told
                    told = told and named <= _NAMED
                else:
                    line = f"{finding.host}  {finding.message}"
                line = f"{finding.status:<10} {line}"
                settings.emit("audit", finding.record(), line if told else None)
    hosts.sum_up(settings)
    if named > _NAMED:
        settings.say(f"… and {named - _NAMED} more (--json lists all)")
    words = ", ".join(f"{count} {word}" for word, count in sorted(said.items()))
    settings.say(f"{said.total()} places asked" + (f": {words}" if words else ""))
    sys.exit(1 if failed else 0)
