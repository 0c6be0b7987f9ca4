"""Commands that mirror: mirrors, check-config, demo, sync and status."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec import to_builtins
from msgspec.structs import asdict

from neuromirror.cli import commands as cli
from neuromirror.cli.addresses import find_address
from neuromirror.cli.common import (
    PRIVATE_STORE,
    Settings,
    format_traffic,
    path_from_environment,
    printable,
)
from neuromirror.model.errors import ConfigurationError, UnknownAddressError, count_of, format_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from neuromirror.cli.common import ProgressLine
    from neuromirror.config.mirror_files import Mirror
    from neuromirror.crawl import PrivateStore, Result, Sync
    from neuromirror.crawl.plan import SyncRequest
    from neuromirror.index import FailureRow, Index, MirrorStatus
    from neuromirror.service.custody_tasks import CustodyStatus
    from neuromirror.service.servers import CatalogueStatus
    from neuromirror.service.store_status import ScheduleSummary, ServiceStatus
    from neuromirror.sources import Estimate
    from neuromirror.store import Store

_SCHEMA_LINE = "#:schema "
"""The first line of a mirror file in the repository; its relative path is valid only there."""


@cli.command(
    "mirrors",
    example="""\
neuromirror mirrors
mkdir -p mirrors; neuromirror mirrors show dandi > mirrors/lab.toml""",
)
@cli.argument(
    "action",
    type=click.Choice(["list", "show"]),
    metavar="[list|show]",
    default="list",
    help="list: one line per mirror (default); show: print the mirror file of NAME, as a template. "
    "A file mirrors/NAME.toml defines the mirror NAME.",
)
@cli.argument("name", required=False, metavar="[NAME]", help="The mirror to show, e.g. dandi.")
@cli.settings_options
def mirrors_command(settings: Settings, action: str, name: str | None) -> None:
    """List the mirrors that can be used, or print a mirror file.

    A file in ./mirrors (or --mirrors) with the name of a built-in mirror overrides it. NEEDS lists
    requirements beyond a base installation. In a folder with ./mirrors, the default store is
    ./store.
    """
    from neuromirror.config.mirror_files import known_mirror_files

    if (action == "show") != (name is not None):
        raise ConfigurationError(
            "specify the mirror to show: neuromirror mirrors show NAME"
            if name is None
            else f"'{name}': 'list' takes no name; write: neuromirror mirrors show {name}"
        )
    found = known_mirror_files(settings.mirrors_folder, required=settings.given_mirrors is not None)
    if name is not None:
        _show(settings, found, name)
    else:
        sys.exit(_list(settings, found))


def _list(settings: Settings, found: dict[str, Path]) -> int:
    """Print one line per mirror; return the exit code."""
    from neuromirror.config.mirror_files import builtin_mirror_files, load_mirror

    builtin = builtin_mirror_files()
    code, rows = 0, []
    for name, path in found.items():
        is_builtin = builtin.get(name) == path
        overrides = name in builtin and not is_builtin
        record = {"mirror": name, "path": str(path), "builtin": is_builtin, "overrides": overrides}
        try:
            mirror = load_mirror(path)
            needs = mirror.options().requirements()
        except ConfigurationError as error:
            code = 2
            record |= {"status": "error", "message": str(error)}
            settings.emit("mirrors", record, f"error  {error}")
            continue
        title, source = mirror.settings.title or name, mirror.settings.source
        settings.emit("mirrors", {**record, "title": title, "source": source, "needs": list(needs)})
        file = "built-in" if is_builtin else str(path) + " (overrides the built-in one)" * overrides
        rows.append([name, title, file, ", ".join(needs) or "-"])
    settings.print_table(rows, ["MIRROR", "TITLE", "FILE", "NEEDS"])
    return code


def _show(settings: Settings, found: dict[str, Path], name: str) -> None:
    from neuromirror.config.mirror_files import find_mirror, is_builtin

    path = find_mirror(found, name)
    lines = path.read_text("utf-8", "backslashreplace").splitlines()
    if is_builtin(path):
        lines = [line for line in lines if not line.startswith(_SCHEMA_LINE)]
    settings.emit("mirrors", {"mirror": name, "path": str(path), "text": "\n".join(lines) + "\n"})
    for line in lines:
        settings.print_text(line)


@cli.command("check-config", example="neuromirror check-config --mirrors mirrors")
@cli.settings_options
def check_config_command(settings: Settings) -> None:
    """Check the configuration files of mirrors; send no request.

    If there is neither --mirrors nor ./mirrors, the built-in files are checked.
    """
    from neuromirror.config.mirror_files import builtin_mirror_files, list_mirror_files, load_mirror

    code = 0
    folder = settings.mirrors_folder
    has_own = settings.given_mirrors is not None or folder.exists()
    for path in list_mirror_files(folder) if has_own else builtin_mirror_files().values():
        try:
            mirror = load_mirror(path)
            source = mirror.open()
        except ConfigurationError as error:
            code = 2
            record = {"path": str(path), "status": "error", "message": str(error)}
            settings.emit("check-config", record, f"error  {error}")
            continue
        kind = mirror.settings.source
        record = {"path": str(path), "mirror": mirror.name, "source": kind, "uri": source.uri}
        line = f"ok     {mirror.name}: archive of type {kind} at {source.uri}"
        settings.emit("check-config", record, line)
    sys.exit(code)


@cli.command(
    "demo",
    example="""\
neuromirror demo
neuromirror demo --serve --keep demo""",
)
@cli.flag("--serve", "Mirror volumes too, then serve the archives, the store and the catalogue.")
@click.option(
    "--keep",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Keep all files in DIR [default: delete them at the end].",
)
@cli.flag("--no-input", "Run all steps without waiting for a key.")
@cli.settings_options
def demo_command(settings: Settings, *, serve: bool, keep: Path | None, no_input: bool) -> None:
    """Mirror a simulated archive on this machine, step by step.

    Every step, from sync to citation, is printed as the command to type and its output. Requires
    the extra "demo", and for the catalogue "web".
    """
    from neuromirror_demo.walkthrough import run_walkthrough

    sys.exit(run_walkthrough(keep=keep, serve=serve, ask=not no_input, as_json=settings.json))


_MAX_SHOWN = 20
"""Maximum number of datasets in progress that are listed when a sync is interrupted."""


@cli.command(
    "sync",
    example="""\
neuromirror sync dandi:000027
neuromirror sync dandi --dry-run""",
)
@cli.many(
    "names",
    "[MIRROR | DATASET]...",
    "Mirrors (dandi) or datasets (dandi:000027) [default: the mirrors in --mirrors; built-in "
    "mirrors only if named].",
)
@cli.flag("--dry-run", "Print which datasets would be updated, and write nothing.")
@cli.flag(
    "--deep", "Request the list of files of every dataset, even if the archive reports no change."
)
@cli.flag("--history", "Mirror earlier versions too, if the archive keeps them.")
@cli.jobs_option("Number of datasets updated in parallel.", default=16)
@cli.path_option(
    "--private-store DIR",
    "Store for embargoed datasets, which are skipped unless the mirror file has embargoed = "
    '"private" [default: $NEUROMIRROR_PRIVATE_STORE].',
)
@cli.flag("--quiet", "Do not print the summary of HTTP requests.")
@cli.settings_options
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
    from neuromirror.cli.common import with_progress_bar
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
            for mirror, hosts in run.traffic().items():
                if hosts:
                    text = f"neuromirror: {mirror}: {format_traffic(hosts)}"
                    click.echo(printable(text), err=True)
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
    from neuromirror.crawl.recorder import open_leases

    with open_leases(store.schedule_path, "sync") as leases:
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


_MAX_TASKS_SHOWN = 5
"""Maximum number of names per line."""


@cli.command("status", example="neuromirror status")
@cli.settings_options
def status_command(settings: Settings) -> None:
    """Show the status of each mirror.

    For each mirror: datasets and files, the times of the last listing and visit, failures that are
    not resolved, held updates, incidents, withdrawn datasets, broken URLs, and the jobs of a
    running service; with vaults, the copies, what is not kept, and the last drills; the running
    catalogues.

    Exit code: 0 no problem, 1 something fails, 3 an update is held.
    """
    from neuromirror.service.custody_tasks import CustodyStatus
    from neuromirror.service.integrity import IntegrityState
    from neuromirror.service.servers import catalogue_statuses
    from neuromirror.service.store_status import service_status, unwritable_paths

    store = settings.store()
    code = 0
    shown: set[str] = set()
    service = service_status(store)
    with settings.index() as index:
        failures = index.crawl.failures()
        ailing = index.locations.failing()
        for one in index.crawl.mirrors():
            checked = store.last_listed(one.mirror)
            when = "never" if checked is None else checked.isoformat(timespec="seconds")
            location_health = ailing.get(one.mirror, {})
            withdrawn = [
                stone.dataset for stone in index.datasets.tombstones(one.mirror) if not stone.within
            ]
            schedule = None if service is None else service.mirrors.get(one.mirror)
            # listed datasets without a visit: a first sync was interrupted
            visits = index.crawl.last_visits(one.mirror).values()
            visited = sum(visit.status not in ("not_found", "unavailable") for visit in visits)
            unvisited = max(0, store.listed_datasets(one.mirror) - visited)
            record = {
                **to_builtins(one),
                "last_checked": when,
                "location_health": location_health,
                "taken_down": withdrawn,
                "unvisited": unvisited,
                "schedule": None if schedule is None else to_builtins(schedule),
            }
            settings.emit("status", record)
            code = code or (3 if one.open_holds else 0)
            shown.add(one.mirror)
            if settings.json:
                continue
            own = [row for row in failures if row.mirror == one.mirror]
            removed = (
                [row.name for row in index.datasets.select(one.mirror) if row.is_removed_upstream]
                if one.removed_upstream
                else []
            )
            for line in _mirror_lines(
                one, when, own, removed, withdrawn, unvisited, location_health, schedule
            ):
                settings.print_text(line)
    if not shown:
        settings.print_text("the store has no mirrors yet; run 'neuromirror sync'")
    for failure in failures:
        code = 1
        record = {**to_builtins(failure), "status": "error"}
        shown_text = None if failure.mirror in shown else f"failed  {_failure_text(failure)}"
        settings.emit("status", record, shown_text)
    custody, catalogues = CustodyStatus.load(store), catalogue_statuses(store)
    services: list[ServiceStatus] = [] if service is None else [service]
    for record, text in (
        *map(_service_line, services),
        *_custody_lines(custody),
        *map(_catalogue_line, catalogues),
    ):
        settings.emit("status", record, text)
    problems = [*custody.problems()]
    for program in services:
        problems += program.problems()
    for catalogue in catalogues:
        problems += catalogue.problems()
    for message in problems:
        code = 1
        settings.emit("status", {"status": "error", "message": message}, f"failed  {message}")
    for message in (*IntegrityState.load(store).messages, *unwritable_paths(store)):
        code = 1
        record = {"status": "error", "path": str(store.root), "message": message}
        settings.emit("status", record, f"damaged {message}")
    sys.exit(code)


def _service_line(service: ServiceStatus) -> tuple[dict[str, object], str]:
    """Return a record and a line about the service of the store."""
    from neuromirror.service.store_status import format_age

    text = "service  running" if service.is_running else "service  not running"
    text += f", last active {service.last_active or 'never'}{format_age(service.last_active)}"
    if (checked := service.checks.get("integrity")) is not None:
        text += f"; store last checked {checked}{format_age(checked)}"
    for name, since in service.postponed.items():
        text += f"; superdataset {name} postponed since {since}, until failed datasets are visited"
    record = to_builtins(service)
    return {
        "kind": "service",
        "status": "ok",
        **{k: record[k] for k in record if k != "mirrors"},
    }, text


def _custody_lines(custody: CustodyStatus) -> Iterator[tuple[dict[str, object], str]]:
    """Yield a record and a line per [[keep]], vault and drill."""
    for keep in custody.keeps:
        text = f"keep {keep.locks} in {keep.vault}  {count_of(keep.lock_files, 'lock file')}, "
        text += f"{count_of(keep.contents, 'content')}, {format_bytes(keep.bytes)}"
        if keep.lacking:
            text += f"; {keep.lacking} not in the vault yet ({format_bytes(keep.lacking_bytes)})"
        status = "error" if keep.problems else "ok"
        yield {"kind": "keep", "status": status, **asdict(keep)}, text
    for vault in custody.vaults:
        text = f"vault {vault.name}  {vault.copies} copies, {format_bytes(vault.bytes)}"
        if vault.oldest_check is not None and vault.oldest_read is not None:
            text += f"; all checked since {_moment(vault.oldest_check)}"
            text += (
                f", all read since {_moment(vault.oldest_read) if vault.oldest_read else 'never'}"
            )
        if vault.damaged or vault.missing:
            text += f"; {vault.damaged} damaged, {vault.missing} missing"
        yield (
            {**to_builtins(vault), "kind": "vault", "vault_kind": vault.kind, "status": "ok"},
            text,
        )
    for path, drill in custody.drills.items():
        text = f"drill {path}  {_moment(drill.at)}: {drill.message}"
        status = "ok" if drill.ok else "error"
        yield {"kind": "drill", "lock": path, "status": status, **asdict(drill)}, text


def _catalogue_line(one: CatalogueStatus) -> tuple[dict[str, object], str]:
    """Return a record and a line about a running catalogue."""
    modes = [f"{mirror} {mode}".lstrip() for mirror, mode in one.gateway.items()]
    text = f"catalogue {one.name}  gateway {', '.join(modes)}"
    failures = [f"{count} {reason}" for reason, count in one.gateway_failures.items()]
    if failures:
        text += f"; failed responses of the gateway: {', '.join(failures)}"
    record = {
        **{"kind": "catalogue", "url": one.url, "host": one.host, "status": "ok"},
        **{"gateway": one.gateway, "counts": one.counts, "saved_at": one.saved_at},
    }
    return record, text


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _mirror_lines(
    one: MirrorStatus,
    when: str,
    own: list[FailureRow],
    removed: list[str],
    withdrawn: list[str],
    unvisited: int,
    location_health: dict[str, int],
    schedule: ScheduleSummary | None,
) -> Iterator[str]:
    """Yield the lines about a mirror; ``own`` are the failures of the mirror."""
    from neuromirror.service.store_status import format_age

    failing = [row.dataset for row in own if row.task == "visit" and row.dataset]
    subdatasets = f" and {one.subdatasets} subdatasets" if one.subdatasets else ""
    failed = [*map(_failure_text, own[:_MAX_TASKS_SHOWN])]
    if len(own) > _MAX_TASKS_SHOWN:
        failed.append(f"... {len(own) - _MAX_TASKS_SHOWN} more (--json lists all)")
    unreadable = count_of(one.unreadable_sidecars, "dataset")
    health = ", ".join(f"{count} {name}" for name, count in location_health.items())
    yield f"{one.mirror}  {one.uri}"
    for head, text in [
        ("datasets", f"{one.datasets - one.subdatasets}{subdatasets}, {one.versions} versions"),
        *[("missing", f"{count_of(unvisited, 'listed dataset')} never visited yet")]
        * bool(unvisited),
        ("content", f"{one.files} files in latest versions, {format_bytes(one.bytes)}"),
        ("last listing", when + format_age(when)),
        ("last visit", (one.last_visit or "never") + format_age(one.last_visit)),
        ("last full", (one.last_full_visit or "never") + format_age(one.last_full_visit)),
        ("failing", f"{one.failing}" + (f" ({_first_names(failing)})" * bool(failing))),
        *[("failed", line) for line in failed],
        *[("removed", f"{len(removed)} upstream, kept in the store ({_first_names(removed)})")]
        * bool(removed),
        *[("settling", f"{one.settling} (still changing upstream)")] * bool(one.settling),
        *[("sidecars", f"unreadable in {unreadable} (neuromirror events)")]
        * bool(one.unreadable_sidecars),
        ("held", f"{one.open_holds}" + (" (neuromirror holds)" * bool(one.open_holds))),
        ("incidents", f"{one.incidents}" + (" (neuromirror events)" * bool(one.incidents))),
        *[("taken down", f"{len(withdrawn)} ({_first_names(withdrawn)})")] * bool(withdrawn),
        *[("locations", f"{health} (neuromirror audit, neuromirror show)")] * bool(health),
        *([] if schedule is None else [("service", _schedule_text(schedule))]),
    ]:
        yield f"  {head:<12} {text}"
    for number, (name, value) in enumerate(one.capabilities.items()):
        yield f"  {'' if number else 'upstream':<12} {name}: {value}"


def _failure_text(failure: FailureRow) -> str:
    name = failure.dataset or failure.mirror
    message = failure.message.removeprefix(f"{name}: ")
    return f"{failure.task} {name}".rstrip() + f": {message} (since {failure.since})"


def _schedule_text(schedule: ScheduleSummary) -> str:
    parts = [f"{schedule.tasks} tasks", f"{schedule.due} due"]
    if schedule.next_due is not None:
        parts.append(f"next {schedule.next_due}")
    if schedule.in_progress:
        parts.append(f"in progress: {_first_names(schedule.in_progress)}")
    if schedule.disabled:
        parts.append(f"disabled after repeated failures: {_first_names(schedule.disabled)}")
    return ", ".join(parts)


def _first_names(names: list[str]) -> str:
    return ", ".join(names[:_MAX_TASKS_SHOWN]) + (
        f", … {len(names) - _MAX_TASKS_SHOWN} more" * (len(names) > _MAX_TASKS_SHOWN)
    )
