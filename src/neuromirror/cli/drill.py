"""``neuromirror drill``."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from msgspec.structs import asdict

from neuromirror.cli.commands import argument, command
from neuromirror.cli.common import NamedPath, Settings, settings_options
from neuromirror.cli.vault import load_configured_vaults, store_or_none, vaults_option


@command("drill", example="neuromirror drill datasets.lock --in nas")
@argument("lock", type=NamedPath(), metavar="LOCK", help="A lock file.")
@click.option(
    "--in",
    "names",
    multiple=True,
    metavar="VAULT",
    help="Use only this vault [default: all vaults together]. Repeatable.",
)
@vaults_option
@click.option(
    "--scratch",
    type=NamedPath(),
    metavar="DIR",
    help="Folder for the restored files, which are removed [default: the system's].",
)
@settings_options
def drill_command(
    settings: Settings,
    lock: Path,
    *,
    names: tuple[str, ...],
    vaults: Path | None,
    scratch: Path | None,
) -> None:
    """Restore a lock file from vaults alone, and verify every file; keep nothing.

    The content comes from the vaults, in a process that cannot reach upstream or the store: without
    a network if all vaults are folders of this machine and it permits that, else with a check of
    each connection. "neuromirror status" shows the result; run it from cron.
    """
    from neuromirror.custody.drill import run_drill
    from neuromirror.custody.records import record_drill
    from neuromirror.lab.lockfile import load_lock

    configured = load_configured_vaults(vaults)
    chosen = {name: configured.find(name) for name in names} or configured.vaults
    if not chosen:
        configured.find("NAME")
    load_lock(lock)  # wrong usage is not recorded as a failed drill
    store = store_or_none(settings)
    result = run_drill(lock, chosen, store, scratch=scratch)
    if store is not None:
        record_drill(store, lock, result)
    record = {"status": "ok" if result.ok else "error", "lock": str(lock), **asdict(result)}
    text = f"{'ok' if result.ok else 'error':<10} {lock}  {result.message}"
    settings.emit("drill", record, text)
    for problem in result.problems:
        settings.print_text(f"  {problem}")
    sys.exit(0 if result.ok else 1)
