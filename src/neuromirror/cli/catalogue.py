"""``neuromirror catalogue``."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from contextlib import ExitStack

import click

from neuromirror.cli.common import Settings, settings_options

_LISTEN = "127.0.0.1:8270"


@click.command("catalogue")
@click.option(
    "--listen",
    default=_LISTEN,
    show_default=True,
    metavar="HOST:PORT",
    help="Where the pages are; port 0 takes a free one.",
)
@click.option(
    "--address",
    default="",
    metavar="URL",
    help="The address as people type it, behind a proxy [default: as it is asked for].",
)
@click.option("--title", default="", help="What the pages are called.")
@click.option(
    "--cutouts/--no-cutouts",
    default=True,
    show_default=True,
    help="Have voxels of volumes from upstream for whoever asks, within limits.",
)
@click.option(
    "--limit",
    "limits",
    multiple=True,
    metavar="KIND=NUMBER",
    help="Requests per minute of one client: cutout, diff, search or sql; 0: any number "
    "[default: cutout=60, diff=30, search=120, sql=60].",
)
@click.option(
    "--trusted-proxy",
    "proxies",
    multiple=True,
    metavar="ADDRESS",
    help="A proxy, or a network of them, whose X-Forwarded-For names the client [default: none].",
)
@click.option(
    "--sql/--no-sql",
    default=False,
    show_default=True,
    help="Run SQL that visitors write at /index, within limits.",
)
@click.option("--log-json", is_flag=True, help="Log a JSON object a line.")
@click.option("--kept", nargs=2, type=int, hidden=True)
@settings_options
def catalogue_command(
    settings: Settings,
    *,
    listen: str,
    address: str,
    title: str,
    cutouts: bool,
    limits: tuple[str, ...],
    proxies: tuple[str, ...],
    sql: bool,
    log_json: bool,
    kept: tuple[int, int] | None,
) -> None:
    """Serve the store and its pages over HTTP.

    One address gives pages to look around and search, JSON below /api/v1, Atom feeds, the index's
    tables below /index, and the store itself, to clone from:
    datalad clone 'ria+http://HOST:PORT/#~dandi--000027'. Nothing can be changed by it, and it runs
    beside syncs and the service; "neuromirror serve --catalogue" keeps one running. To the open
    internet, put it behind a web server that speaks TLS.

    Ctrl-C and SIGTERM end it; replies under way have 5 seconds. Needs the extra "web".
    """
    from neuromirror.service.catalogue_process import SupervisorConnection
    from neuromirror.service.listen_address import (
        bound_address,
        format_address,
        open_listener,
        parse_listen_address,
        parse_site_url,
    )
    from neuromirror.service.logs import log_printed_output, logging_to
    from neuromirror.service.optional_dependencies import require_json_logging, require_web

    require_web()
    if log_json:
        require_json_logging()
    from neuromirror.web.rate_limits import parse_limits, parse_proxies

    per_minute, trusted = parse_limits(limits), parse_proxies(proxies)
    beat: Callable[[Mapping[str, int]], None] | None = None
    with ExitStack() as stack:
        stack.enter_context(logging_to(as_json=log_json, mirrors={}))
        if kept is None:
            listens = open_listener(parse_listen_address(listen), "the catalogue")
        else:
            # "neuromirror serve" gave the socket, and the one over which it hears of this process
            listens = socket.socket(fileno=kept[0])
            beat = stack.enter_context(SupervisorConnection(kept[1])).beat
            stack.enter_context(log_printed_output())
        from neuromirror.web.server.uvicorn_server import serve_catalogue

        url = f"http://{format_address(bound_address(listens))}"

        def ready() -> None:
            if kept is None:
                line = f"the catalogue is at {url} (Ctrl-C ends it)"
                settings.emit("catalogue", {"url": url}, line)

        store = settings.store()
        serve_catalogue(
            store,
            settings.index_path(store),
            listens,
            title=title,
            address=parse_site_url(address),
            cutouts=cutouts,
            per_minute=per_minute,
            proxies=trusted,
            sql=sql,
            on_ready=ready,
            heartbeat=beat,
        )
