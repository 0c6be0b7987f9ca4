"""Dispatch of requests to the catalogue's pages.

Datasette's own router is bypassed: it handles cookies, actors and messages, which the catalogue
does not use, and logs all variables of a page that raises an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from datasette.utils.asgi import Request

from neuromirror.web.routes import ROUTES
from neuromirror.web.server.http_files import Receive, Send, send_text
from neuromirror.web.site import Site

App = Callable[[Any, Receive, Send], Any]


def page_app(site: Site) -> App:
    """Return an ASGI application for the catalogue's pages."""
    routes = [(re.compile(pattern), make) for pattern, make in ROUTES]

    async def asgi(scope: Any, receive: Receive, send: Send) -> None:
        path = scope.get("raw_path", scope["path"].encode()).partition(b"?")[0].decode("latin-1")
        # the last route takes any path
        found, make = next(
            (found, make) for pattern, make in routes if (found := pattern.match(path)) is not None
        )
        request = Request({**scope, "url_route": {"kwargs": found.groupdict()}}, receive)
        try:
            reply = await make(site, request)
        except Exception:
            await send_text(send, 500, "Internal server error.")
            raise  # a defect; the server logs it
        await reply.asgi_send(send)

    return asgi
