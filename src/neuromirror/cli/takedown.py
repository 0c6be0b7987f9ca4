"""``neuromirror takedown``."""

from __future__ import annotations

import getpass
import sys

import click
from msgspec import to_builtins

from neuromirror.cli.commands import argument, command
from neuromirror.cli.common import Settings, settings_options
from neuromirror.model.errors import ConfigurationError


@command(
    "takedown",
    example="""\
neuromirror takedown dandi:000027 --reason "withdrawn by its authors"
neuromirror takedown dandi:000027 --undo""",
)
@argument("dataset", help="A dataset, e.g. dandi:000027.")
@click.option(
    "--reason",
    metavar="TEXT",
    help=(
        "Why the dataset is withdrawn, shown by commands and web pages instead of the dataset. "
        "Required, except with --undo."
    ),
)
@click.option("--undo", is_flag=True, help="Reinstate a dataset that was taken down.")
@settings_options
def takedown_command(settings: Settings, dataset: str, *, reason: str | None, undo: bool) -> None:
    """Withdraw a dataset: move it to STORE-withdrawn; only cached previews are deleted.

    Its repository, records, manifests and block digests, and those of subdatasets that belong to no
    other dataset, are moved to STORE-withdrawn, a folder beside the store that only you can read.
    Alias and entries in superdatasets are removed, and the index is rebuilt. Commands show the
    reason, and tombstones/ in the store records it. No sync visits the dataset until --undo. If the
    command is interrupted, run it again. "Withdraw a dataset" in the documentation explains what
    else to do.
    """
    from neuromirror.crawl import open_recorder
    from neuromirror.crawl.takedown import reinstate, take_down

    if undo == (reason is not None):
        raise ConfigurationError(
            "--undo takes no --reason"
            if undo
            else (
                f"{dataset}: a takedown needs a reason, which commands and web pages show "
                "instead of the dataset; add --reason TEXT"
            )
        )
    if ":" not in dataset or "@" in dataset:
        raise ConfigurationError(
            f"'{dataset}' is not the name of a dataset; write <mirror>:<id>, e.g. dandi:000027"
        )
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
            record = {**to_builtins(result), "exit_code": result.exit_code}
            line = f"{result.status:<10} {result.dataset}  {result.message}"
            settings.emit("takedown", record, line)
    sys.exit(code)
