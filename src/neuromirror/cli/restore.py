"""``neuromirror restore``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from neuromirror.cli.common import NamedPath, Settings, settings_options


@click.command("restore")
@click.argument("lock", type=NamedPath())
@click.option(
    "--into",
    type=NamedPath(),
    metavar="DIR",
    required=True,
    help="The folder for the datasets, made if it is missing.",
)
@click.option(
    "--clone",
    "clones",
    metavar="URL",
    multiple=True,
    help="Where to clone from too: as for 'neuromirror pin'.",
)
@click.option(
    "--offline", is_flag=True, help="Ask no network: only the store and what is beside the lock."
)
@click.option(
    "--jobs", type=click.IntRange(min=1), metavar="N", help="Files got at once [default: 32]."
)
@settings_options
def restore_command(
    settings: Settings,
    lock: Path,
    into: Path,
    clones: tuple[str, ...],
    jobs: int | None,
    *,
    offline: bool,
) -> None:
    """Bring the datasets of a LOCK back, with their files.

    Each dataset becomes DIR/<mirror>--<id>, a DataLad dataset at the pinned commit, by the first
    way that leads there: the store (where there is one), the clone URLs of the lock, those of
    --clone, the bundle beside the lock, the manifest alone. Commit, tree and state digest are
    checked whatever way it comes, and a way that leads to something else is not taken. Told is
    what was proved of the files, and by what; what could not be had is named.

    What is there already is kept: run it again to go on after a failure.

    Exit code: 0 all is there, 1 something could not be restored, got or proved to be what was
    pinned, 2 wrong usage, a file that is no lock, or something else in a dataset's place.
    """
    from neuromirror.lab import Tally
    from neuromirror.lab.lockfile import load_lock
    from neuromirror.lab.restore import restore
    from neuromirror.transfer import JOBS

    found = load_lock(lock)
    store = settings.store() if (settings.store_folder / "neuromirror").is_dir() else None
    counted = Tally()
    with progress_line("restoring") as progress:
        for outcome in restore(
            found, into, store, clones=clones, offline=offline, jobs=jobs or JOBS, progress=progress
        ):
            counted.add(outcome)
            shown = outcome.failed or outcome.action == "restore"
            line = f"{outcome.status:<10} {outcome.path}  {outcome.message}" if shown else None
            settings.emit(outcome.action, outcome.to_json(), line)
    sys.exit(counted.exit_code)


@contextmanager
def progress_line(verb: str) -> Iterator[Callable[[str], None]]:
    """Says on stderr what is being done, where that is a terminal."""
    from tqdm import tqdm

    with tqdm(disable=None, leave=False, file=sys.stderr, bar_format="{desc}[{elapsed}]") as bar:
        yield lambda what: bar.set_description_str(f"{verb} {what} ")
