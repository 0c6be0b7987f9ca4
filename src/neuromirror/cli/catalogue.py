"""``neuromirror catalogue``."""

from __future__ import annotations

import click

from neuromirror.cli.common import Settings, settings_options
from neuromirror.model.errors import ConfigurationError

_LISTEN = "127.0.0.1:8270"


def split_address(text: str) -> tuple[str, int]:
    """``(host, port)`` of ``127.0.0.1:8270`` or ``[::1]:8270``."""
    host, colon, port = text.rpartition(":")
    if not colon or not host.strip("[]") or not port.isdecimal() or int(port) > 65535:
        raise ConfigurationError(f"'{text}' is no address; write HOST:PORT, for example {_LISTEN}")
    return host.strip("[]"), int(port)


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
@settings_options
def catalogue_command(settings: Settings, *, listen: str, address: str, title: str) -> None:
    """Serve the store and its pages over HTTP.

    One address gives pages to look around and search, JSON below /api/v1, Atom feeds, the index's
    tables below /index, and the store itself, to clone from:
    datalad clone 'ria+http://HOST:PORT/#~dandi--000027'. Nothing can be changed by it, and it runs
    beside syncs and the service. To the open internet, put it behind a web server that speaks TLS.

    Ctrl-C ends it. Needs the extra "web".
    """
    host, port = split_address(listen)
    from neuromirror.web.serving import serve_catalogue

    store = settings.store()

    def ready(url: str) -> None:
        settings.emit("catalogue", {"url": url}, f"the catalogue is at {url} (Ctrl-C ends it)")

    serve_catalogue(
        store, settings.index_path(store), host, port, title=title, address=address, ready=ready
    )
