"""``neuromirror demo``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from neuromirror.cli.commands import command
from neuromirror.cli.common import Settings, settings_options


@command(
    "demo",
    example="""\
neuromirror demo
neuromirror demo --serve --keep demo""",
)
@click.option(
    "--serve",
    is_flag=True,
    help="Mirror volumes too, then serve the archives, the store and the catalogue.",
)
@click.option(
    "--keep",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Keep all files in DIR [default: delete them at the end].",
)
@click.option("--no-input", is_flag=True, help="Run all steps without waiting for a key.")
@settings_options
def demo_command(settings: Settings, *, serve: bool, keep: Path | None, no_input: bool) -> None:
    """Mirror a simulated archive on this machine, step by step.

    Every step, from sync to citation, is printed as the command to type and its output. Requires
    the extra "demo", and for the catalogue "web".
    """
    from neuromirror_demo.walkthrough import run_walkthrough

    sys.exit(run_walkthrough(keep=keep, serve=serve, ask=not no_input, as_json=settings.json))
