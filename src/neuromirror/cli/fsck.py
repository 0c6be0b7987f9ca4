"""``neuromirror fsck``."""

from __future__ import annotations

import sys

import click

from neuromirror.cli.commands import argument, command
from neuromirror.cli.common import Settings, settings_options


@command(
    "fsck",
    example="""\
neuromirror fsck
neuromirror fsck dandi:000027
neuromirror fsck --budget 3600""",
)
@argument(
    "names",
    nargs=-1,
    metavar="[DATASET]...",
    help="Datasets, e.g. dandi:000027 [default: the whole store].",
)
@click.option(
    "--budget",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Check the whole store, and stop after this time; the next run with --budget continues "
    "there. Not with DATASET.",
)
@settings_options
def fsck_command(settings: Settings, names: tuple[str, ...], *, budget: float | None) -> None:
    """Check the integrity of the store and its index.

    Checked are the alias and the repository of each dataset (git fsck, refs, foreign commits), the
    records and the manifest of each version against its state digest, and the entries of the index;
    without names also the journal, the whole index and the block digests. A service does the same
    in small steps; --budget continues where it stopped. Nothing is changed or requested. Each
    problem is printed with its remedy.
    """
    from neuromirror.index import UnknownDatasetError
    from neuromirror.model import ConfigurationError, alias_of
    from neuromirror.service.integrity import check_integrity

    if names and budget is not None:
        raise ConfigurationError(
            "--budget and DATASET cannot be used together: --budget checks the whole store, in "
            "several runs; leave out one of them"
        )
    store = settings.store()
    requested = {alias_of(name): name for name in names}
    known = {alias for alias, _ in store.aliases()}
    intact = failed = 0
    seen: set[str] = set()
    for result in check_integrity(
        store, settings.index_path(store), set(requested) or None, budget
    ):
        seen.add(result.position.alias)
        record = {
            "subject": result.subject,
            "path": result.name,
            "status": result.status,
            "message": result.message,
        }
        intact += result.status == "ok"
        failed += result.status != "ok"
        line = f"{result.status:<10} {result.subject:<8} {result.name}  {result.message}"
        settings.emit("fsck", record, line if result.status != "ok" else None)
    for alias, name in requested.items():
        if alias not in seen and alias not in known:
            raise UnknownDatasetError(
                f"dataset {name!r} is not in the store; 'neuromirror list' lists its datasets"
            )
    settings.print_text(f"{intact} items intact, {failed} damaged or not checked")
    sys.exit(1 if failed else 0)
