"""``neuromirror takedown``."""

from __future__ import annotations

import getpass
import sys
from dataclasses import asdict

import click

from neuromirror.cli.common import Settings, settings_options
from neuromirror.model.errors import ConfigurationError


@click.command("takedown")
@click.argument("dataset")
@click.option("--reason", metavar="TEXT", help="Why; it is told to everybody who asks for it.")
@click.option("--undo", is_flag=True, help="Show it again, as if it had never been taken down.")
@settings_options
def takedown_command(settings: Settings, dataset: str, *, reason: str | None, undo: bool) -> None:
    """Stop showing a DATASET, and visiting it.

    Its repository, records and manifests, and those of sub-datasets that only it has, are moved out
    of the store to a folder beside it that only you can read (STORE-withdrawn); nothing is deleted.
    Alias and super-datasets lose it, and the index, which is made anew, knows no more of it than
    its name, the ids of its versions, and REASON: that is what every command answers, and what is
    in tombstones/. No sync visits it until --undo. Killed anywhere, repeat it.

    What copies are elsewhere, and what else to see to: docs/takedown.md.

    Exit code: 0 done, 1 something failed (repeat it), 2 there is no such dataset, or it is a part.
    """
    from neuromirror.crawl import open_recorder
    from neuromirror.crawl.takedown import reinstate, take_down

    if undo == (reason is not None):
        raise ConfigurationError(
            "--undo takes no --reason" if undo else "say why with --reason; everybody is told"
        )
    if ":" not in dataset or "@" in dataset:
        raise ConfigurationError(f"'{dataset}' is not a dataset; write <mirror>:<id>")
    store = settings.store()
    mirrors = settings.mirrors()
    by, code = getpass.getuser(), 0
    with open_recorder(store, settings.index_path(store)) as recorder:
        done = (
            reinstate(store, recorder, dataset, by, mirrors)
            if undo
            else take_down(store, recorder, dataset, reason or "", by, mirrors)
        )
        for result in done:
            code = max(code, result.exit_code)
            record = {**asdict(result), "exit_code": result.exit_code}
            line = f"{result.status:<10} {result.dataset}  {result.message}"
            settings.emit("takedown", record, line)
    sys.exit(code)
