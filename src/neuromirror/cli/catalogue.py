"""``neuromirror catalogue``."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial

import click

from neuromirror.cli.commands import command
from neuromirror.cli.common import Settings, settings_options

_LISTEN = "127.0.0.1:8270"
_WHOLE_LIFE = ExitStack()
"""What lasts as long as the process."""


@command(
    "catalogue",
    example="""\
neuromirror catalogue
neuromirror catalogue --listen 127.0.0.1:8270 --trusted-proxy 127.0.0.1 \\
    --address https://data.example.org""",
)
@click.option(
    "--listen",
    default=_LISTEN,
    show_default=True,
    metavar="HOST:PORT",
    help="Address to listen on; port 0 selects a free port.",
)
@click.option(
    "--address",
    default="",
    metavar="URL",
    help="Public URL behind a reverse proxy [default: taken from each request].",
)
@click.option(
    "--title", default="", metavar="TEXT", help="Title of the site [default: neuromirror]."
)
@click.option(
    "--cutouts/--no-cutouts",
    default=True,
    show_default=True,
    help="Show previews of files and let visitors download regions of volumes, both read from the "
    "archives, with limits.",
)
@click.option(
    "--limit",
    "limits",
    multiple=True,
    metavar="KIND=NUMBER",
    help="Requests per minute and client, for cutout, diff, gateway, preview or search, and "
    "megabytes for gateway-mb; 0 is unlimited [default: cutout=60, diff=30, gateway=6000, "
    "preview=120, search=120, gateway-mb=6000].",
)
@click.option(
    "--gateway",
    "gateways",
    multiple=True,
    metavar="[MIRROR=]MODE",
    help="How the gateway (addresses below /at/) delivers files, for all mirrors or for one: "
    "redirect (to the archive, not verified), proxy (through this catalogue, verified) or off "
    "[default: redirect].",
)
@click.option(
    "--trusted-proxy",
    "proxies",
    multiple=True,
    metavar="ADDRESS",
    help="Address or network of a proxy whose X-Forwarded-For header is trusted [default: none].",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=1,
    envvar="NEUROMIRROR_CATALOGUE_WORKERS",
    metavar="NUMBER",
    help="Processes that serve; limits per client then apply in each of them [default: "
    "$NEUROMIRROR_CATALOGUE_WORKERS, else 1].",
)
@click.option("--log-json", is_flag=True, help="Write the log as one JSON object per line.")
@click.option("--supervised", nargs=2, type=int, hidden=True)
@settings_options
def catalogue_command(
    settings: Settings,
    *,
    listen: str,
    address: str,
    title: str,
    cutouts: bool,
    limits: tuple[str, ...],
    gateways: tuple[str, ...],
    proxies: tuple[str, ...],
    workers: int,
    log_json: bool,
    supervised: tuple[int, int] | None,
) -> None:
    """Serve web pages, an API and the repositories for "datalad clone" over HTTP.

    One address serves the pages, the JSON API below /api/v1, Atom feeds, and the repositories of
    the store: datalad clone 'ria+http://HOST:PORT/#~dandi--000027'. Access is read-only. On the
    open internet, run it behind a web server with TLS. Requires the extra "web".
    """
    from neuromirror.service.catalogue_process import SupervisorConnection
    from neuromirror.service.catalogue_status import CatalogueStatusFile
    from neuromirror.service.logs import log_printed_output, logging_to
    from neuromirror.service.server_options import (
        bound_address,
        format_address,
        open_listener,
        parse_listen_address,
        parse_site_url,
        require_json_logging,
        require_web,
    )

    require_web()
    if log_json:
        require_json_logging()
    from neuromirror.config.builtin_mirrors import mirror_titles
    from neuromirror.web.gateway.modes import parse_modes
    from neuromirror.web.rate_limits import parse_limits, parse_proxies

    modes = parse_modes(gateways)
    per_minute, trusted = parse_limits(limits), parse_proxies(proxies)
    beat: Callable[[Mapping[str, int]], None] | None = None
    with ExitStack() as stack:
        stack.enter_context(logging_to(as_json=log_json, mirrors={}))
        if supervised is None:
            listens = open_listener(parse_listen_address(listen), "the catalogue")
        else:
            # "neuromirror serve" passes the listening socket and a socket for heartbeats
            listens = socket.socket(fileno=supervised[0])
            beat = stack.enter_context(SupervisorConnection(supervised[1])).beat
            stack.enter_context(log_printed_output())
        from neuromirror.web.serve import serve_catalogue
        from neuromirror.web.site import SiteSettings

        url = f"http://{format_address(bound_address(listens))}"

        store = settings.store()
        status = CatalogueStatusFile(store, url, modes.by_name)

        def ready() -> None:
            if supervised is None:  # else the service saves its status
                status.update({})
                line = f"the catalogue is at {url} (press Ctrl-C to stop)"
                settings.emit("catalogue", {"url": url}, line)

        serve_catalogue(
            store,
            settings.index_path(store),
            listens,
            SiteSettings(
                title=title or "neuromirror",
                address=parse_site_url(address),
                cutouts=cutouts,
                archives=mirror_titles(settings.mirrors_folder),
                modes=modes,
            ),
            per_minute=per_minute,
            proxies=trusted,
            workers=workers,
            start_worker=partial(_start_logging, as_json=log_json),
            on_ready=ready,
            heartbeat=beat or status.update,
            on_stop=status.remove if supervised is None else lambda: None,
        )


def _start_logging(*, as_json: bool) -> None:
    """Log for the whole life of a process that uvicorn started."""
    from neuromirror.service.logs import logging_to

    _WHOLE_LIFE.enter_context(logging_to(as_json=as_json, mirrors={}))
