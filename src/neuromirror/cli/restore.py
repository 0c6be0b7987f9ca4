"""``neuromirror restore``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from neuromirror.cli.addresses import DEFAULT_LOCK, refuse_address
from neuromirror.cli.commands import argument, command, jobs_option
from neuromirror.cli.common import NamedPath, Settings, printable, settings_options
from neuromirror.cli.outcome_report import HostMessages
from neuromirror.cli.progress_line import step_line
from neuromirror.model.errors import ConfigurationError


@command("restore", example="neuromirror restore datasets.lock --into data")
@argument(
    "lock",
    type=NamedPath(),
    default=DEFAULT_LOCK,
    metavar="[LOCK]",
    help='A lock file written by "neuromirror pin", or its folder [default: datasets.lock].',
)
@click.option(
    "--into",
    type=NamedPath(),
    metavar="DIR",
    help="Folder for the datasets, required; it is created if it does not exist.",
)
@click.option(
    "--clone",
    "clones",
    metavar="URL",
    multiple=True,
    help="Additional URL to clone from, as for 'neuromirror pin --clone'.",
)
@click.option(
    "--copies",
    metavar="LOCATION",
    multiple=True,
    help="Vault with copies of the content, in addition to those that the lock file names: its "
    "folder, the URL of its folder, or s3://BUCKET/PREFIX.",
)
@click.option(
    "--copies-only",
    is_flag=True,
    help="Use only vaults and the files beside the lock file: neither upstream nor the mirror.",
)
@click.option(
    "--offline",
    is_flag=True,
    help="Send no request: restore the repositories from the store or the files beside the lock "
    "file, without file content.",
)
@jobs_option("Number of files fetched in parallel [default: 32].", most=None)
@settings_options
def restore_command(
    settings: Settings,
    lock: Path,
    into: Path | None,
    clones: tuple[str, ...],
    copies: tuple[str, ...],
    jobs: int | None,
    *,
    copies_only: bool,
    offline: bool,
) -> None:
    """Restore the datasets of a lock file, with their content.

    Each dataset becomes DIR/<mirror>--<id>, a DataLad dataset at the pinned commit, from the first
    of these that has it: the store, the clone URLs of the lock file, those of --clone, the bundle,
    the manifest alone. Commit, tree and state digest are checked. Content that upstream no longer
    has comes from the vaults that the lock file names, from your own ($NEUROMIRROR_VAULTS, else
    ./vaults without endpoints), and from --copies. With --offline the content is neither fetched
    nor checked. Existing files are kept: run the command again to continue after a failure.
    """
    from neuromirror.lab import Tally
    from neuromirror.lab.lockfile import load_lock, parse_location
    from neuromirror.lab.restore import restore
    from neuromirror.transfer import JOBS
    from neuromirror.vault.own_vaults import own_vaults

    refuse_address(lock, "a lock file", "pin")
    found = load_lock(lock / DEFAULT_LOCK if lock.is_dir() else lock)
    if into is None:
        raise ConfigurationError(
            "--into is missing: name a folder for the datasets, for example --into data"
        )
    store = settings.store() if (settings.store_folder / "neuromirror").is_dir() else None
    own = own_vaults()
    vaults = [*(parse_location(one) for one in copies), *own.addresses]
    counted = Tally()
    hosts = HostMessages()
    with step_line("restoring") as progress:
        for outcome in restore(
            found,
            into,
            store,
            clones=clones,
            offline=offline,
            vaults=vaults,
            copies_only=copies_only,
            jobs=jobs or JOBS,
            progress=progress,
        ):
            counted.add(outcome)
            is_new = outcome.failed and hosts.is_first(outcome)
            shown = is_new or outcome.action == "restore"
            line = f"{outcome.status:<10} {outcome.path}  {outcome.message}" if shown else None
            settings.emit(outcome.action, outcome.to_json(), line)
    hosts.print_counts("get", settings)
    for message in own.unused if counted.exit_code else ():
        click.echo(printable(f"neuromirror: {message}"), err=True)
    sys.exit(counted.exit_code)
