"""``neuromirror repair``."""

from __future__ import annotations

import sys
from dataclasses import asdict

import click

from neuromirror.cli.common import Settings, settings_options


@click.command("repair")
@click.argument("names", nargs=-1, metavar="[MIRROR | DATASET]...")
@click.option("--dry-run", is_flag=True, help="Say what would be done; write nothing.")
@settings_options
def repair_command(settings: Settings, names: tuple[str, ...], *, dry_run: bool) -> None:
    """Undo what other programs wrote to the store's repositories.

    Commits and refs that a push left, and what git-annex leaves where it was initialized in a
    repository, go to neuromirror/quarantine in the store, so that nothing is lost. The refs go back
    to where the journal has them, versions that were recorded of foreign commits leave journal and
    index, and missing hooks that reject pushes are written. "neuromirror fsck" names what there is
    to repair. Stop a service before, and sync afterwards.

    Exit code: 0 done, 1 some repository could not be repaired (the others are), 2 wrong usage.
    """
    from neuromirror.cli.housekeeping import aliases_of
    from neuromirror.crawl.repair import repair_repositories

    store = settings.store()
    aliases = aliases_of(store, names) if names else None
    code = repaired = unneeded = 0
    for one in repair_repositories(store, settings.index_path(store), aliases, dry_run=dry_run):
        unneeded += one.status == "notneeded"
        repaired += one.status == "ok"
        code |= one.status == "error"
        line = f"{one.status:<10} {one.dataset}  {one.message}"
        settings.emit("repair", asdict(one), None if one.status == "notneeded" else line)
    if unneeded:
        settings.print_text(f"notneeded  {unneeded} repositories hold nothing foreign")
    if repaired and not dry_run:
        settings.print_text("repaired; now run: neuromirror sync")
    sys.exit(code)
