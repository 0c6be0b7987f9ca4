"""``neuromirror sync``, ``holds`` and ``release``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from neuromirror.cli.common import Settings, settings_options

if TYPE_CHECKING:
    from neuromirror.crawl import Result
    from neuromirror.index import Index


@click.command("sync")
@click.argument("names", nargs=-1, metavar="[MIRROR | DATASET]...")
@click.option("--dry-run", is_flag=True, help="Say what would be visited; write nothing.")
@click.option("--deep", is_flag=True, help="Visit datasets even if upstream's overview is unmoved.")
@click.option(
    "--jobs", type=click.IntRange(1, 64), default=4, show_default=True, help="Datasets at a time."
)
@settings_options
def sync_command(
    settings: Settings, names: tuple[str, ...], *, dry_run: bool, deep: bool, jobs: int
) -> None:
    """Bring datasets up to date with their archives.

    Without names all declared mirrors are synced. MIRROR is a declared mirror (dandi), DATASET
    one of its datasets (dandi:000027). Unchanged datasets cost no request of their own.

    Exit code: 0 all done, 1 something failed (the others are done), 2 wrong usage or
    configuration, 3 a listing is held for approval.
    """
    from neuromirror.crawl import Sync, parse_requests
    from neuromirror.crawl import dry_run as dry_results

    requests = parse_requests(names, settings.mirrors())
    results: Iterable[Result]
    if dry_run:
        with _index_if_any(settings) as index:
            results = list(dry_results(requests, index, deep=deep))
            code = _report(settings, results, quiet_notneeded=False)
    else:
        store = settings.store(create=True)
        run = Sync(store, settings.index_path(store), deep=deep, jobs=jobs)
        code = _report(settings, _with_progress(run, run.results(requests)), quiet_notneeded=True)
    sys.exit(code)


@contextmanager
def _index_if_any(settings: Settings) -> Iterator[Index | None]:
    """The index for a dry run, which must work before the first sync too."""
    from neuromirror.store import NotAStore

    try:
        store = settings.store()
    except NotAStore:
        if settings.store_folder.exists() and any(settings.store_folder.iterdir()):
            raise
        yield None
        return
    if not settings.index_path(store).exists():
        yield None
        return
    with settings.index() as index:
        yield index


def _with_progress(run: Any, results: Iterator[Result]) -> Iterator[Result]:
    """Passes results on, with a progress bar on stderr where that is a terminal."""
    from tqdm import tqdm

    with tqdm(unit="dataset", disable=None, leave=False, file=sys.stderr) as bar:
        for result in results:
            bar.total = run.total
            bar.update()
            with bar.external_write_mode(file=sys.stdout):
                yield result


def _report(settings: Settings, results: Iterable[Result], *, quiet_notneeded: bool) -> int:
    code, unchanged, counts = 0, 0, dict[str, int]()
    for result in results:
        code = _worse(code, result.exit_code)
        counts[result.status] = counts.get(result.status, 0) + 1
        line = f"{result.status:<10} {result.dataset}  {result.message}"
        if quiet_notneeded and result.status == "notneeded" and result.message == "unchanged":
            unchanged += 1
            settings.emit("sync", asdict(result))
        else:
            settings.emit("sync", asdict(result), line)
    if unchanged and not settings.json:
        click.echo(f"notneeded  {unchanged} datasets unchanged")
    if not counts and not settings.json:
        click.echo("notneeded  the archive lists no datasets")
    return code


def _worse(one: int, other: int) -> int:
    """1 (failed) outranks 3 (held), which outranks 0."""
    ranks = {0: 0, 3: 1, 1: 2}
    return max(one, other, key=lambda code: ranks[code])


@click.command("holds")
@settings_options
def holds_command(settings: Settings) -> None:
    """List listings that wait for an operator's approval.

    Exit code: 0 none waits, 3 something does.
    """
    with settings.index() as index:
        holds = list(index.open_holds())
    for hold in holds:
        settings.emit("holds", asdict(hold))
    settings.table(
        [[h.hold, h.dataset, h.upstream, h.reason, h.placed] for h in holds],
        ["HOLD", "DATASET", "VERSION", "WHY", "SINCE"],
    )
    if not holds and not settings.json:
        click.echo("nothing is held")
    sys.exit(3 if holds else 0)


@click.command("release")
@click.argument("hold")
@settings_options
def release_command(settings: Settings, hold: str) -> None:
    """Let a held listing through: the next sync accepts just that listing."""
    from neuromirror.crawl import recording, release

    store = settings.store()
    with recording(store, settings.index_path(store)) as recorder:
        dataset = release(recorder, hold)
    settings.emit(
        "release",
        {"hold": hold, "dataset": dataset, "message": "released"},
        f"released; now run: neuromirror sync {dataset}",
    )
