"""``neuromirror sync``."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec import to_builtins

from neuromirror.cli.addresses import find_address
from neuromirror.cli.commands import argument, command, jobs_option
from neuromirror.cli.common import (
    PRIVATE_STORE,
    NamedPath,
    Settings,
    format_traffic,
    path_from_environment,
    printable,
    settings_options,
)
from neuromirror.model.errors import UnknownAddressError, format_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from neuromirror.cli.progress_line import ProgressLine
    from neuromirror.config.mirror_files import Mirror
    from neuromirror.crawl import PrivateStore, Result, Sync
    from neuromirror.crawl.plan import SyncRequest
    from neuromirror.index import Index
    from neuromirror.sources import Estimate
    from neuromirror.store import Store


_MAX_SHOWN = 20
"""Maximum number of datasets in progress that are listed when a sync is interrupted."""


@command(
    "sync",
    example="""\
neuromirror sync dandi:000027
neuromirror sync dandi --dry-run""",
)
@argument(
    "names",
    nargs=-1,
    metavar="[MIRROR | DATASET]...",
    help="Mirrors (dandi) or datasets (dandi:000027) [default: the mirrors in --mirrors; built-in "
    "mirrors only if named].",
)
@click.option(
    "--dry-run", is_flag=True, help="Print which datasets would be updated, and write nothing."
)
@click.option(
    "--deep",
    is_flag=True,
    help="Request the list of files of every dataset, even if the archive reports no change.",
)
@click.option(
    "--history", is_flag=True, help="Mirror earlier versions too, if the archive keeps them."
)
@jobs_option("Number of datasets updated in parallel.", default=16, show_default=True)
@click.option(
    "--private-store",
    type=NamedPath(),
    metavar="DIR",
    help="Store for embargoed datasets, which are skipped unless the mirror file has embargoed = "
    '"private" [default: $NEUROMIRROR_PRIVATE_STORE].',
)
@click.option("--quiet", is_flag=True, help="Do not print the summary of HTTP requests.")
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

    If the archive lists which datasets changed, unchanged ones need no request of their own.
    --history also mirrors the states between the last mirrored one and the present one, if the
    archive keeps old versions of its objects. Embargoed datasets are skipped, or mirrored to the
    store of --private-store. A dataset that "neuromirror serve" is visiting is skipped. A summary
    of the requests goes to stderr.

    Exit code: 1 if a dataset failed (the others are done), 3 if an update is held, 130 or 143
    interrupted by a signal.
    """
    from neuromirror.cli.progress_line import with_progress_bar
    from neuromirror.crawl import dry_run as dry_results
    from neuromirror.crawl import parse_sync_requests
    from neuromirror.store.private_store import require_public_store

    private_store = private_store or path_from_environment(PRIVATE_STORE)
    mirrors = settings.mirrors()
    names = tuple(_dataset_name(settings, name, mirrors) for name in names)
    requests = parse_sync_requests(names, mirrors if names else settings.local_mirrors())
    require_public_store(settings.store_folder)
    private = _check_private_store(settings, requests, private_store)
    results: Iterable[Result]
    if dry_run:
        with _index_if_any(settings) as index:
            results = dry_results(requests, index, deep=deep, history=history, private=private)
            code = _report(settings, results, count_unchanged=False)
    else:
        options = {"deep": deep, "history": history, "jobs": jobs}
        store = settings.store(create=True)
        with _open_sync(settings, store, mirrors, private_store, **options) as run:
            results = with_progress_bar(run, run.results(requests))
            code = _report(settings, results, count_unchanged=True)
        if not quiet:
            _print_traffic(run)
    sys.exit(code)


def sync_dataset(settings: Settings, name: str, line: ProgressLine) -> list[Result]:
    """Mirror a dataset for another command; print the results and return them.

    With ``--json``, only failures are printed: the records are those of the other command.
    """
    from neuromirror.crawl import parse_sync_requests
    from neuromirror.store.private_store import require_public_store

    mirrors = settings.mirrors()
    requests = parse_sync_requests((name,), mirrors)
    require_public_store(settings.store_folder)
    private = path_from_environment(PRIVATE_STORE)
    _check_private_store(settings, requests, private)
    with line.paused():
        store = settings.store(create=True)
    results = []
    with _open_sync(settings, store, mirrors, private) as run:
        for result in run.results(requests):
            results.append(result)
            with line.paused():
                if result.exit_code:
                    settings.emit("sync", to_builtins(result), format_result(result))
                else:
                    settings.print_text(format_result(result))
    return results


def _check_private_store(
    settings: Settings, requests: Sequence[SyncRequest], folder: Path | None
) -> PrivateStore:
    """Return the private store, after checking that the requests can use it."""
    from neuromirror.crawl import PrivateStore
    from neuromirror.store import Store

    private = PrivateStore(folder, Store(settings.store_folder.absolute()))
    private.check_sources([request.mirror.open() for request in requests])
    return private


@contextmanager
def _open_sync(
    settings: Settings,
    store: Store,
    mirrors: Mapping[str, Mirror],
    private: Path | None,
    **options: Any,
) -> Iterator[Sync]:
    """Prepare a run over mirrors with the options of :class:`Sync`; a signal ends the process."""
    from neuromirror.crawl import Sync
    from neuromirror.crawl.recorder import open_lease_manager

    with open_lease_manager(store.schedule_path, "sync") as leases:
        run = Sync(
            store,
            settings.index_path(store),
            private=private,
            leases=leases,
            declared_mirrors=mirrors,
            **options,
        )
        with _exit_on_signal(run):
            yield run


def _dataset_name(settings: Settings, name: str, mirrors: Mapping[str, Mirror]) -> str:
    """Return the name of the dataset at an address; names of mirrors stay as they are."""
    mirror, colon, local_id = name.partition(":")
    if mirror in mirrors and (not local_id or "@" in local_id):
        return name
    try:
        return find_address(settings, name).dataset
    except UnknownAddressError as error:
        if colon or error.suggestions:
            raise
        return name


@contextmanager
def _index_if_any(settings: Settings) -> Iterator[Index | None]:
    """Open the index for a dry run; yields None before the first sync."""
    from neuromirror.lab.output_files import is_missing_or_empty
    from neuromirror.store import NotAStoreError

    try:
        store = settings.store()
    except NotAStoreError:
        folder = settings.store_folder
        if not is_missing_or_empty(folder):
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
    """Exit at once on Ctrl-C and SIGTERM, without waiting for visits, which may take minutes.

    The store stays consistent if a process dies, because its writes are ordered for that.
    """

    def stop(number: int, frame: object) -> None:
        # clear the progress bar from the current line
        start = "\r\x1b[K" if sys.stderr.isatty() else ""
        reason = "interrupted" if number == signal.SIGINT else "terminated"
        left = _remaining_text(run.active_datasets, max(0, run.total - run.finished))
        line = f"neuromirror: {reason}{left}; the store is intact, run the sync again to continue"
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
    """Format ``; in progress: demo:1, demo:2; not visited: 5 datasets``; empty if none remain."""
    parts = []
    if visiting:
        more = f" and {len(visiting) - _MAX_SHOWN} more" if len(visiting) > _MAX_SHOWN else ""
        parts.append(f"; in progress: {', '.join(visiting[:_MAX_SHOWN])}{more}")
    if unfinished > len(visiting):
        parts.append(f"; not visited: {unfinished - len(visiting)} datasets")
    return "".join(parts)


def _report(settings: Settings, results: Iterable[Result], *, count_unchanged: bool) -> int:
    """Print the results, and the number of unchanged datasets; return the exit code."""
    code, any_result = 0, False
    unchanged: list[str] = []
    for result in results:
        any_result = True
        code = worst_exit_code(code, result.exit_code)
        line: str | None = format_result(result)
        if count_unchanged and (result.status, result.message) == ("notneeded", "unchanged"):
            unchanged.append(result.dataset)
            line = None
        settings.emit("sync", to_builtins(result), line)
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
    """Format the result of a visit as one line."""
    # many messages start with the name of the dataset
    message = result.message.removeprefix(f"{result.dataset}: ")
    estimate = "" if result.estimate is None else f"; {_estimate_text(result.estimate)}"
    return f"{result.status:<10} {result.dataset}  {message}{estimate}"


def _estimate_text(estimate: Estimate) -> str:
    """Format ``1,218 files, 252.0 GB; 252.0 GB to be read once, in 1,218 requests``."""
    size = f"{estimate.files:,} files, {format_bytes(estimate.bytes)}"
    if not estimate.fetched:
        return f"{size}; no content to be read"
    read = f"{format_bytes(estimate.fetched)} to be read once, in {estimate.requests:,} requests"
    return f"{size}; {read}"


def worst_exit_code(one: int, other: int) -> int:
    """Return the worse of two exit codes: 1 (failed) before 3 (held) before 0."""
    ranks = {0: 0, 3: 1, 1: 2}
    return max(one, other, key=lambda code: ranks[code])
