"""Commands that run for long: serve, catalogue and publish."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec import to_builtins

from neuromirror.cli import commands as cli
from neuromirror.cli.common import PRIVATE_STORE, Settings, path_from_environment
from neuromirror.cli.sync import format_result, worst_exit_code
from neuromirror.cli.vault import load_configured_vaults, vaults_option
from neuromirror.model.errors import ConfigurationError

if TYPE_CHECKING:
    from neuromirror.config.sibling_files import Sibling
    from neuromirror.crawl import Result
    from neuromirror.service.engine import MirrorFiles
    from neuromirror.service.serve import ServeOptions
    from neuromirror.store import Store
    from neuromirror.web.gateway.modes import GatewayModes

_LOCAL_SIBLINGS = Path("siblings")


@cli.command(
    "publish",
    example="""\
neuromirror publish dandi:000027 --to lab-forge --dry-run
neuromirror publish dandi --to lab-forge
neuromirror publish --to lab-forge""",
)
@cli.many(
    "names",
    "[MIRROR | DATASET]...",
    "Datasets (dandi:000027), or mirrors (dandi) for all their datasets and their "
    "superdataset [default: 'datasets' in the sibling file].",
)
@cli.option("--to sibling_name SIBLING", "Name of a sibling file.", required=True)
@cli.path_option(
    "--siblings DIR",
    "Folder with sibling files (NAME.toml) [default: $NEUROMIRROR_SIBLINGS, else ./siblings].",
)
@cli.flag("--check", "Push unchanged datasets too.")
@cli.flag("--dry-run", "Print what would be pushed, and change nothing.")
@cli.option(
    "--forget forgotten DATASET", "Push nothing; forget a dataset that you deleted at the sibling."
)
@cli.settings_options
def publish_command(
    settings: Settings,
    names: tuple[str, ...],
    *,
    sibling_name: str,
    siblings: Path | None,
    check: bool,
    dry_run: bool,
    forgotten: str | None,
) -> None:
    """Push datasets to a forge (GitHub, GitLab, Gitea, Forgejo, GIN) or a git server.

    Missing repositories are created, with description, topics and homepage. A repository has no
    content of files. No ref is forced. Private datasets are never pushed.

    \b
    A sibling file, siblings/lab-forge.toml:
      type = "gitea"
      api = "https://forge.example.org"
      owner = "lab"
      credential = "lab-forge"      # of "datalad credentials"
      datasets = ["dandi:*"]        # the service keeps them published
    """
    from neuromirror.crawl.recorder import PUBLISH
    from neuromirror.publish import forget, publish, record_outcome, sibling_datasets

    sibling = find_sibling(siblings, sibling_name)
    store = settings.store()
    if forgotten is not None:
        found = forget(store, sibling, forgotten)
        with settings.failure_log(store) as log:
            if log is not None:
                log.record_success(f"{PUBLISH} {sibling.name}", forgotten)
        status = "ok" if found else "notneeded"
        message = "forgotten" if found else f"it was not published to {sibling.name}"
        line = f"{status:<10} {forgotten}  {message}"
        settings.emit("publish", {"status": status, "dataset": forgotten, "message": message}, line)
        return
    unchanged, code = 0, 0
    with settings.failure_log(store) as log, settings.index() as index:
        selected = names or tuple(sibling_datasets(index, sibling.settings.datasets))
        if not selected:
            raise ConfigurationError(
                f"nothing to publish: name datasets or mirrors, or write patterns such as dandi:* "
                f"to 'datasets' in the file of sibling {sibling.name}"
            )
        for outcome in publish(store, index, selected, sibling, check=check, dry_run=dry_run):
            code = max(code, int(outcome.failed))
            if log is not None and not dry_run:
                record_outcome(log, sibling, outcome)
            where = (outcome.page or outcome.target or "") if outcome.status == "ok" else ""
            line = f"{outcome.status:<10} {outcome.path}  {outcome.message}  {where}".rstrip()
            is_unchanged = outcome.status == "notneeded"
            unchanged += is_unchanged
            settings.emit("publish", outcome.to_json(), None if is_unchanged else line)
    if unchanged:
        settings.print_text(f"notneeded  {unchanged} datasets are unchanged")
    sys.exit(code)


def siblings_folder(given: Path | None) -> Path:
    """Return the folder of sibling files; it need not exist.

    Raises
    ------
    ConfigurationError
        The user named no folder, and ./siblings would send a credential to a server of its choice.
    """
    from neuromirror.config.sibling_files import refuse_unbound_credentials

    named = given or path_from_environment("NEUROMIRROR_SIBLINGS")
    if named is not None:
        return named
    refuse_unbound_credentials(_LOCAL_SIBLINGS)
    return _LOCAL_SIBLINGS


def find_sibling(given: Path | None, name: str) -> Sibling:
    """Return a sibling by name.

    Raises
    ------
    ConfigurationError
        There is no such sibling file, or it is invalid.
    """
    from difflib import get_close_matches

    from neuromirror.config.sibling_files import load_sibling

    folder = siblings_folder(given)
    path = folder / f"{name}.toml"
    if "/" in name or not path.exists():
        known = sorted(one.stem for one in folder.glob("*.toml"))
        near = get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"existing: {', '.join(known) or 'none'}"
        raise ConfigurationError(
            f"{path}: no such sibling file ({hint}); 'neuromirror publish --help' shows an example"
        )
    return load_sibling(path)


_MIN_WORKER_MEMORY = 256 << 20
"""Bytes that a worker needs to start."""


def _parse_memory(context: click.Context, option: click.Parameter, value: str) -> int:
    """Parse the memory of a worker."""
    from neuromirror.cache import parse_size

    try:
        size = parse_size(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if size < _MIN_WORKER_MEMORY:
        raise click.BadParameter(f"{value} is too little; a worker needs at least 256MiB")
    return size


@cli.command(
    "serve",
    example="""\
neuromirror serve --metrics 127.0.0.1:9100 --catalogue 127.0.0.1:8270
neuromirror serve --once""",
)
@cli.many(
    "names",
    "[MIRROR]...",
    "Mirrors, e.g. dandi [default: the mirrors in --mirrors, including files added later; "
    "built-in mirrors only if named].",
)
@cli.option(
    "--workers N", "Number of datasets updated in parallel.", type=click.IntRange(1, 256), default=4
)
@cli.choice_option(
    "--executor",
    ["processes", "threads"],
    "Run jobs in processes or in threads of this machine; ignored with --scheduler.",
    default="processes",
)
@cli.option(
    "--scheduler ADDRESS",
    "Run jobs on the workers of this Dask scheduler, instead of this machine.",
)
@cli.option(
    "--visit-hours HOURS",
    "Stop an update of one dataset after this time; it runs again later. Not with --executor "
    "threads.",
    type=click.FloatRange(0, min_open=True),
    default=24.0,
)
@cli.option(
    "--worker-memory SIZE",
    "Stop a worker that uses more memory; its update runs again later. Not with --executor "
    "threads.",
    callback=_parse_memory,
    default="4GiB",
)
@cli.option(
    "--metrics HOST:PORT", "Serve /healthz, /readyz and /metrics at this address [default: off]."
)
@cli.option(
    "--catalogue HOST:PORT",
    'Run "neuromirror catalogue" at this address, with the settings in its variables '
    "$NEUROMIRROR_CATALOGUE_… [default: off].",
)
@cli.flag("--log-json", "Write the log as one JSON object per line.")
@cli.path_option(
    "--private-store DIR", "Store for embargoed datasets [default: $NEUROMIRROR_PRIVATE_STORE]."
)
@cli.path_option(
    "--backup DIR",
    "Back up index, schedule and ledger to DIR every day [default: $NEUROMIRROR_BACKUP, else off].",
)
@cli.path_option(
    "--siblings DIR",
    "Folder with sibling files; those with 'datasets' are kept up to date "
    "[default: $NEUROMIRROR_SIBLINGS, else ./siblings].",
)
@vaults_option
@cli.flag("--once", "Run the jobs that are due now, then exit.")
@cli.settings_options
def serve_command(
    settings: Settings,
    names: tuple[str, ...],
    *,
    workers: int,
    executor: str,
    scheduler: str | None,
    visit_hours: float,
    worker_memory: int,
    metrics: str | None,
    catalogue: str | None,
    log_json: bool,
    private_store: Path | None,
    backup: Path | None,
    siblings: Path | None,
    vaults: Path | None,
    once: bool,
) -> None:
    """Run the service that keeps mirrors up to date.

    The [schedule] of the mirror files sets the intervals; changed files are reloaded. On SIGTERM or
    Ctrl-C running jobs have 20 seconds to finish; a second signal exits at once. --once is for
    cron, with the exit codes of "neuromirror sync".
    """
    from neuromirror.service.servers import CATALOGUE, SERVICE, require_packages

    require_packages(*SERVICE)
    if catalogue is not None:
        require_packages(*CATALOGUE)
    from neuromirror.config.vault_files import load_keeps
    from neuromirror.service.housekeeping import HousekeepingSettings
    from neuromirror.service.serve import ServeOptions, open_mirror_files, serve
    from neuromirror.service.servers import parse_listen_address
    from neuromirror.store import Store
    from neuromirror.store.private_store import require_public_store

    private_store = private_store or path_from_environment(PRIVATE_STORE)
    backup = backup or path_from_environment("NEUROMIRROR_BACKUP")
    for name in names:
        mirror, is_dataset, _ = name.partition(":")
        if is_dataset:
            raise ConfigurationError(
                f"'{name}' is a dataset, but the service updates whole mirrors only; write "
                f"{mirror}, or run 'neuromirror sync {name}'"
            )
    if catalogue is not None and once:
        raise ConfigurationError(
            "--catalogue and --once cannot be used together; run 'neuromirror catalogue' as a "
            "separate process"
        )
    if catalogue is not None:  # a wrong variable is an error at the start
        catalogue_command.make_context("catalogue", ["--listen", catalogue])
    folder = settings.store_folder.absolute()
    require_public_store(folder)
    configured = load_configured_vaults(vaults)
    load_keeps(configured.folder, configured.vaults)  # a wrong file is an error at the start
    options = ServeOptions(
        workers=workers,
        executor=executor,
        scheduler=scheduler,
        visit_seconds=visit_hours * 3600,
        worker_memory=worker_memory,
        private=None if private_store is None else private_store.absolute(),
        metrics=None if metrics is None else parse_listen_address(metrics),
        catalogue=None if catalogue is None else parse_listen_address(catalogue),
        log_json=log_json,
        housekeeping=HousekeepingSettings(
            backup_folder=None if backup is None else backup.absolute(),
            siblings_folder=siblings_folder(siblings).absolute(),
            vaults_folder=configured.folder.absolute() if configured.vaults else None,
        ),
    )
    files = open_mirror_files(settings.mirrors_folder, names, Store(folder), options.private)
    store = Store.open(folder, create=True)
    index_path = settings.index_path(store).absolute()
    if not once:
        serve(store, index_path, files, options)
        return
    sys.exit(_serve_once(settings, store, index_path, files, options))


def _serve_once(
    settings: Settings, store: Store, index_path: Path, files: MirrorFiles, options: ServeOptions
) -> int:
    """Run the jobs that are due, print their results and return the exit code."""
    from neuromirror.service.serve import serve_once

    code, has_results = 0, False

    def on_result(result: Result) -> None:
        nonlocal code, has_results
        code, has_results = worst_exit_code(code, result.exit_code), True
        if (result.status, result.message) != ("notneeded", "unchanged"):
            settings.emit("serve", to_builtins(result), format_result(result))

    exit_code = serve_once(store, index_path, files, options, on_result)
    if not has_results:
        settings.print_text("notneeded  nothing is due")
    return exit_code if exit_code > 1 else worst_exit_code(code, exit_code)


_LISTEN = "127.0.0.1:8270"
_WHOLE_LIFE = ExitStack()
"""What lasts as long as the process."""


class _Words(click.types.StringParamType):
    """A text, several of which are in a variable, separated by spaces or commas."""

    def split_envvar_value(self, rv: str) -> Sequence[str]:
        return rv.replace(",", " ").split()


def _setting(name: str, parse: str = "", **attributes: Any) -> dict[str, Any]:
    """Return the attributes of an option with a variable.

    ``parse`` is the function that parses the value, which is imported when it is called.
    """
    module, _, function = parse.rpartition(".")
    if parse:
        attributes["callback"] = lambda _, __, value: getattr(import_module(module), function)(
            value
        )
    return {"envvar": f"NEUROMIRROR_CATALOGUE_{name}", **attributes}


@cli.command(
    "catalogue",
    example="""\
neuromirror catalogue
neuromirror catalogue --listen 127.0.0.1:8270 --trusted-proxy 127.0.0.1 \\
    --address https://data.example.org""",
)
@cli.option(
    "--listen HOST:PORT", "Address to listen on; port 0 selects a free port.", default=_LISTEN
)
@cli.option(
    "--address URL",
    "Public URL behind a reverse proxy [default: $NEUROMIRROR_CATALOGUE_ADDRESS, else taken from "
    "each request].",
    **_setting("ADDRESS", "neuromirror.service.servers.parse_site_url", default=""),
)
@cli.option(
    "--title TEXT",
    "Title of the site [default: $NEUROMIRROR_CATALOGUE_TITLE, else neuromirror].",
    **_setting("TITLE", default=""),
)
@click.option(
    "--cutouts/--no-cutouts",
    default=True,
    envvar="NEUROMIRROR_CATALOGUE_CUTOUTS",
    help="Show previews of files and let visitors download regions and blocks of volumes, all read "
    "from the archives, with limits [default: $NEUROMIRROR_CATALOGUE_CUTOUTS (1 or 0), else "
    "--cutouts].",
)
@cli.repeatable(
    "--limit limits KIND=NUMBER",
    "Requests per minute and client, for cutout, diff, gateway, preview or search, and "
    "megabytes for gateway-mb; 0 is unlimited [default: $NEUROMIRROR_CATALOGUE_LIMITS, else "
    "cutout=60, diff=30, gateway=6000, preview=120, search=120, gateway-mb=6000].",
    type=_Words(),
    **_setting("LIMITS", "neuromirror.web.rate_limits.parse_limits"),
)
@cli.repeatable(
    "--gateway gateways [MIRROR=]MODE",
    "How the gateway (addresses below /at/) delivers files, for all mirrors or for one: "
    "redirect (to the archive, not verified), proxy (through this catalogue, verified) or off "
    "[default: $NEUROMIRROR_CATALOGUE_GATEWAY, else redirect].",
    type=_Words(),
    **_setting("GATEWAY", "neuromirror.web.gateway.modes.parse_modes"),
)
@cli.repeatable(
    "--trusted-proxy proxies ADDRESS",
    "Address or network of a proxy whose X-Forwarded-For header is trusted [default: "
    "$NEUROMIRROR_CATALOGUE_TRUSTED_PROXIES, else none].",
    type=_Words(),
    **_setting("TRUSTED_PROXIES", "neuromirror.web.rate_limits.parse_proxies"),
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    envvar="NEUROMIRROR_CATALOGUE_WORKERS",
    metavar="NUMBER",
    help="Processes that serve. Limits per minute apply to all of them together [default: "
    "$NEUROMIRROR_CATALOGUE_WORKERS, else one for each processor, at most 4].",
)
@cli.flag("--log-json", "Write the log as one JSON object per line.")
@click.option("--listener", type=int, hidden=True)
@click.option("--service", type=int, hidden=True)
@cli.settings_options
def catalogue_command(
    settings: Settings,
    *,
    listen: str,
    address: str,
    title: str,
    cutouts: bool,
    limits: Mapping[str, int],
    gateways: GatewayModes,
    proxies: Sequence[str],
    workers: int | None,
    log_json: bool,
    listener: int | None,
    service: int | None,
) -> None:
    """Serve web pages, an API and the repositories for "datalad clone" over HTTP.

    One address serves the pages, the JSON API below /api/v1, Atom feeds, and the repositories of
    the store: datalad clone 'ria+http://HOST:PORT/#~dandi--000027'. Access is read-only. On the
    open internet, run it behind a web server with TLS. Requires the extra "web".
    """
    from neuromirror.service.logs import logging_to
    from neuromirror.service.servers import (
        CATALOGUE,
        CatalogueStatusFile,
        bound_address,
        format_address,
        open_listener,
        parse_listen_address,
        require_packages,
    )

    require_packages(*CATALOGUE)
    from neuromirror.config.mirror_files import mirror_titles

    with ExitStack() as stack:
        stack.enter_context(logging_to(as_json=log_json, mirrors={}))
        # "neuromirror serve" passes its listening socket and its process id
        listens = (
            open_listener(parse_listen_address(listen), "the catalogue")
            if listener is None
            else socket.socket(fileno=listener)
        )
        from neuromirror.web.serve import default_workers, serve_catalogue
        from neuromirror.web.site import SiteSettings

        url = f"http://{format_address(bound_address(listens))}"
        store = settings.store()
        status = CatalogueStatusFile(store, url, gateways.by_name)

        def ready() -> None:
            status.update({})
            if service is None:  # else the service names its address
                line = f"the catalogue is at {url} (press Ctrl-C to stop)"
                settings.emit("catalogue", {"url": url}, line)

        def beat(counts: Mapping[str, int]) -> None:
            status.update(counts)
            if service not in (None, os.getppid()):
                os.kill(os.getpid(), signal.SIGTERM)  # the service is gone

        serve_catalogue(
            store,
            settings.index_path(store),
            listens,
            SiteSettings(
                title=title or "neuromirror",
                address=address,
                cutouts=cutouts,
                archives=mirror_titles(settings.mirrors_folder),
                modes=gateways,
            ),
            per_minute=limits,
            proxies=proxies,
            workers=workers or default_workers(),
            start_worker=partial(_start_logging, as_json=log_json),
            on_ready=ready,
            heartbeat=beat,
            on_stop=status.remove,
        )


def _start_logging(*, as_json: bool) -> None:
    """Log for the whole life of a process that uvicorn started."""
    from neuromirror.service.logs import logging_to

    _WHOLE_LIFE.enter_context(logging_to(as_json=as_json, mirrors={}))
