"""``neuromirror serve``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec import to_builtins

from neuromirror.cli.commands import argument, command
from neuromirror.cli.common import (
    PRIVATE_STORE,
    NamedPath,
    Settings,
    path_from_environment,
    settings_options,
)
from neuromirror.cli.publish import siblings_folder
from neuromirror.cli.sync import format_result, worst_exit_code
from neuromirror.cli.vault import load_configured_vaults, vaults_option
from neuromirror.model.errors import ConfigurationError

if TYPE_CHECKING:
    from neuromirror.crawl import Result
    from neuromirror.service.catalogue_process import CatalogueOptions
    from neuromirror.service.engine import MirrorFiles
    from neuromirror.service.serve import ServeOptions
    from neuromirror.store import Store

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


@command(
    "serve",
    example="""\
neuromirror serve --metrics 127.0.0.1:9100 --catalogue 127.0.0.1:8270
neuromirror serve --once""",
)
@argument(
    "names",
    nargs=-1,
    metavar="[MIRROR]...",
    help="Mirrors, e.g. dandi [default: the mirrors in --mirrors, including files added later; "
    "built-in mirrors only if named].",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=4,
    show_default=True,
    metavar="N",
    help="Number of datasets updated in parallel.",
)
@click.option(
    "--executor",
    type=click.Choice(["processes", "threads"]),
    default="processes",
    show_default=True,
    help="Run jobs in processes or in threads of this machine; ignored with --scheduler.",
)
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Run jobs on the workers of this Dask scheduler, instead of this machine.",
)
@click.option(
    "--visit-hours",
    type=click.FloatRange(0, min_open=True),
    default=24.0,
    show_default=True,
    metavar="HOURS",
    help="Stop an update of one dataset after this time; it runs again later. Not with --executor "
    "threads.",
)
@click.option(
    "--worker-memory",
    callback=_parse_memory,
    metavar="SIZE",
    default="4GiB",
    show_default=True,
    help="Stop a worker that uses more memory; its update runs again later. Not with --executor "
    "threads.",
)
@click.option(
    "--metrics",
    metavar="HOST:PORT",
    help="Serve /healthz, /readyz and /metrics at this address [default: off].",
)
@click.option(
    "--catalogue",
    metavar="HOST:PORT",
    help='Run "neuromirror catalogue" at this address [default: off].',
)
@click.option(
    "--catalogue-address",
    "address",
    metavar="URL",
    help="Public URL of the catalogue behind a reverse proxy [default: "
    "$NEUROMIRROR_CATALOGUE_ADDRESS, else taken from each request].",
)
@click.option(
    "--catalogue-title",
    "title",
    metavar="TEXT",
    help="Title of the catalogue [default: $NEUROMIRROR_CATALOGUE_TITLE, else neuromirror].",
)
@click.option(
    "--catalogue-no-cutouts",
    "no_cutouts",
    is_flag=True,
    help="In the catalogue, show no previews of files, and offer no regions of volumes.",
)
@click.option(
    "--catalogue-limit",
    "limits",
    multiple=True,
    metavar="KIND=NUMBER",
    help='Request limit, as "neuromirror catalogue --limit" [default: '
    "$NEUROMIRROR_CATALOGUE_LIMITS].",
)
@click.option(
    "--catalogue-gateway",
    "gateways",
    multiple=True,
    metavar="[MIRROR=]MODE",
    help='How the gateway delivers files (see "neuromirror catalogue --gateway") [default: '
    "$NEUROMIRROR_CATALOGUE_GATEWAY, else redirect].",
)
@click.option(
    "--catalogue-trusted-proxy",
    "proxies",
    multiple=True,
    metavar="ADDRESS",
    help='Trusted proxy, as "neuromirror catalogue --trusted-proxy" '
    "[default: $NEUROMIRROR_CATALOGUE_TRUSTED_PROXIES, else none].",
)
@click.option("--log-json", is_flag=True, help="Write the log as one JSON object per line.")
@click.option(
    "--private-store",
    type=NamedPath(),
    metavar="DIR",
    help="Store for embargoed datasets [default: $NEUROMIRROR_PRIVATE_STORE].",
)
@click.option(
    "--backup",
    type=NamedPath(),
    metavar="DIR",
    help="Back up index, schedule and ledger to DIR every day "
    "[default: $NEUROMIRROR_BACKUP, else off].",
)
@click.option(
    "--siblings",
    type=NamedPath(),
    metavar="DIR",
    help="Folder with sibling files; those with 'datasets' are kept up to date "
    "[default: $NEUROMIRROR_SIBLINGS, else ./siblings].",
)
@vaults_option
@click.option("--once", is_flag=True, help="Run the jobs that are due now, then exit.")
@settings_options
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
    **shown: Any,
) -> None:
    """Run the service that keeps mirrors up to date.

    The [schedule] of the mirror files sets the intervals; changed files are reloaded. On SIGTERM or
    Ctrl-C running jobs have 20 seconds to finish; a second signal exits at once. --once is for
    cron, with the exit codes of "neuromirror sync".
    """
    from neuromirror.service.server_options import require_service, require_web

    require_service()
    if catalogue is not None:
        require_web()
    from neuromirror.service.housekeeping import HousekeepingSettings
    from neuromirror.service.serve import ServeOptions, open_mirror_files, serve
    from neuromirror.service.server_options import parse_listen_address
    from neuromirror.store import Store
    from neuromirror.store.private_store import require_public_store

    private_store = private_store or path_from_environment(PRIVATE_STORE)
    backup = backup or path_from_environment("NEUROMIRROR_BACKUP")
    _reject_datasets(names)
    catalogue_options = None
    if catalogue is not None:
        catalogue_options = _catalogue_options(catalogue, once=once, **shown)
    elif any(shown.values()):
        raise ConfigurationError(
            "options --catalogue-… require an address for the catalogue; add --catalogue HOST:PORT"
        )
    folder = settings.store_folder.absolute()
    require_public_store(folder)
    options = ServeOptions(
        workers=workers,
        executor=executor,
        scheduler=scheduler,
        visit_seconds=visit_hours * 3600,
        worker_memory=worker_memory,
        private=None if private_store is None else private_store.absolute(),
        metrics=None if metrics is None else parse_listen_address(metrics),
        catalogue=catalogue_options,
        log_json=log_json,
        housekeeping=HousekeepingSettings(
            backup_folder=None if backup is None else backup.absolute(),
            siblings_folder=siblings_folder(siblings).absolute(),
            vaults_folder=_vaults_folder(vaults),
        ),
    )
    files = open_mirror_files(settings.mirrors_folder, names, Store(folder), options.private)
    store = Store.open(folder, create=True)
    index_path = settings.index_path(store).absolute()
    if not once:
        serve(store, index_path, files, options)
        return
    sys.exit(_serve_once(settings, store, index_path, files, options))


def _vaults_folder(folder: Path | None) -> Path | None:
    """Return the folder of vault files after a check of them; None if there is no vault."""
    from neuromirror.config.keep_file import load_keeps

    configured = load_configured_vaults(folder)
    load_keeps(configured.folder, configured.vaults)
    return configured.folder.absolute() if configured.vaults else None


def _reject_datasets(names: tuple[str, ...]) -> None:
    for name in names:
        if ":" in name:
            mirror = name.partition(":")[0]
            raise ConfigurationError(
                f"'{name}' is a dataset, but the service updates whole mirrors only; write "
                f"{mirror}, or run 'neuromirror sync {name}'"
            )


def _catalogue_options(
    listen: str,
    *,
    once: bool,
    address: str | None,
    title: str | None,
    no_cutouts: bool,
    limits: tuple[str, ...],
    gateways: tuple[str, ...],
    proxies: tuple[str, ...],
) -> CatalogueOptions:
    """Return the options of the catalogue, from the command line or from the environment."""
    from neuromirror.service.catalogue_process import CatalogueOptions
    from neuromirror.service.server_options import parse_listen_address, parse_site_url
    from neuromirror.web.gateway.modes import parse_modes
    from neuromirror.web.rate_limits import parse_limits, parse_proxies

    if once:
        raise ConfigurationError(
            "--catalogue and --once cannot be used together; run 'neuromirror catalogue' as a "
            "separate process"
        )
    limits = limits or _environment_values("NEUROMIRROR_CATALOGUE_LIMITS")
    proxies = proxies or _environment_values("NEUROMIRROR_CATALOGUE_TRUSTED_PROXIES")
    gateways = gateways or _environment_values("NEUROMIRROR_CATALOGUE_GATEWAY")
    parse_limits(limits)
    modes = parse_modes(gateways)
    parse_proxies(proxies)
    return CatalogueOptions(
        parse_listen_address(listen),
        parse_site_url(address or os.environ.get("NEUROMIRROR_CATALOGUE_ADDRESS", "")),
        title or os.environ.get("NEUROMIRROR_CATALOGUE_TITLE", ""),
        cutouts=not no_cutouts,
        limits=limits,
        gateways=gateways,
        proxies=proxies,
        modes=modes.by_name,
    )


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


def _environment_values(name: str) -> tuple[str, ...]:
    return tuple(os.environ.get(name, "").replace(",", " ").split())
