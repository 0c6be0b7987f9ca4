"""Serving the catalogue with uvicorn, in one process or in several."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.supervisors import Multiprocess

from neuromirror.store import Store
from neuromirror.web.rate_limits import RequestLimiter
from neuromirror.web.server.idle_timeout import IdleTimeoutProtocol
from neuromirror.web.server.interpreter import prepare_interpreter
from neuromirror.web.server.middleware import catalogue_app
from neuromirror.web.site import Site, SiteSettings

_HEARTBEAT_SECONDS = 2
"""Seconds between two heartbeats."""
_MAX_CONNECTIONS = 500
"""Maximum number of connections of a process; further ones get a 503."""

Heartbeat = Callable[[Mapping[str, int]], None]


def serve_catalogue(
    store: Store,
    index_path: Path,
    listener: socket.socket,
    settings: SiteSettings,
    *,
    per_minute: Mapping[str, int],
    proxies: Sequence[str] = (),
    workers: int = 1,
    start_worker: Callable[[], None] = lambda: None,
    on_ready: Callable[[], None],
    heartbeat: Heartbeat = lambda counts: None,
    on_stop: Callable[[], None] = lambda: None,
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
    workers
        The number of processes that serve. Several are started and replaced by uvicorn.
    start_worker
        Called in each of several processes before it serves; it can be pickled.
    on_ready
        Called once before the first request.
    heartbeat
        Called every few seconds with the number of refused requests by kind, and the numbers of
        the gateway, whose names start with ``gateway`` and a space; of several processes without
        numbers.
    on_stop
        Called once after the last response, before the signal that stopped the process ends it.

    Raises
    ------
    ConfigurationError, IndexMissingError
        As :meth:`~neuromirror.web.site.Site.of_catalogue`.
    """
    limiter = RequestLimiter(per_minute)
    site = Site.of_catalogue(store, index_path, settings, limiter)

    async def beat() -> None:
        counts = {f"gateway {name}": count for name, count in site.gateway.counts.items()}
        heartbeat({**limiter.refused, **counts})

    # it warns of each malformed request, which could fill the log
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    with listener:
        on_ready()
        if workers > 1:
            make = partial(
                _worker_app, start_worker, store.root, index_path, settings, dict(per_minute)
            )
            _Workers(_config(make, proxies, factory=True, workers=workers), listener, heartbeat)
            on_stop()
            return
        prepare_interpreter()
        config = _config(
            catalogue_app(site), proxies, callback_notify=beat, timeout_notify=_HEARTBEAT_SECONDS
        )
        _Server(config, on_stop).run(sockets=[listener])


def _config(application: Any, proxies: Sequence[str], **more: Any) -> uvicorn.Config:
    return uvicorn.Config(
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
        **more,
    )


def _worker_app(
    start: Callable[[], None],
    store: Path,
    index_path: Path,
    settings: SiteSettings,
    per_minute: Mapping[str, int],
) -> Any:
    """Return the application of one of several processes, in that process."""
    start()
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    site = Site(Store.open(store), index_path, settings, RequestLimiter(per_minute))
    prepare_interpreter()
    return catalogue_app(site)


class _Server(uvicorn.Server):
    """A server that calls ``on_stop`` after its last response."""

    def __init__(self, config: uvicorn.Config, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_stop = on_stop

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        self._on_stop()


class _Workers(Multiprocess):
    """Serves a socket in several processes until this process is stopped, and sends heartbeats."""

    def __init__(self, config: uvicorn.Config, listener: socket.socket, beat: Heartbeat) -> None:
        super().__init__(config, [listener])
        self._beat = beat
        self.run()

    def keep_subprocess_alive(self) -> None:
        super().keep_subprocess_alive()
        self._beat({})
