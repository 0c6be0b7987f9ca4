"""Dispatch of requests to the catalogue's pages; other paths go to Datasette.

Datasette's own router is bypassed: it handles cookies, actors and messages, which the catalogue
does not use, and logs all variables of a page that raises an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from datasette.utils.asgi import Request

from neuromirror.web.routes import ROUTES
from neuromirror.web.server.http_files import Message, Receive, Send, send_text

if TYPE_CHECKING:
    from datasette.app import Datasette

App = Callable[[Any, Receive, Send], Any]


def dispatch_middleware(app: App, datasette: Datasette) -> App:
    """Return an ASGI application for the catalogue's pages; ``app`` serves other paths."""
    routes = [(re.compile(pattern), make) for pattern, make in ROUTES]

    async def asgi(scope: Any, receive: Receive, send: Send) -> None:
        path = scope.get("raw_path", scope["path"].encode()).partition(b"?")[0].decode("latin-1")
        for pattern, make in routes:
            found = pattern.match(path)
            if found is not None:
                named = {**scope, "url_route": {"kwargs": found.groupdict()}}
                await _send_response(datasette, Request(named, receive), make, send)
                return
        await app(scope, receive, send)

    return asgi


async def _send_response(datasette: Datasette, request: Request, make: Any, send: Send) -> None:
    started = done = False

    async def sending(message: Message) -> None:
        nonlocal started
        started = True
        await send(message)

    try:
        reply = await make(datasette, request)
        await reply.asgi_send(sending)
        done = True
    finally:
        if not done and not started:
            # a defect; the server logs the exception
            await send_text(send, 500, "Internal server error.")
