"""``neuromirror housekeeping``."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from neuromirror.cli.common import Settings, settings_options
from neuromirror.model.display import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from neuromirror.store import Store


@click.command("housekeeping")
@click.argument("names", nargs=-1, metavar="[MIRROR | DATASET]...")
@click.option("--dry-run", is_flag=True, help="Say what would be done; write nothing.")
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=24,
    show_default=True,
    metavar="HOURS",
    help="How long packs that were replaced stay, for clones under way over plain HTTP.",
)
@settings_options
def housekeeping_command(
    settings: Settings, names: tuple[str, ...], *, dry_run: bool, grace: float
) -> None:
    """Make the store's repositories smaller and quicker to clone.

    The packs that syncs wrote are compressed and made one; no ref and no object id changes, and
    nothing is lost when it is interrupted. MIRROR is a mirror (dandi) with all its datasets,
    DATASET one of them (dandi:000027); without names it is the whole store. Run it now and then,
    when no sync runs: a dataset that is visited just now is passed over.

    Exit code: 0 done, 1 something failed (the others are done), 2 wrong usage.
    """
    from datetime import timedelta

    from neuromirror.crawl.failure_log import name_from_alias, record_housekeeping
    from neuromirror.store.housekeeping import HousekeepingPolicy, run_housekeeping

    store = settings.store()
    aliases = aliases_of(store, names) if names else None
    rules = HousekeepingPolicy(grace_period=timedelta(hours=grace))
    code = unneeded = freed = 0
    with ExitStack() as stack:
        log = None if dry_run else stack.enter_context(settings.failure_log(store))
        for kept in run_housekeeping(store, aliases, rules, dry_run=dry_run):
            if log is not None:
                record_housekeeping(log, kept)
            dataset = name_from_alias(kept.alias)
            line: str | None = f"{kept.status:<10} {dataset}  {kept.message}"
            if kept.status == "notneeded":
                unneeded += 1
                line = None
            elif kept.status == "error":
                code = 1
            freed += kept.bytes_before - kept.bytes_after
            settings.emit("housekeeping", {"dataset": dataset, **asdict(kept)}, line)
    if unneeded:
        settings.print_text(f"notneeded  {unneeded} of them need nothing")
    if freed > 0 and not dry_run:
        settings.print_text(
            f"{format_bytes(freed)} less once the packs that were replaced are deleted"
        )
    sys.exit(code)


def aliases_of(store: Store, names: Iterable[str]) -> set[str]:
    """The aliases that are named, each by its dataset or its mirror; raises UnknownDatasetError."""
    from neuromirror.index import UnknownDatasetError
    from neuromirror.model import alias_of

    known = {alias for alias, _ in store.aliases()}
    found: set[str] = set()
    for name in names:
        alias = alias_of(name)
        of_mirror = {one for one in known if ":" not in name and one.startswith(f"{alias}--")}
        if alias not in known and not of_mirror:
            raise UnknownDatasetError(
                f"there is no dataset or mirror {name!r} in the store; 'neuromirror list' shows "
                "those that are"
            )
        found |= of_mirror | ({alias} & known)
    return found
