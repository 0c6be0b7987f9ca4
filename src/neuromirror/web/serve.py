"""The catalogue in uvicorn: one process or several, with timeouts for idle clients."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.supervisors import Multiprocess

from neuromirror.store import Store
from neuromirror.web.app import catalogue_app
from neuromirror.web.rate_limits import RequestLimiter
from neuromirror.web.site import Site, SiteSettings

_HEARTBEAT_SECONDS = 2
"""Seconds between two heartbeats."""
_MAX_CONNECTIONS = 500
"""Maximum number of connections of a process; further ones get a 503."""
_REQUEST_TIMEOUT = 20.0
"""Seconds that a client may take to send the head of a request."""
_READ_TIMEOUT = 60.0
"""Seconds in which the client must read from the send buffer (about 256 kB)."""
_MAX_IDLE_CONNECTIONS: Final = 250
"""Maximum number of connections without a request; beyond it the oldest is closed."""
_MALLOC_ARENA_MAX = -8, 2
"""M_ARENA_MAX of mallopt(3), and its value."""
_COLLECTION_THRESHOLDS = 20_000, 20, 50
"""Thresholds of :func:`gc.set_threshold`."""
_SWITCH_SECONDS = 0.0002

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
        # a worker answers its supervisor once its modules are loaded
        timeout_worker_healthcheck=60,
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


def prepare_interpreter() -> None:
    """Set limits of memory and of pauses; to be called after the imports.

    - glibc's malloc gets few arenas: memory of arenas per thread is never returned to the system.
    - A collection of all objects takes 80 ms, most of it for the modules, whose objects are left
      out from now on.
    - SQLite releases Python's lock for each row, and the thread that makes a page gets it back only
      when another one, which renders a page, has held it for the switch interval: with the default
      of 5 ms, slow pages take three times as long.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # another library lacks it
        mallopt(*_MALLOC_ARENA_MAX)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTION_THRESHOLDS)
    sys.setswitchinterval(_SWITCH_SECONDS)


class IdleTimeoutProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol with timeouts for slow requests and slow readers."""

    request_timeout, read_timeout, max_idle = _REQUEST_TIMEOUT, _READ_TIMEOUT, _MAX_IDLE_CONNECTIONS
    _idle_connections: ClassVar[dict[IdleTimeoutProtocol, None]] = {}

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._request_timer: asyncio.TimerHandle | None = None
        self._read_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timeout of the first request."""
        super().connection_made(transport)
        held = transport.get_extra_info("socket")
        if held is not None and held.family in (socket.AF_INET, socket.AF_INET6):
            # otherwise Nagle's algorithm delays the end of a small response by 40 ms
            held.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._start_request_timer()

    def data_received(self, data: bytes) -> None:
        """Stop the timeout when the request is complete, including an ignored body."""
        super().data_received(data)
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._stop_request_timer()
        elif self._request_timer is None:
            self._start_request_timer()

    def on_response_complete(self) -> None:
        """Start the timeout of a pipelined request, if there is one."""
        super().on_response_complete()
        # buffered data is the start of a pipelined request
        begun = self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]
        if begun and self._request_timer is None:
            self._start_request_timer()

    def pause_writing(self) -> None:
        """Start the read timeout: the send buffer is full."""
        super().pause_writing()
        self._read_timer = self.loop.call_later(self.read_timeout, self._abort)

    def resume_writing(self) -> None:
        """Stop the read timeout."""
        super().resume_writing()
        self._read_timer = _cancel_timer(self._read_timer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers."""
        self._stop_request_timer()
        self._read_timer = _cancel_timer(self._read_timer)
        super().connection_lost(exc)

    def _start_request_timer(self) -> None:
        self._request_timer = self.loop.call_later(self.request_timeout, self._abort)
        waiting = self._idle_connections
        waiting[self] = None
        if len(waiting) > self.max_idle:
            # prompt clients are served, however many others are silent
            next(iter(waiting))._abort()

    def _stop_request_timer(self) -> None:
        self._request_timer = _cancel_timer(self._request_timer)
        self._idle_connections.pop(self, None)

    def _abort(self) -> None:
        self._stop_request_timer()
        # discard unsent data
        self.transport.abort()


def _cancel_timer(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    if timer is not None:
        timer.cancel()
    return None
