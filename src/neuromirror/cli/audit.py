"""``neuromirror audit``."""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from neuromirror.cli.commands import argument, command
from neuromirror.cli.common import Settings, settings_options
from neuromirror.cli.outcome_report import HostMessages
from neuromirror.cli.vault import load_configured_vaults, vaults_option
from neuromirror.model.errors import NeuromirrorError

if TYPE_CHECKING:
    from neuromirror.store import Store

_MAX_SHOWN = 20
"""Maximum number of URLs in text output; --json prints all."""


@command("audit", example="neuromirror audit dandi --budget 5000")
@argument(
    "names",
    nargs=-1,
    metavar="[MIRROR | DATASET]...",
    help="Mirrors (dandi) or datasets (dandi:000027) to choose URLs from [default: all].",
)
@click.option(
    "--budget",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    metavar="N",
    help="Maximum number of URLs to check; the next run checks the next ones.",
)
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    default=30,
    show_default=True,
    metavar="DAYS",
    help="Check only URLs that have not been checked for this many days.",
)
@vaults_option
@settings_options
def audit_command(
    settings: Settings,
    names: tuple[str, ...],
    *,
    budget: int,
    older_than: float,
    vaults: Path | None,
) -> None:
    """Check that the URLs of files, and the vaults, still have the recorded content.

    Nothing is downloaded: size, checksum and object version are requested, those with the oldest
    check first, at most ten per second and server. Without names, each vault is also asked whether
    it still has its copies.
    """
    from datetime import UTC, datetime, timedelta

    from tqdm import tqdm

    from neuromirror.config.builtin_mirrors import load_known_mirrors
    from neuromirror.crawl import FailureLog, open_recorder
    from neuromirror.crawl.recorder import AUDIT
    from neuromirror.lab.audit import AuditScope, audit
    from neuromirror.service.housekeeping import audit_settings_of

    store = settings.store()
    # a given folder is optional here; the files have the request limits of their archives
    mirrors = load_known_mirrors(settings.mirrors_folder).values()
    counts: Counter[str] = Counter()
    failed = named = 0
    hosts = HostMessages()
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
                total=budget, disable=None, leave=False, file=sys.stderr, unit=" URLs"
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
    hosts.print_counts("audit", settings)
    if named > _MAX_SHOWN:
        settings.print_text(f"… and {named - _MAX_SHOWN} more (--json lists all)")
    summary = ", ".join(f"{count} {health}" for health, count in sorted(counts.items()))
    settings.print_text(f"{counts.total()} URLs checked" + (f": {summary}" if summary else ""))
    if not names:
        failed += _audit_vaults(settings, store, vaults, budget, older_than)
    sys.exit(1 if failed else 0)


def _audit_vaults(
    settings: Settings, store: Store, folder: Path | None, budget: int, days: float
) -> int:
    """Check the copies in all vaults; return the number of problems."""
    from neuromirror.custody.vault_check import audit_copies
    from neuromirror.vault.opening import open_ledger, open_vault

    failed = 0
    for config in load_configured_vaults(folder).vaults.values():
        checked = lost = unchecked = 0
        try:
            with open_ledger(store) as ledger, closing(open_vault(config, store)) as vault:
                before = ledger.clock() - days * 86_400
                for outcome in audit_copies(vault, ledger, before, budget):
                    checked += 1
                    unchecked += outcome.host is not None
                    lost += outcome.failed and outcome.host is None
                    text = f"{outcome.status:<10} {config.name}: {outcome.key}  {outcome.message}"
                    is_shown = outcome.failed and lost + unchecked <= _MAX_SHOWN
                    settings.emit("audit", outcome.to_json(), text if is_shown else None)
        except NeuromirrorError as error:
            failed += 1
            record = {"kind": "vault", "status": "error", "vault": config.name}
            settings.emit("audit", record | {"message": str(error)}, f"error      {error}")
        failed += lost + unchecked
        text = f"{checked - unchecked} copies in {config.name} checked, {lost} lost or damaged"
        settings.print_text(text + (f", {unchecked} not checked" if unchecked else ""))
    return failed
