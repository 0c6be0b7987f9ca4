"""``neuromirror sync``, ``holds`` and ``release``."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from neuromirror.cli.common import (
    NamedPath,
    Settings,
    format_traffic,
    printable,
    settings_options,
)
from neuromirror.model.display import format_bytes

if TYPE_CHECKING:
    from neuromirror.crawl import Result, Sync
    from neuromirror.index import Index
    from neuromirror.sources import Estimate


_MAX_SHOWN = 20
"""Datasets in progress that are named when a sync is ended."""


@click.command("sync")
@click.argument("names", nargs=-1, metavar="[MIRROR | DATASET]...")
@click.option("--dry-run", is_flag=True, help="Say what would be visited; write nothing.")
@click.option("--deep", is_flag=True, help="Visit datasets even if upstream's overview is unmoved.")
@click.option(
    "--history", is_flag=True, help="Mirror earlier states too, where upstream keeps them."
)
@click.option(
    "--jobs", type=click.IntRange(1, 64), default=16, show_default=True, help="Datasets at a time."
)
@click.option(
    "--private-store",
    type=NamedPath(),
    metavar="DIR",
    help="The store of what is under embargo [no default; NEUROMIRROR_PRIVATE_STORE].",
)
@click.option("--quiet", is_flag=True, help="Do not say at the end what the archives were asked.")
@settings_options
def sync_command(
    settings: Settings,
    names: tuple[str, ...],
    *,
    dry_run: bool,
    deep: bool,
    history: bool,
    jobs: int,
    private_store: Path | None,
    quiet: bool,
) -> None:
    """Bring datasets up to date with their archives.

    Without names all declared mirrors are synced. MIRROR is a declared mirror (dandi), DATASET
    one of its datasets (dandi:000027). Where the archive's list tells what has changed, unchanged
    datasets cost no request of their own.

    With --history, states between the last one that is mirrored (or the beginning) and now are
    minted first, oldest first, as far as the archive keeps the versions of its objects.

    What is under embargo is passed over, or, where the mirror's file says embargoed = "private",
    goes to the store that --private-store names, outside the other one. All other commands look
    into that store with --store.

    Beside "neuromirror serve", a dataset that it is visiting at the moment is left to it.

    At the end stderr is told, mirror by mirror, how many requests that took, how much came, and
    whether the archive asked to slow down; "neuromirror show" tells it of a dataset's last visit.

    Ended by Ctrl-C or SIGTERM it prints which datasets were in progress and how many are left.

    Exit code: 0 all done, 1 something failed (the others are done), 2 wrong usage or
    configuration, 3 a listing is held for approval, 130 or 143 ended by a signal.
    """
    from neuromirror.crawl import PrivateStore, Sync, parse_sync_requests
    from neuromirror.crawl import dry_run as dry_results
    from neuromirror.service.leases import open_lease_manager
    from neuromirror.store import Store
    from neuromirror.store.private_store import require_public_store

    if private_store is None and (named := os.environ.get("NEUROMIRROR_PRIVATE_STORE")):
        private_store = Path(named)
    mirrors = settings.mirrors()
    requests = parse_sync_requests(names, mirrors)
    require_public_store(settings.store_folder)
    private = PrivateStore(private_store, Store(settings.store_folder.absolute()))
    private.check_sources([request.mirror.open() for request in requests])
    results: Iterable[Result]
    if dry_run:
        with _index_if_any(settings) as index:
            results = dry_results(requests, index, deep=deep, history=history, private=private)
            code = _report(settings, results, count_unchanged=False)
    else:
        store = settings.store(create=True)
        index_path = settings.index_path(store)
        with open_lease_manager(store.schedule_path, "sync") as claims:
            run = Sync(
                store,
                index_path,
                deep=deep,
                history=history,
                jobs=jobs,
                private=private_store,
                claim=None if claims is None else claims.claim,
                declared_mirrors=mirrors,
            )
            with _exit_on_signal(run):
                results = _with_progress(run, run.results(requests))
                code = _report(settings, results, count_unchanged=True)
        if not quiet:
            _print_traffic(run)
    sys.exit(code)


@contextmanager
def _index_if_any(settings: Settings) -> Iterator[Index | None]:
    """The index for a dry run, which must work before the first sync too."""
    from neuromirror.store import NotAStoreError

    try:
        store = settings.store()
    except NotAStoreError:
        folder = settings.store_folder
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise
        yield None
        return
    if not settings.index_path(store).exists():
        yield None
        return
    with settings.index() as index:
        yield index


@contextmanager
def _exit_on_signal(run: Sync) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the process there and then, without waiting for visits.

    They may be minutes from their end. A store takes no harm from a process that dies (its writes
    are ordered for that), so no more is needed than to print what is left.
    """

    def stop(number: int, frame: object) -> None:
        # a bar may stand in the line; the process ends here, so nothing is left to draw it again
        start = "\r\x1b[K" if sys.stderr.isatty() else ""
        reason = "interrupted" if number == signal.SIGINT else "terminated"
        left = _remaining_text(run.active_datasets, max(0, run.total - run.finished))
        line = f"neuromirror: {reason}{left}; the store is whole, run the sync again to go on"
        os.write(2, f"{start}{printable(line)}\n".encode())
        os._exit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [(one, signal.signal(one, stop)) for one in (signal.SIGINT, signal.SIGTERM)]
    try:
        yield
    finally:
        for one, was in before:
            signal.signal(one, was)


def _remaining_text(visiting: Sequence[str], unfinished: int) -> str:
    """``; in progress: demo:1, demo:2; not started: 5 datasets``, as far as there is any."""
    parts = []
    if visiting:
        more = f" and {len(visiting) - _MAX_SHOWN} more" if len(visiting) > _MAX_SHOWN else ""
        parts.append(f"; in progress: {', '.join(visiting[:_MAX_SHOWN])}{more}")
    if unfinished > len(visiting):
        parts.append(f"; not visited: {unfinished - len(visiting)} datasets")
    return "".join(parts)


def _with_progress(run: Sync, results: Iterator[Result]) -> Iterator[Result]:
    """Passes results on, with a progress bar on stderr where that is a terminal."""
    from tqdm import tqdm

    over = threading.Event()

    def tick() -> None:
        # a visit may take long: the time goes on, so that one sees that it runs
        while not over.wait(1):
            bar.total = run.total or None
            bar.refresh()

    shape = "{desc}{n_fmt}/{total_fmt} datasets [{elapsed}{postfix}]"
    with tqdm(disable=None, leave=False, file=sys.stderr, bar_format=shape, desc="syncing ") as bar:
        ticker = threading.Thread(target=tick, daemon=True)
        if not bar.disable:
            ticker.start()
        try:
            for result in results:
                bar.total = run.total
                bar.update()
                with bar.external_write_mode(file=sys.stdout):
                    yield result
        finally:
            over.set()
            if ticker.is_alive():
                ticker.join()


def _report(settings: Settings, results: Iterable[Result], *, count_unchanged: bool) -> int:
    """Prints the results as they come, unchanged datasets as a number; gives the exit code."""
    code, any_result = 0, False
    unchanged: list[str] = []
    for result in results:
        any_result = True
        code = worst_exit_code(code, result.exit_code)
        line: str | None = format_result(result)
        if count_unchanged and (result.status, result.message) == ("notneeded", "unchanged"):
            unchanged.append(result.dataset)
            line = None
        settings.emit("sync", asdict(result), line)
    if len(unchanged) == 1:
        settings.print_text(f"notneeded  {unchanged[0]}  unchanged")
    elif unchanged:
        settings.print_text(f"notneeded  {len(unchanged)} datasets are unchanged")
    if not any_result:
        settings.print_text("notneeded  the archive lists no datasets")
    return code


def _print_traffic(run: Sync) -> None:
    for mirror, hosts in run.traffic().items():
        if hosts:
            click.echo(printable(f"neuromirror: {mirror}: {format_traffic(hosts)}"), err=True)


def format_result(result: Result) -> str:
    """How a dataset fared, in a line."""
    # many messages begin with the dataset, for those who see nothing else
    message = result.message.removeprefix(f"{result.dataset}: ")
    estimate = "" if result.estimate is None else f"; {_estimate_text(result.estimate)}"
    return f"{result.status:<10} {result.dataset}  {message}{estimate}"


def _estimate_text(estimate: Estimate) -> str:
    """``1,218 files, 252.0 GB; 252.0 GB read once, in 1,218 requests``."""
    size = f"{estimate.files:,} files, {format_bytes(estimate.bytes)}"
    if not estimate.fetched:
        return f"{size}; nothing would be read of them"
    read = f"{format_bytes(estimate.fetched)} read once, in {estimate.requests:,} requests"
    return f"{size}; {read}"


def worst_exit_code(one: int, other: int) -> int:
    """1 (failed) outranks 3 (held), which outranks 0."""
    ranks = {0: 0, 3: 1, 1: 2}
    return max(one, other, key=lambda code: ranks[code])


@click.command("holds")
@settings_options
def holds_command(settings: Settings) -> None:
    """List what waits for an operator's approval.

    A listing that is empty, loses more than the mirror's guards allow, or has other bytes where
    they should never change, is held: look at the archive, then let it through with "neuromirror
    release", or wait until upstream is mended.
    Exit code: 0 none waits, 3 something does.
    """
    with settings.index() as index:
        holds = list(index.open_holds())
    for hold in holds:
        settings.emit("holds", asdict(hold))
    settings.print_table(
        [[h.hold, h.dataset, h.upstream, h.reason, h.placed_at] for h in holds],
        ["HOLD", "DATASET", "VERSION", "WHY", "SINCE"],
    )
    if not holds:
        settings.print_text("nothing is held")
    sys.exit(3 if holds else 0)


@click.command("release")
@click.argument("hold")
@settings_options
def release_command(settings: Settings, hold: str) -> None:
    """Let a held listing through.

    HOLD is its id in "neuromirror holds", or the first digits of it. The next sync accepts that
    very listing, and holds any other. A service visits the dataset at once.
    """
    from neuromirror.service.hold_release import release_and_make_due

    store = settings.store()
    dataset = release_and_make_due(store, settings.index_path(store), hold)
    settings.emit(
        "release",
        {"hold": hold, "dataset": dataset, "message": "released"},
        f"released; a running service visits it now; without one: neuromirror sync {dataset}",
    )
