"""The catalogue as a running server."""

from __future__ import annotations

import ctypes
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from neuromirror.store import Store
from neuromirror.web.limiting import Limiter
from neuromirror.web.site import catalogue

_BEAT = 2
"""Seconds between two signs of life."""
_ARENAS = -8, 2
"""M_ARENA_MAX of mallopt(3), and how many."""
_CONNECTIONS = 500
"""Above so many at once, others are told to come again (503)."""


def serve_catalogue(
    store: Store,
    index_path: Path,
    listens: socket.socket,
    *,
    title: str = "",
    address: str = "",
    cutouts: bool = True,
    per_minute: Mapping[str, int],
    proxies: Sequence[str] = (),
    sql: bool = False,
    ready: Callable[[], None],
    beat: Callable[[Mapping[str, int]], None] | None = None,
) -> None:
    """Serves at a socket that listens until the process is told to end, and closes it.

    ``cutouts`` says whether voxels may be had from upstream for those who ask, ``sql`` whether
    visitors may write SQL; ``per_minute`` are the limits of
    :func:`~neuromirror.web.limiting.parse_limits`, and ``proxies`` the networks of
    :func:`~neuromirror.web.limiting.parse_proxies`, whose X-Forwarded-For names the client.
    ``ready`` is called once, ``beat`` every few seconds while the server's loop turns, with the
    number of refused requests by kind. Raises as :func:`~neuromirror.web.site.catalogue` does.
    """
    _share_heaps()
    limiter = Limiter(per_minute)
    application = catalogue(
        store,
        index_path,
        title=title,
        address=address,
        cutouts=cutouts,
        sql=sql,
        limiter=limiter,
    )
    import uvicorn

    from neuromirror.web.server.patience import Patient

    async def beating() -> None:
        if beat is not None:
            beat(limiter.refused)

    # it warns of each malformed request, of which anybody can send any number
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    with listens:
        ready()
        config = uvicorn.Config(
            application,
            # as whoever runs this process has set it up; who asks is not written down
            log_config=None,
            access_log=False,
            server_header=False,
            # of others than these proxies such headers say what anybody can say
            proxy_headers=bool(proxies),
            forwarded_allow_ips=list(proxies),
            http=Patient,
            ws="none",
            # each takes a descriptor, of which a process often has a thousand
            limit_concurrency=_CONNECTIONS,
            timeout_graceful_shutdown=5,
            callback_notify=beating,
            timeout_notify=_BEAT,
        )
        uvicorn.Server(config).run(sockets=[listens])


def _share_heaps() -> None:
    """Lets threads share heaps where glibc would give each its own, which it never gives back."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(*_ARENAS)
