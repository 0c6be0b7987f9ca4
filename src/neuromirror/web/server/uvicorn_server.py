"""The catalogue as a running server."""

from __future__ import annotations

import ctypes
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from neuromirror.store import Store
from neuromirror.web.rate_limits import RequestLimiter
from neuromirror.web.site import catalogue_app

_HEARTBEAT_SECONDS = 2
"""Seconds between two signs of life."""
_MALLOC_ARENA_MAX = -8, 2
"""M_ARENA_MAX of mallopt(3), and how many."""
_MAX_CONNECTIONS = 500
"""Above so many at once, others are told to come again (503)."""


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
    on_ready: Callable[[], None],
    heartbeat: Callable[[Mapping[str, int]], None] | None = None,
) -> None:
    """Serves at a socket that listens until the process is told to end, and closes it.

    ``cutouts`` says whether voxels may be had from upstream for those who ask, ``sql`` whether
    visitors may write SQL; ``per_minute`` are the limits of
    :func:`~neuromirror.web.rate_limits.parse_limits`, and ``proxies`` the networks of
    :func:`~neuromirror.web.rate_limits.parse_proxies`, whose X-Forwarded-For names the client.
    ``ready`` is called once, ``beat`` every few seconds while the server's loop turns, with the
    number of refused requests by kind. Raises as :func:`~neuromirror.web.site.catalogue` does.
    """
    _limit_malloc_arenas()
    limiter = RequestLimiter(per_minute)
    application = catalogue_app(
        store,
        index_path,
        title=title,
        address=address,
        cutouts=cutouts,
        sql=sql,
        limiter=limiter,
    )
    import uvicorn

    from neuromirror.web.server.idle_timeout import IdleTimeoutProtocol

    async def beating() -> None:
        if heartbeat is not None:
            heartbeat(limiter.refused)

    # it warns of each malformed request, of which anybody can send any number
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    with listener:
        on_ready()
        config = uvicorn.Config(
            application,
            # as whoever runs this process has set it up; who asks is not written down
            log_config=None,
            access_log=False,
            server_header=False,
            # of others than these proxies such headers say what anybody can say
            proxy_headers=bool(proxies),
            forwarded_allow_ips=list(proxies),
            http=IdleTimeoutProtocol,
            ws="none",
            # each takes a descriptor, of which a process often has a thousand
            limit_concurrency=_MAX_CONNECTIONS,
            timeout_graceful_shutdown=5,
            callback_notify=beating,
            timeout_notify=_HEARTBEAT_SECONDS,
        )
        uvicorn.Server(config).run(sockets=[listener])


def _limit_malloc_arenas() -> None:
    """Lets threads share heaps where glibc would give each its own, which it never gives back."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(*_MALLOC_ARENA_MAX)
