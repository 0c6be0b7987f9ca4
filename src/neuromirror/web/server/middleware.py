"""Middleware for all responses: security headers, methods, rate limits and store files."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from typing import Any

from neuromirror.web.gateway.content_headers import CORS_HEADERS, PREFLIGHT_HEADERS, SANDBOX
from neuromirror.web.rate_limits import RequestLimitError, client_key, request_kind
from neuromirror.web.request import problem_response
from neuromirror.web.server.compression import compressing_send
from neuromirror.web.server.dispatch import App, page_app
from neuromirror.web.server.http_files import (
    Message,
    Receive,
    Send,
    run_while_connected,
    send_text,
    serve_static_file,
    serve_store_file,
)
from neuromirror.web.server.response_cache import ResponseCache, cache_key
from neuromirror.web.site import Site

_SECURITY_HEADERS = (
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

_CONTENT = (b"/at/", b"/download/")
"""Starts of paths whose responses have the content of files."""
_GATEWAY_HEADERS = tuple((name.encode(), value.encode()) for name, value in CORS_HEADERS.items())
_GATEWAY_PREFLIGHT = tuple(
    (name.encode(), value.encode()) for name, value in PREFLIGHT_HEADERS.items()
)
_SANDBOX = (b"content-security-policy", SANDBOX.encode())

_SECURITY_HEADER_NAMES = frozenset(name for name, _ in _SECURITY_HEADERS)

_STORE_PATHS = re.compile(
    rb"/(?:ria-layout-version|alias/[^/]+/.+|[0-9a-f]{3}/[0-9a-f-]{33}/.+|manifests/[0-9a-f]{2}/.+"
    rb"|tombstones/[^/]+\.json|block-digests/[0-9a-f]{2}/.+)"
)
"""Public paths of a store: repositories, manifests and block digests; never journal or index."""

_HOST_HEADER = re.compile(rb"(?:[\w.~-]*|\[[0-9a-fA-F:.]+\])(?::[0-9]{0,5})?", re.ASCII)
"""A valid Host header, which ends up in links, feeds and clone commands."""

_ALLOWED_METHODS = b"GET, HEAD, OPTIONS"

_PREFLIGHT_HEADERS = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"GET, HEAD"),
    (b"access-control-allow-headers", b"If-None-Match"),
    (b"access-control-max-age", b"86400"),
    (b"allow", _ALLOWED_METHODS),
    (b"content-length", b"0"),
)
"""Headers of the response to a CORS preflight request of the API."""


def catalogue_app(site: Site) -> App:
    """Return the catalogue as an ASGI application: pages, headers, limits and store files."""
    pages, remembered = page_app(site), ResponseCache()

    async def asgi(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(site, receive, send)
            return

        closing = ((b"connection", b"close"),) if _has_body(scope) else ()

        async def send_secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = _secured_headers(message.get("headers", []), is_gateway=is_gateway)
                message = {**message, "headers": [*headers, *closing]}
            await send(message)

        path = scope.get("raw_path", scope["path"].encode()).partition(b"?")[0]
        is_gateway = path.startswith(_CONTENT)
        wrong = _malformed_request_message(scope, path)
        if wrong:
            await send_text(send_secured, 400, wrong)
        elif scope["method"] == "OPTIONS" and path.startswith((b"/api/", *_CONTENT)):
            headers = _GATEWAY_PREFLIGHT if is_gateway else _PREFLIGHT_HEADERS
            start = {"type": "http.response.start", "status": 204, "headers": headers}
            await send_secured(start)
            await send_secured({"type": "http.response.body", "body": b""})
        elif scope["method"] not in ("GET", "HEAD"):
            await send_text(
                send_secured,
                405,
                "This site is read-only: only GET and HEAD are allowed.",
                (b"allow", _ALLOWED_METHODS),
            )
        elif _STORE_PATHS.fullmatch(path):
            await serve_store_file(scope, receive, send_secured, site)
        elif path.startswith(b"/-/") or path == b"/favicon.ico":
            await serve_static_file(scope, receive, send_secured, site)
        else:

            async def ask(to: Send) -> None:
                await pages(scope, receive, compressing_send(to, scope, site))

            # a file depends on further headers of the request, and may be large
            key = None if is_gateway else cache_key(scope, site.reader.revision)
            answer = remembered.send_response(key, send_secured, _rate_limited(scope, site, ask))
            await run_while_connected(receive, answer)

    return asgi


async def _live(site: Site, receive: Receive, send: Send) -> None:
    """Close the site when the server stops."""
    while (kind := (await receive())["type"]) != "lifespan.shutdown":
        await send({"type": f"{kind}.complete"})
    site.close()
    await send({"type": f"{kind}.complete"})


def _secured_headers(given: Iterable[Any], *, is_gateway: bool) -> list[Any]:
    """Return headers with those of :data:`_SECURITY_HEADERS`; content keeps its sandbox."""
    given = [(name.lower(), value) for name, value in given]
    is_sandboxed = is_gateway and _SANDBOX in given
    kept = [one for one in given if one[0] not in _SECURITY_HEADER_NAMES]
    if is_gateway:
        names = {name for name, _ in _GATEWAY_HEADERS}
        kept = [*(one for one in kept if one[0] not in names), *_GATEWAY_HEADERS]
        if all(name != b"cache-control" for name, _ in kept):
            kept.append((b"cache-control", b"no-store"))  # an error
    if not is_sandboxed:
        return [*kept, *_SECURITY_HEADERS]
    return [*kept, _SANDBOX, *(one for one in _SECURITY_HEADERS if one[0] != _SANDBOX[0])]


def _malformed_request_message(scope: Any, path: bytes) -> str:
    """Return the fault in a request's target or host, or an empty string."""
    if not path.startswith(b"/") and scope["method"] in ("GET", "HEAD"):
        return "The request target must be a path."
    if not _HOST_HEADER.fullmatch(dict(scope["headers"]).get(b"host", b"")):
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


def _rate_limited(
    scope: Any, site: Site, respond: Callable[[Send], Awaitable[None]]
) -> Callable[[Send], Awaitable[None]]:
    """Apply the limits on expensive requests to ``respond``; refused requests get 429 or 503."""
    kind = request_kind(scope)
    if kind is None:
        return respond

    client = client_key(scope)

    async def limited(to: Send) -> None:
        async def send_counted(message: Message) -> None:
            site.limiter.add_bytes(client, len(message.get("body", b"")))
            await to(message)

        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(site.limiter.admit(kind, client))
            except RequestLimitError as error:
                if scope["path"].startswith(("/api/", "/at/")):
                    reply = problem_response(error.status, str(error))
                    reply.headers["retry-after"] = str(error.retry_after)
                    await reply.asgi_send(to)
                else:
                    retry_after = (b"retry-after", b"%d" % error.retry_after)
                    await send_text(to, error.status, str(error), retry_after)
                return
            await respond(send_counted if kind == "gateway" else to)

    return limited
