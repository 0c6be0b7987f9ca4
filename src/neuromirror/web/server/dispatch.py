"""Dispatch of requests to the catalogue's pages.

Datasette's own router is bypassed: it handles cookies, actors and messages, which the catalogue
does not use, and logs all variables of a page that raises an error.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from datasette.utils.asgi import Request

from neuromirror.web.request import problem_response
from neuromirror.web.routes import PAGES_OF_INDEX, ROUTES
from neuromirror.web.server.http_files import Receive, Send, send_text
from neuromirror.web.server.page_pool import PagePool, PageProcessError
from neuromirror.web.site import Site

_FAILED = "The process that made this page stopped. Try again in a moment."

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
        own_process = partial(_send_response, site, request, make, send)
        if site.pages is None or make not in PAGES_OF_INDEX:
            await own_process()
        else:
            await _send_from_pool(site.pages, scope, send, own_process)

    return asgi


async def _send_from_pool(
    pool: PagePool, scope: Any, send: Send, own_process: Callable[[], Awaitable[None]]
) -> None:
    try:
        await pool.respond(scope, send, own_process)
    except PageProcessError as error:
        logging.getLogger(__name__).warning("%s: %s", scope["path"], error)
        reply = problem_response(503, _FAILED)
        reply.headers["retry-after"] = "10"
        await reply.asgi_send(send)


async def _send_response(site: Site, request: Request, make: Any, send: Send) -> None:
    try:
        reply = await make(site, request)
    except Exception:
        await send_text(send, 500, "Internal server error.")
        raise  # a defect; the server logs it
    await reply.asgi_send(send)
