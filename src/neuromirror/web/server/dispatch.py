"""Dispatch of requests to the catalogue's pages; other paths go to Datasette.

Datasette's own router is bypassed: it handles cookies, actors and messages, which the catalogue
does not use, and logs all variables of a page that raises an error.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from datasette.utils.asgi import Request

from neuromirror.web.request import problem_response
from neuromirror.web.routes import PAGES_OF_INDEX, ROUTES
from neuromirror.web.server.http_files import Message, Receive, Send, send_text
from neuromirror.web.server.page_pool import PagePool, PageProcessError
from neuromirror.web.site import find_site

if TYPE_CHECKING:
    from datasette.app import Datasette

_FAILED = "The process that made this page stopped. Try again in a moment."

App = Callable[[Any, Receive, Send], Any]


def dispatch_middleware(app: App, datasette: Datasette) -> App:
    """Return an ASGI application for the catalogue's pages; ``app`` serves other paths."""
    site = find_site(datasette)
    pool = None if site is None else site.pages
    routes = [(re.compile(pattern), make) for pattern, make in ROUTES]

    async def asgi(scope: Any, receive: Receive, send: Send) -> None:
        path = scope.get("raw_path", scope["path"].encode()).partition(b"?")[0].decode("latin-1")
        for pattern, make in routes:
            found = pattern.match(path)
            if found is not None:
                request = Request({**scope, "url_route": {"kwargs": found.groupdict()}}, receive)
                own_process = partial(_send_response, datasette, request, make, send)
                if pool is None or make not in PAGES_OF_INDEX:
                    await own_process()
                else:
                    await _send_from_pool(pool, scope, send, own_process)
                return
        await app(scope, receive, send)

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
