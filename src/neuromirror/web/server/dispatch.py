"""Which of our pages an address has; what has none is left to Datasette.

Ours do not pass through Datasette's own router: that looks for cookies, actors and messages, which
there are none of, and of an error in a page it writes down all that the page knew.
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
    """An application that answers what is ours, before another one."""
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
            # a defect of ours; whoever runs the server logs it
            await send_text(send, 500, "Something is wrong here, and not with what you asked for.")
