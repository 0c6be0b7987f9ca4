"""Serving the catalogue with uvicorn."""

from __future__ import annotations

import logging
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from neuromirror.store import Store
from neuromirror.web.gateway.service import GatewaySettings
from neuromirror.web.rate_limits import RequestLimiter
from neuromirror.web.server.interpreter import prepare_interpreter
from neuromirror.web.site import catalogue_app

_HEARTBEAT_SECONDS = 2
"""Seconds between two heartbeats."""
_MAX_CONNECTIONS = 500
"""Maximum number of connections; further ones get a 503."""


def serve_catalogue(
    store: Store,
    index_path: Path,
    listener: socket.socket,
    *,
    title: str = "",
    address: str = "",
    cutouts: bool = True,
    per_minute: Mapping[str, int],
    proxies: Sequence[str] = (),
    sql: bool = False,
    archives: Mapping[str, str] | None = None,
    gateway: GatewaySettings | None = None,
    processes: int = 1,
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
    title, address
        Title and public URL of the site.
    cutouts
        Whether visitors may request voxels from upstream.
    per_minute
        Rate limits by kind; see :func:`~neuromirror.web.rate_limits.parse_limits`.
    proxies
        Networks of trusted proxies, whose X-Forwarded-For names the client; see
        :func:`~neuromirror.web.rate_limits.parse_proxies`.
    sql
        Whether visitors may write SQL statements.
    archives
        Titles of archives by the name of their mirror.
    gateway
        How the content of files is delivered; by default by redirects.
    processes
        The number of processes that make pages; 1 for this process alone.
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
        As :func:`~neuromirror.web.site.catalogue_app`.
    """
    limiter, settings = RequestLimiter(per_minute), gateway or GatewaySettings()
    exits: Counter[str] = Counter()
    application = catalogue_app(
        store,
        index_path,
        title=title,
        address=address,
        cutouts=cutouts,
        sql=sql,
        limiter=limiter,
        archives=archives,
        gateway=settings,
        processes=processes,
        on_page_exit=lambda: exits.update(["pages exited"]),
    )
    import uvicorn

    from neuromirror.web.server.idle_timeout import IdleTimeoutProtocol

    prepare_interpreter()

    async def beating() -> None:
        if heartbeat is not None:
            counts = settings.counts.items()
            heartbeat(
                {**limiter.refused, **exits, **{f"gateway {name}": count for name, count in counts}}
            )

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
