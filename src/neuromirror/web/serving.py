"""The catalogue as a running server."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

from neuromirror.model import ConfigurationError
from neuromirror.store import Store
from neuromirror.web.site import catalogue

_BACKLOG = 128


def serve_catalogue(
    store: Store,
    index_path: Path,
    host: str,
    port: int,
    *,
    title: str = "",
    address: str = "",
    ready: Callable[[str], None],
) -> None:
    """Serves until it is interrupted; ``ready`` is told the address. ``port`` 0 takes a free one.

    Raises ConfigurationError for an address that cannot be had, and as
    :func:`~neuromirror.web.site.catalogue` does.
    """
    application = catalogue(store, index_path, title=title, address=address)
    import uvicorn

    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(found[0], socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(found[4])
        listening.listen(_BACKLOG)
    except OSError as error:
        raise ConfigurationError(
            f"nothing can be served at {host}:{port}: {error.strerror or error}; name another "
            "address with --listen"
        ) from error
    with listening:
        where, taken = listening.getsockname()[:2]
        ready(f"http://[{where}]:{taken}" if ":" in where else f"http://{where}:{taken}")
        config = uvicorn.Config(
            application,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=5,
        )
        uvicorn.Server(config).run(sockets=[listening])
