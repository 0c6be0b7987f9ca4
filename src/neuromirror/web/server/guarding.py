"""What stands around all replies: headers that keep browsers safe, and the store's own files."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from neuromirror.web.asked import problem
from neuromirror.web.limiting import TooManyRequests, client_of, kind_of
from neuromirror.web.server.answering import App, answering
from neuromirror.web.server.giving import Message, Receive, Send, give, say, while_connected
from neuromirror.web.server.keeping import Kept, key_of
from neuromirror.web.server.packing import packing
from neuromirror.web.site import Site

if TYPE_CHECKING:
    from datasette.app import Datasette

_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        b"font-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
        b"frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)

_NAMES = frozenset(name for name, _ in _HEADERS)

_SERVED = re.compile(
    rb"/(?:ria-layout-version|alias/[^/]+/.+|[0-9a-f]{3}/[0-9a-f-]{33}/.+|manifests/[0-9a-f]{2}/.+"
    rb"|tombstones/[^/]+\.json)"
)
"""What anybody may have of a store: repositories, manifests; never the journal or the index."""

_HOST = re.compile(rb"(?:[\w.~-]*|\[[0-9a-fA-F:.]+\])(?::[0-9]{0,5})?", re.ASCII)
"""A host and port that may stand in links, feeds and clone commands."""

_ALLOWED = b"GET, HEAD, OPTIONS"

_BEFORE_ASKING = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"GET, HEAD"),
    (b"access-control-allow-headers", b"If-None-Match"),
    (b"access-control-max-age", b"86400"),
    (b"allow", _ALLOWED),
    (b"content-length", b"0"),
)
"""What a browser is told that asks whether another site's script may ask the API."""

_OPEN = re.compile(rb"/-/static(?:-plugins)?/[\w./-]{1,200}\Z")
"""Pages of Datasette about itself tell paths of the machine: only its style sheets are given."""


def guarded(app: App, datasette: Datasette, site: Site) -> App:
    """Datasette with our pages before it, and the headers and the files around them."""
    pages, remembered = answering(app, datasette), Kept()

    async def asgi(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return

        closing = ((b"connection", b"close"),) if _has_body(scope) else ()

        async def guarding(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [
                    (name, value)
                    for name, value in message.get("headers", [])
                    if name.lower() not in _NAMES
                ]
                message = {**message, "headers": [*kept, *_HEADERS, *closing]}
            await send(message)

        path = scope.get("raw_path", scope["path"].encode()).partition(b"?")[0]
        wrong = _malformed(scope, path)
        if wrong:
            await say(guarding, 400, wrong)
        elif scope["method"] == "OPTIONS" and path.startswith(b"/api/"):
            start = {"type": "http.response.start", "status": 204, "headers": _BEFORE_ASKING}
            await guarding(start)
            await guarding({"type": "http.response.body", "body": b""})
        elif scope["method"] not in ("GET", "HEAD"):
            await say(
                guarding,
                405,
                "Nothing can be changed here: only GET and HEAD are answered.",
                (b"allow", _ALLOWED),
            )
        elif _SERVED.fullmatch(path):
            await give(scope, receive, guarding, site)
        elif path.startswith(b"/-/") and not _OPEN.match(path):
            await say(guarding, 404, "There is no such page.")
        else:

            async def ask(to: Send) -> None:
                await pages(scope, receive, packing(to, scope, site))

            key = key_of(scope, site.reader.state)
            answer = remembered.give(key, guarding, _limited(scope, site, ask))
            await while_connected(receive, answer)

    return asgi


def _malformed(scope: Any, path: bytes) -> str:
    """Return what is wrong with a request's target or host, or an empty string."""
    if not path.startswith(b"/") and scope["method"] in ("GET", "HEAD"):
        return "The request target must be a path."
    if not _HOST.fullmatch(dict(scope["headers"]).get(b"host", b"")):
        return "The Host header must be a host name or address, with a port or without."
    return ""


def _has_body(scope: Any) -> bool:
    """Return whether a request has a body.

    No body is read here. The connection is closed after the reply, so that no two programs can
    disagree about where the next request starts.
    """
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"0")
    return b"transfer-encoding" in headers or length.strip(b"0") != b""


def _limited(
    scope: Any, site: Site, ask: Callable[[Send], Awaitable[None]]
) -> Callable[[Send], Awaitable[None]]:
    """``ask`` within the limits on expensive requests; a refused one gets 429 or 503."""
    kind = kind_of(scope)
    if kind is None:
        return ask

    async def limited(to: Send) -> None:
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(site.limiter.admitted(kind, client_of(scope)))
            except TooManyRequests as error:
                if scope["path"].startswith("/api/"):
                    reply = problem(error.status, str(error))
                    reply.headers["retry-after"] = str(error.seconds)
                    await reply.asgi_send(to)
                else:
                    retry_after = (b"retry-after", b"%d" % error.seconds)
                    await say(to, error.status, str(error), retry_after)
                return
            await ask(to)

    return limited
