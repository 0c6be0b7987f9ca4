"""``neuromirror demo``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from neuromirror.cli.common import Settings, settings_options


@click.command("demo")
@click.option(
    "--serve",
    is_flag=True,
    help="At the end mirror the volumes, too, and serve archives, store and pages.",
)
@click.option(
    "--keep", type=click.Path(path_type=Path), metavar="DIR", help="Leave everything in DIR."
)
@click.option("--no-input", is_flag=True, help="Never wait for a key.")
@settings_options
def demo_command(settings: Settings, *, serve: bool, keep: Path | None, no_input: bool) -> None:
    """Show the whole way on this machine alone.

    Starts small DANDI and S3 archives on loopback, mirrors them, clones a dataset with datalad,
    gets a file and lets git-annex check it; each step is printed as the command a person would
    type, with what it gave. With --serve it stays, and prints the address at which the catalogue
    shows all of it, until Ctrl-C. Needs the extras 'demo' and 'datalad', and for pages 'web'.
    """
    from neuromirror_demo.walkthrough import run_walkthrough

    sys.exit(run_walkthrough(keep=keep, serve=serve, ask=not no_input, as_json=settings.json))
