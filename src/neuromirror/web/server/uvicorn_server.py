"""Serving the catalogue with uvicorn."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from neuromirror.store import Store
from neuromirror.web.rate_limits import RequestLimiter
from neuromirror.web.server.interpreter import prepare_interpreter
from neuromirror.web.server.middleware import catalogue_app
from neuromirror.web.site import Site, SiteSettings

_HEARTBEAT_SECONDS = 2
"""Seconds between two heartbeats."""
_MAX_CONNECTIONS = 500
"""Maximum number of connections; further ones get a 503."""


def serve_catalogue(
    store: Store,
    index_path: Path,
    listener: socket.socket,
    settings: SiteSettings,
    *,
    per_minute: Mapping[str, int],
    proxies: Sequence[str] = (),
    on_ready: Callable[[], None],
    heartbeat: Callable[[Mapping[str, int]], None] | None = None,
    on_stop: Callable[[], None] | None = None,
) -> None:
    """Serve the catalogue on a listening socket until the process is stopped.

    Parameters
    ----------
    store, index_path
        The store and its index.
    listener
        The listening socket, closed on return.
    settings
        The settings of the site.
    per_minute
        Rate limits by kind; see :func:`~neuromirror.web.rate_limits.parse_limits`.
    proxies
        Networks of trusted proxies, whose X-Forwarded-For names the client; see
        :func:`~neuromirror.web.rate_limits.parse_proxies`.
    on_ready
        Called once before the first request.
    heartbeat
        Called every few seconds with the number of refused requests by kind, and the numbers of
        the gateway, whose names start with ``gateway`` and a space; ``pages exited`` is the number
        of processes that made pages and exited unexpectedly.
    on_stop
        Called once after the last response, before the signal that stopped the process ends it.

    Raises
    ------
    ConfigurationError, IndexMissingError
        As :meth:`~neuromirror.web.site.Site.of_catalogue`.
    """
    limiter = RequestLimiter(per_minute)
    site = Site.of_catalogue(store, index_path, settings, limiter)
    application = catalogue_app(site)
    import uvicorn

    from neuromirror.web.server.idle_timeout import IdleTimeoutProtocol

    prepare_interpreter()

    async def beating() -> None:
        if heartbeat is not None:
            exits = {} if site.pages is None else site.pages.exits
            counts = {f"gateway {name}": count for name, count in site.gateway.counts.items()}
            heartbeat({**limiter.refused, **exits, **counts})

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            await super().shutdown(sockets)
            if on_stop is not None:
                on_stop()

    # it warns of each malformed request, which could fill the log
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    with listener:
        on_ready()
        config = uvicorn.Config(
            application,
            # logging is set up by the caller; client addresses are not logged
            log_config=None,
            access_log=False,
            server_header=False,
            # from other clients these headers can be forged
            proxy_headers=bool(proxies),
            forwarded_allow_ips=list(proxies),
            http=IdleTimeoutProtocol,
            ws="none",
            # each takes a file descriptor, often limited to 1024
            limit_concurrency=_MAX_CONNECTIONS,
            timeout_graceful_shutdown=5,
            callback_notify=beating,
            timeout_notify=_HEARTBEAT_SECONDS,
        )
        Server(config).run(sockets=[listener])
