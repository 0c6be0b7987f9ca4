"""The catalogue in uvicorn: one process or several, with timeouts for idle clients."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.reduction import DupFd
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from typing import Any, ClassVar, Final

import h11
import msgspec
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.supervisors import Multiprocess

from neuromirror.index import Index
from neuromirror.store import Store
from neuromirror.store.private_store import require_public_store
from neuromirror.web.app import HEARTBEAT_SECONDS, Heartbeat, catalogue_app
from neuromirror.web.rate_limits import RequestLimiter, Tokens, shared_tokens
from neuromirror.web.site import Site, SiteSettings

MAX_WORKERS: Final = 4
"""Maximum of the default number of processes."""
_TURN_SECONDS: Final = 0.01
"""Seconds in which a process leaves the next connection to the others."""
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
_LOG_LEVEL: Final = logging.ERROR
"""uvicorn warns of each malformed request, which could fill the log."""


def default_workers() -> int:
    """Return the number of processors that this process may use, at most :data:`MAX_WORKERS`."""
    if hasattr(os, "sched_getaffinity"):  # macOS lacks it
        return min(len(os.sched_getaffinity(0)), MAX_WORKERS)
    return min(os.cpu_count() or 1, MAX_WORKERS)


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
        the gateway, whose names start with ``gateway`` and a space.
    on_stop
        Called once after the last response, before the signal that stopped the process ends it.

    Raises
    ------
    ConfigurationError
        If the store is private.
    IndexMissingError
        If the store has no index.
    """
    require_public_store(store.root)
    Index.open_readonly(index_path).close()
    logging.getLogger("uvicorn.error").setLevel(_LOG_LEVEL)
    tokens = shared_tokens()
    with listener:
        on_ready()
        if workers == 1:
            site = Site(store, index_path, settings, RequestLimiter(per_minute, tokens))
            prepare_interpreter()
            _Server(_config(catalogue_app(site, heartbeat), proxies), on_stop).run([listener])
            return
        reports, report = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with reports, report:
            make = partial(
                _worker_app,
                *(start_worker, store.root, index_path, settings, dict(per_minute), tokens, report),
            )
            config = _config(make, proxies, factory=True, workers=workers)
            serving = _Workers(config, [_TurnListener(os.dup(listener.fileno()))])
            # uvicorn waits for processes that start
            beating = threading.Thread(target=_sum_reports, args=(reports, heartbeat), daemon=True)
            beating.start()
            serving.run()
            report.send(b"")
            beating.join()
        on_stop()
        if serving.is_interrupted:
            raise KeyboardInterrupt
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)


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
    tokens: Tokens,
    report: socket.socket,
) -> Any:
    """Return the application of one of several processes, in that process."""
    start()
    logging.getLogger("uvicorn.error").setLevel(_LOG_LEVEL)
    site = Site(Store.open(store), index_path, settings, RequestLimiter(per_minute, tokens))
    prepare_interpreter()
    reported: Counter[str] = Counter()

    def heartbeat(counts: Mapping[str, int]) -> None:
        more = Counter(counts) - reported
        try:
            report.send(msgspec.json.encode(more), socket.MSG_DONTWAIT)
            reported.update(more)
        except BlockingIOError:
            pass  # with the next heartbeat
        except OSError:
            os.kill(os.getpid(), signal.SIGTERM)  # the process that started this one is gone

    return catalogue_app(site, heartbeat)


class _Server(uvicorn.Server):
    """A server that calls ``on_stop`` after its last response."""

    def __init__(self, config: uvicorn.Config, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_stop = on_stop

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        self._on_stop()


class _Workers(Multiprocess):
    """Serves a socket in several processes until this process is stopped."""

    is_interrupted = False

    def handle_int(self) -> None:
        super().handle_int()
        self.is_interrupted = True


def _sum_reports(reports: socket.socket, heartbeat: Heartbeat) -> None:
    """Send heartbeats with the sums of the counts that processes report, until an empty report."""
    counts: Counter[str] = Counter()
    reports.settimeout(HEARTBEAT_SECONDS)
    while True:
        heartbeat(counts)
        with suppress(TimeoutError):
            report = reports.recv(1 << 16)
            if not report:
                return
            counts.update(msgspec.json.decode(report, type=dict[str, int]))


class _TurnListener(socket.socket):
    """A listening socket from which several processes accept connections in turns.

    asyncio accepts all connections that are waiting, so that one process would serve all those that
    a client opens at once, and the others none.
    """

    def __init__(self, fileno: int, last: Any = None) -> None:
        super().__init__(fileno=fileno)
        # the process that accepted the last connection, and when
        self._last = RawArray(ctypes.c_double, 2) if last is None else last

    def __reduce__(self) -> Any:
        return _received_listener, (DupFd(self.fileno()), self._last)

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection; raises BlockingIOError if it is the turn of another process."""
        process, accepted_at = self._last
        if process == os.getpid() and time.monotonic() - accepted_at < _TURN_SECONDS:
            raise BlockingIOError
        accepted = super().accept()
        self._last[:] = os.getpid(), time.monotonic()
        return accepted


def _received_listener(fileno: Any, last: Any) -> _TurnListener:
    return _TurnListener(fileno.detach(), last)


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
