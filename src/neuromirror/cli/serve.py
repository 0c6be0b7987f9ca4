"""``neuromirror serve``."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from neuromirror.cli.common import NamedPath, Settings, settings_options
from neuromirror.cli.sync import format_result, worst_exit_code
from neuromirror.model.errors import ConfigurationError

if TYPE_CHECKING:
    from neuromirror.crawl import Result

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kMGT]?)i?B?", re.IGNORECASE)
_UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_MIN_WORKER_MEMORY = 256 << 20
"""Bytes without which a worker does not even start."""


def _parse_size(context: click.Context, option: click.Parameter, value: str) -> int:
    """Bytes of ``4G`` or ``512M`` (powers of 1024)."""
    found = _SIZE.fullmatch(value.strip())
    if found is None:
        raise click.BadParameter(f"'{value}' is not a size; write for example 4G or 512M")
    size = int(float(found[1]) * 1024 ** _UNITS[found[2].lower()])
    if size < _MIN_WORKER_MEMORY:
        raise click.BadParameter(f"a worker needs 256M at the least, not {value}")
    return size


@click.command("serve")
@click.argument("names", nargs=-1, metavar="[MIRROR]...")
@click.option(
    "--workers", type=click.IntRange(1, 256), default=4, show_default=True, help="Jobs at a time."
)
@click.option(
    "--executor",
    type=click.Choice(["processes", "threads"]),
    default="processes",
    show_default=True,
    help="What jobs are done in, on this machine.",
)
@click.option("--scheduler", metavar="ADDRESS", help="Do jobs on the workers of a Dask scheduler.")
@click.option(
    "--visit-hours",
    type=click.FloatRange(0, min_open=True),
    default=24.0,
    show_default=True,
    help="End a job that takes longer (processes).",
)
@click.option(
    "--worker-memory",
    callback=_parse_size,
    metavar="SIZE",
    default="4G",
    show_default=True,
    help="End a job that takes more (processes).",
)
@click.option(
    "--metrics",
    metavar="HOST:PORT",
    help="Serve /healthz, /readyz and /metrics there [default: nowhere].",
)
@click.option(
    "--catalogue",
    metavar="HOST:PORT",
    help='Serve the store and its pages there, as "neuromirror catalogue" does [default: nowhere].',
)
@click.option(
    "--catalogue-address",
    metavar="URL",
    help="The pages' address as people type it, behind a proxy [default: as they are asked for; "
    "NEUROMIRROR_CATALOGUE_ADDRESS].",
)
@click.option(
    "--catalogue-title",
    metavar="TEXT",
    help="What the pages are called [default: neuromirror; NEUROMIRROR_CATALOGUE_TITLE].",
)
@click.option(
    "--catalogue-no-cutouts", is_flag=True, help="Let nobody have voxels from upstream by it."
)
@click.option(
    "--catalogue-limit",
    "catalogue_limits",
    multiple=True,
    metavar="KIND=NUMBER",
    help='Requests of a client, as "neuromirror catalogue --limit" [NEUROMIRROR_CATALOGUE_LIMITS].',
)
@click.option(
    "--catalogue-trusted-proxy",
    "catalogue_proxies",
    multiple=True,
    metavar="ADDRESS",
    help='As "neuromirror catalogue --trusted-proxy" [NEUROMIRROR_CATALOGUE_TRUSTED_PROXIES].',
)
@click.option("--catalogue-sql", is_flag=True, help="Run SQL that visitors write at its /index.")
@click.option("--log-json", is_flag=True, help="Log a JSON object a line.")
@click.option(
    "--private-store",
    type=NamedPath(),
    metavar="DIR",
    help="The store of what is under embargo [no default; NEUROMIRROR_PRIVATE_STORE].",
)
@click.option(
    "--backup",
    type=NamedPath(),
    metavar="DIR",
    help="Copy index and schedule there every day [default: no copies; NEUROMIRROR_BACKUP].",
)
@click.option("--once", is_flag=True, help="Do what is due now, and end.")
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
    catalogue_address: str | None,
    catalogue_title: str | None,
    catalogue_no_cutouts: bool,
    catalogue_limits: tuple[str, ...],
    catalogue_proxies: tuple[str, ...],
    catalogue_sql: bool,
    log_json: bool,
    private_store: Path | None,
    backup: Path | None,
    once: bool,
) -> None:
    """Keep mirrors current, until it is told to end.

    Without names all declared mirrors are served, those whose files come later too. How often an
    archive is looked at is in [schedule] of its mirror's file; files are read again when they
    change. What is due next is kept in the store: after a pause, or a crash, it goes on from
    there.

    On SIGTERM or Ctrl-C it begins nothing new, gives jobs under way 20 seconds, and ends; what was
    not finished is done at the next start. A second signal ends it at once.

    With --catalogue it keeps a catalogue running beside it, in a process of its own that is started
    again when it dies; mirroring takes no notice of it.

    With --once it does what is due now and ends: for cron, and to try a configuration.

    Exit code: 0 ended as it was told, 1 something failed, 2 wrong usage or configuration; with
    --once as "neuromirror sync": 3 a listing is held for approval.
    """
    from neuromirror.service.optional_dependencies import require_service, require_web

    require_service()
    if catalogue is not None:
        require_web()
    from neuromirror.service.catalogue_process import CatalogueOptions
    from neuromirror.service.housekeeping_tasks import HousekeepingSettings
    from neuromirror.service.listen_address import parse_listen_address, parse_site_url
    from neuromirror.service.serve import ServeOptions, open_mirror_files, serve, serve_once
    from neuromirror.store import Store
    from neuromirror.store.private_store import require_public_store

    private_store = private_store or _environment_path("NEUROMIRROR_PRIVATE_STORE")
    backup = backup or _environment_path("NEUROMIRROR_BACKUP")
    for name in names:
        if ":" in name:
            mirror = name.partition(":")[0]
            raise ConfigurationError(
                f"'{name}' is a dataset, and mirrors are served; write {mirror}, or use "
                f"'neuromirror sync {name}'"
            )
    catalogue_options = None
    if catalogue is not None:
        if once:
            raise ConfigurationError(
                "--catalogue is for a service that stays, and with --once it ends; run "
                "'neuromirror catalogue' beside it"
            )
        from neuromirror.web.rate_limits import parse_limits, parse_proxies

        limits = catalogue_limits or _environment_values("NEUROMIRROR_CATALOGUE_LIMITS")
        proxies = catalogue_proxies or _environment_values("NEUROMIRROR_CATALOGUE_TRUSTED_PROXIES")
        parse_limits(limits)
        parse_proxies(proxies)
        catalogue_options = CatalogueOptions(
            parse_listen_address(catalogue),
            parse_site_url(
                catalogue_address or os.environ.get("NEUROMIRROR_CATALOGUE_ADDRESS", "")
            ),
            catalogue_title or os.environ.get("NEUROMIRROR_CATALOGUE_TITLE", ""),
            cutouts=not catalogue_no_cutouts,
            limits=limits,
            proxies=proxies,
            sql=catalogue_sql,
        )
    elif (
        catalogue_address is not None
        or catalogue_title is not None
        or catalogue_no_cutouts
        or catalogue_limits
        or catalogue_proxies
        or catalogue_sql
    ):
        raise ConfigurationError(
            "--catalogue-… says how pages are; name where they are with --catalogue HOST:PORT"
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
            backup_folder=None if backup is None else backup.absolute()
        ),
    )
    files = open_mirror_files(settings.mirrors_folder, names, Store(folder), options.private)
    store = Store.open(folder, create=True)
    index_path = settings.index_path(store).absolute()
    if not once:
        serve(store, index_path, files, options)
        return
    code, anything = 0, False

    def on_result(result: Result) -> None:
        nonlocal code, anything
        code, anything = worst_exit_code(code, result.exit_code), True
        if (result.status, result.message) != ("notneeded", "unchanged"):
            settings.emit("serve", asdict(result), format_result(result))

    ended = serve_once(store, index_path, files, options, on_result)
    if not anything:
        settings.print_text("notneeded  nothing is due")
    sys.exit(ended if ended > 1 else worst_exit_code(code, ended))


def _environment_values(name: str) -> tuple[str, ...]:
    return tuple(os.environ.get(name, "").replace(",", " ").split())


def _environment_path(name: str) -> Path | None:
    named = os.environ.get(name)
    return Path(named) if named else None
