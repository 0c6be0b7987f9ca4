"""``neuromirror housekeeping``."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click
from msgspec import to_builtins

from neuromirror.cli.commands import argument, command
from neuromirror.cli.common import Settings, settings_options
from neuromirror.model.display import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from neuromirror.store import Store


def repository_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the argument ``names`` and the option ``--dry-run``."""
    names = argument(
        "names",
        nargs=-1,
        metavar="[MIRROR | DATASET]...",
        help="Mirrors (dandi) or datasets (dandi:000027) [default: the whole store].",
    )
    text = "Print what would be done, and write nothing."
    return names(click.option("--dry-run", is_flag=True, help=text)(function))


@command("housekeeping", example="neuromirror housekeeping dandi --dry-run")
@repository_options
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=24,
    show_default=True,
    metavar="HOURS",
    help="Time to keep replaced pack files, which clones in progress may still read.",
)
@settings_options
def housekeeping_command(
    settings: Settings, names: tuple[str, ...], *, dry_run: bool, grace: float
) -> None:
    """Repack repositories of the store, so that cloning is faster.

    The packs of a repository are compressed into one. No ref and no object id changes, and an
    interrupted run loses nothing. A dataset that is being updated is skipped. The service does this
    automatically.
    """
    from datetime import timedelta

    from neuromirror.crawl.recorder import record_housekeeping
    from neuromirror.model import name_from_alias
    from neuromirror.store import HousekeepingPolicy, run_housekeeping

    store = settings.store()
    aliases = aliases_of(store, names) if names else None
    rules = HousekeepingPolicy(grace_period=timedelta(hours=grace))
    code = unneeded = freed = 0
    with ExitStack() as stack:
        log = None if dry_run else stack.enter_context(settings.failure_log(store))
        for result in run_housekeeping(store, aliases, rules, dry_run=dry_run):
            if log is not None:
                record_housekeeping(log, result)
            dataset = name_from_alias(result.alias)
            line: str | None = f"{result.status:<10} {dataset}  {result.message}"
            if result.status == "notneeded":
                unneeded += 1
                line = None
            elif result.status == "error":
                code = 1
            freed += result.bytes_before - result.bytes_after
            settings.emit("housekeeping", {"dataset": dataset, **to_builtins(result)}, line)
    if unneeded:
        settings.print_text(f"notneeded  {unneeded} repositories need no repacking")
    if freed > 0 and not dry_run:
        settings.print_text(
            f"{format_bytes(freed)} will be freed when the replaced packs are deleted"
        )
    sys.exit(code)


def aliases_of(store: Store, names: Iterable[str]) -> set[str]:
    """Return the aliases of datasets and of all datasets of mirrors.

    Raises
    ------
    UnknownDatasetError
        The store has no dataset or mirror of a name.
    """
    from neuromirror.index import UnknownDatasetError
    from neuromirror.model import alias_of

    known = {alias for alias, _ in store.aliases()}
    found: set[str] = set()
    for name in names:
        alias = alias_of(name)
        of_mirror = {one for one in known if ":" not in name and one.startswith(f"{alias}--")}
        if alias not in known and not of_mirror:
            raise UnknownDatasetError(
                f"dataset or mirror {name!r} is not in the store; 'neuromirror list' lists the "
                "datasets in the store, and 'neuromirror status' the mirrors"
            )
        found |= of_mirror | ({alias} & known)
    return found
