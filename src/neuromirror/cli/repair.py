"""``neuromirror repair``."""

from __future__ import annotations

import sys

from msgspec import to_builtins

from neuromirror.cli.commands import command
from neuromirror.cli.common import Settings, settings_options
from neuromirror.cli.housekeeping import aliases_of, repository_options


@command("repair", example="neuromirror repair dandi:000027 --dry-run")
@repository_options
@settings_options
def repair_command(settings: Settings, names: tuple[str, ...], *, dry_run: bool) -> None:
    """Move changes made by other programs from the store's repositories to a quarantine.

    Commits and refs of a push, and files of git-annex, are moved to neuromirror/quarantine in the
    store, so that nothing is lost. The refs are reset to those of the journal, versions recorded
    from foreign commits are removed, and missing hooks are written. "neuromirror fsck" lists what
    needs repair. Stop the service, run repair, then run "neuromirror sync".
    """
    from neuromirror.crawl.repair import repair_repositories

    store = settings.store()
    aliases = aliases_of(store, names) if names else None
    code = repaired = unneeded = 0
    for one in repair_repositories(store, settings.index_path(store), aliases, dry_run=dry_run):
        unneeded += one.status == "notneeded"
        repaired += one.status == "ok"
        code |= one.status == "error"
        line = f"{one.status:<10} {one.dataset}  {one.message}"
        settings.emit("repair", to_builtins(one), None if one.status == "notneeded" else line)
    if unneeded:
        settings.print_text(f"notneeded  {unneeded} repositories have no foreign changes")
    if repaired and not dry_run:
        settings.print_text("repaired; now run: neuromirror sync")
    sys.exit(code)
