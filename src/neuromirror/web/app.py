"""The catalogue as a Starlette application: its routes, its middleware, and its errors.

A request passes :class:`_Guard`, which refuses what no page may see, sends cached responses and
adds the security headers; the router, which serves files of the store and of the pages; and for
pages :class:`PageMiddleware` with the limits, and the compression.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from neuromirror.model import NeuromirrorError
from neuromirror.web.api import datasets as api
from neuromirror.web.async_index import RecentResults
from neuromirror.web.gateway import pages as gateway
from neuromirror.web.gateway.content import CORS_HEADERS, PREFLIGHT_HEADERS, SANDBOX
from neuromirror.web.pages import (
    dataset,
    downloads,
    feeds,
    folders,
    lock,
    machine_readable,
    search,
    status,
    version,
    volume,
)
from neuromirror.web.rate_limits import RequestLimitError, client_key, request_kind
from neuromirror.web.request import error_response, problem_response
from neuromirror.web.site import Site
from neuromirror.web.store_files import page_files, store_files

# --- routes

_VERSION: Final = "{name:name}@{label:text}"

# The more specific paths first.
_PAGES: Final = (
    Route("/", search.front),
    Route("/search", search.search),
    Route("/find", search.find),
    Route(f"/dataset/{_VERSION}", version.version),
    Route("/dataset/{name:name}", dataset.dataset),
    Route(f"/file/{_VERSION}", folders.file),
    Route(f"/cite/{_VERSION}", downloads.citation),
    Route(f"/badge/{_VERSION}.svg", downloads.badge),
    Route(f"/volume/{_VERSION}", volume.volume),
    Route(f"/slice/{_VERSION}.png", volume.picture),
    Route(f"/preview/{_VERSION}", folders.preview),
    Route(f"/thumbnail/{_VERSION}", folders.thumbnail),
    Route("/diff", version.diff),
    Route("/lock", lock.lock),
    Route("/events", status.events),
    Route("/mirrors", status.mirrors),
    Route("/changes", status.changes),
    Route("/help", status.help_page),
    Route("/api", status.api_page),
    Route("/feed.atom", feeds.global_feed),
    Route("/feed/{name:text}.atom", feeds.scoped_feed),
    Route("/sitemap.xml", feeds.sitemap),
    Route("/sitemap/{number:digits}.xml", feeds.sitemap_page),
    Route("/robots.txt", feeds.robots),
    Route("/harvest.json", machine_readable.harvest),
    Route("/opensearch.xml", machine_readable.open_search),
    *api.ROUTES,
    Route("/index", status.removed_tables),
    Route("/index.{rest:text}", status.removed_tables),
    Route("/index/{rest:text}", status.removed_tables),
    Route("/{rest:text}", status.not_found),
)
_FILES: Final = (
    Route("/at/{address:text}", gateway.deliver),
    Route(f"/download/{_VERSION}", downloads.download),
    Route(f"/cutout/{_VERSION}", volume.cut),
    Route(f"/checksums/{_VERSION}", downloads.checksums),
    Route(f"/croissant/{_VERSION}.json", machine_readable.croissant),
    Route("/lock/datasets.lock", lock.lock_file),
    Route("/lock/datasets.lock.zip", lock.lock_archive),
    Route("/lock/{list:list}", lock.file_list),
)
"""Responses of any length, which are not compressed."""


Heartbeat = Callable[[Mapping[str, int]], None]
HEARTBEAT_SECONDS: Final = 2


def catalogue_app(site: Site, heartbeat: Heartbeat = lambda counts: None) -> ASGIApp:
    """Return the catalogue as an ASGI application.

    ``heartbeat`` is called every few seconds with the counts of :attr:`Site.counts`.
    """

    async def beat() -> None:
        while True:
            heartbeat(site.counts)
            await asyncio.sleep(HEARTBEAT_SECONDS)

    @asynccontextmanager
    async def live(app: Starlette) -> AsyncIterator[None]:
        beating = asyncio.ensure_future(beat())
        yield
        beating.cancel()
        heartbeat(site.counts)
        site.close()

    compressed = Router(_PAGES, middleware=[Middleware(GZipMiddleware, 1000, 4)])
    application = Starlette(
        routes=[
            Route("/{path:storepath}", store_files(site.store)),
            Mount("/-/static-plugins/neuromirror", page_files()),
            Route("/favicon.ico", page_files("icon.svg")),
            Mount(
                "/",
                Router([*_FILES, Mount("/", compressed)], middleware=[Middleware(PageMiddleware)]),
            ),
        ],
        exception_handlers={
            NeuromirrorError: error_response,
            HTTPException: _missing_file,
            Exception: _internal_error,
        },
        lifespan=live,
    )
    application.state.site = site
    return _Guard(application, site)


async def _missing_file(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return PlainTextResponse("File not found.\n", error.status_code)


async def _internal_error(request: Request, error: Exception) -> Response:
    return PlainTextResponse("Internal server error.\n", 500)


# --- requests that are refused, and headers of all responses

_SECURITY_HEADERS: Final = (
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
_SECURITY_HEADER_NAMES: Final = frozenset(name for name, _ in _SECURITY_HEADERS)
_CONTENT: Final = ("/at/", "/download/")
"""Starts of paths whose responses have the content of files."""
_GATEWAY_HEADERS: Final = tuple(
    (name.encode(), value.encode()) for name, value in CORS_HEADERS.items()
)
_SANDBOX: Final = (b"content-security-policy", SANDBOX.encode())
_HOST_HEADER: Final = re.compile(rb"(?:[\w.~-]*|\[[0-9a-fA-F:.]+\])(?::[0-9]{0,5})?", re.ASCII)
"""A valid Host header, which ends up in links, feeds and clone commands."""
_API_PREFLIGHT_HEADERS: Final = {
    "access-control-allow-origin": "*",
    "access-control-allow-methods": "GET, HEAD",
    "access-control-allow-headers": "If-None-Match",
    "access-control-max-age": "86400",
    "allow": PREFLIGHT_HEADERS["allow"],
    "content-length": "0",
}


class _Guard:
    """Refuses malformed requests and other methods than GET and HEAD; adds security headers.

    Cached responses are sent from here. Paths remain percent-encoded for the application, so that
    each part is decoded by itself.
    """

    def __init__(self, app: ASGIApp, site: Site) -> None:
        self.app, self._site, self._cache = app, site, ResponseCache()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        path = scope.get("raw_path", scope["path"].encode()).partition(b"?")[0].decode("latin-1")
        closing = ((b"connection", b"close"),) if _has_body(scope) else ()
        is_content = path.startswith(_CONTENT)
        refusal = _refusal(scope, path)

        async def respond(to: Send) -> None:
            async def send_secured(message: Message) -> None:
                if message["type"] == "http.response.start":
                    headers = _secured_headers(message.get("headers", []), is_content=is_content)
                    message = {**message, "headers": [*headers, *closing]}
                await to(message)

            await (refusal or self.app)({**scope, "path": path}, receive, send_secured)

        # a file depends on further headers of the request, and may be large
        is_cached = not (refusal or closing or is_content)
        key = cache_key(scope, self._site.reader.revision) if is_cached else None
        await self._cache.send_response(key, send, respond)


def _refusal(scope: Scope, path: str) -> Response | None:
    """Return the response to a request that is refused, or to a preflight request of a browser."""
    method = scope["method"]
    if not path.startswith("/") and method in ("GET", "HEAD"):
        return PlainTextResponse("The request target must be a path.\n", 400)
    if not _HOST_HEADER.fullmatch(dict(scope["headers"]).get(b"host", b"")):
        return PlainTextResponse(
            "The Host header must be a host name or address, with a port or without.\n", 400
        )
    if method == "OPTIONS" and path.startswith(("/api/", *_CONTENT)):
        is_content = path.startswith(_CONTENT)
        return Response("", 204, PREFLIGHT_HEADERS if is_content else _API_PREFLIGHT_HEADERS)
    if method not in ("GET", "HEAD"):
        return PlainTextResponse(
            "This site is read-only: only GET and HEAD are allowed.\n",
            405,
            {"allow": PREFLIGHT_HEADERS["allow"]},
        )
    return None


def _secured_headers(given: Iterable[Any], *, is_content: bool) -> list[Any]:
    """Return headers with those of :data:`_SECURITY_HEADERS`; content keeps its sandbox."""
    given = [(name.lower(), value) for name, value in given]
    is_sandboxed = is_content and _SANDBOX in given
    kept = [one for one in given if one[0] not in _SECURITY_HEADER_NAMES]
    if is_content:
        names = {name for name, _ in _GATEWAY_HEADERS}
        kept = [*(one for one in kept if one[0] not in names), *_GATEWAY_HEADERS]
        if all(name != b"cache-control" for name, _ in kept):
            kept.append((b"cache-control", b"no-store"))  # an error
    if not is_sandboxed:
        return [*kept, *_SECURITY_HEADERS]
    return [*kept, _SANDBOX, *(header for header in _SECURITY_HEADERS if header[0] != _SANDBOX[0])]


def _has_body(scope: Scope) -> bool:
    """Return whether a request has a body.

    No body is read here. The connection is closed after the reply, so that no two programs can
    disagree about where the next request starts.
    """
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"0")
    return b"transfer-encoding" in headers or length.strip(b"0") != b""


# --- pages


class PageMiddleware:
    """Limits expensive requests, and stops work that nobody waits for."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope = {
            **scope,
            "headers": _with_one_coding(scope),
            # so that a response leaves it to this middleware to notice a disconnect
            "asgi": {**scope["asgi"], "spec_version": "2.4"},
        }
        is_content = scope["path"].startswith(_CONTENT)

        async def send_page(message: Message) -> None:
            headers = message.get("headers", ())
            if not is_content and _is_text(headers) and all(one[0] != b"vary" for one in headers):
                # also of a page that is too small to be compressed, and if it is unchanged
                message = {**message, "headers": [*headers, (b"vary", b"Accept-Encoding")]}
            await send(message)

        await run_while_connected(receive, self._limited(scope, receive, send_page))

    async def _limited(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond within the limits on expensive requests; refused ones get 429 or 503."""
        site: Site = scope["app"].state.site
        kind = request_kind(scope)
        if kind is None:
            await self.app(scope, receive, send)
            return
        client = client_key(scope)

        async def send_counted(message: Message) -> None:
            site.limiter.add_bytes(client, len(message.get("body", b"")))
            await send(message)

        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(site.limiter.admit(kind, client))
            except RequestLimitError as error:
                reply = problem_response(error.status, str(error))
                if not scope["path"].startswith(("/api/", "/at/")):
                    reply = PlainTextResponse(f"{error}\n", error.status)
                reply.headers["retry-after"] = str(error.retry_after)
                await reply(scope, receive, send)
                return
            await self.app(scope, receive, send_counted if kind == "gateway" else send)


def _with_one_coding(scope: Scope) -> list[tuple[bytes, bytes]]:
    """Return the headers of a request, whose Accept-Encoding is gzip or missing."""
    headers = [one for one in scope["headers"] if one[0] != b"accept-encoding"]
    return [*headers, (b"accept-encoding", b"gzip")] if accepts_gzip(scope) else headers


async def run_while_connected(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Run ``work`` until it finishes; cancel it if the client disconnects."""
    doing, gone = asyncio.ensure_future(work), asyncio.ensure_future(_wait_for_disconnect(receive))
    try:
        await asyncio.wait((doing, gone), return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            doing.cancel()
        with suppress(asyncio.CancelledError):
            await doing
    finally:
        doing.cancel()
        gone.cancel()


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


# --- cached responses

_TEXT = re.compile(rb"text/|image/svg\+xml|application/(?:[a-z.]+\+)?(?:json|xml|javascript)")
"""Types that are cached."""
_MAX_AGE = 5.0
_MAX_BYTES = 1 << 22
"""Maximum size of the cache, including overhead per entry."""
_ENTRY_OVERHEAD = 1 << 12

_UNCACHED_HEADERS: Final = frozenset(
    {b"if-none-match", b"if-modified-since", b"range", b"cookie", b"authorization"}
)
"""Headers of requests whose responses are not cached."""

_Respond = Callable[[Send], Awaitable[None]]
_Key = tuple[Any, ...]


class ResponseCache:
    """Keeps the responses of one site for a short time."""

    def __init__(self) -> None:
        self._responses: RecentResults[_Key, tuple[Message, bytes]] = RecentResults(
            _MAX_BYTES, lambda response: len(response[1]) + _ENTRY_OVERHEAD
        )
        self._in_progress: dict[_Key, asyncio.Event] = {}

    async def send_response(self, key: _Key | None, send: Send, respond: _Respond) -> None:
        """Send the cached response of a key, or produce, cache and send it.

        Without a key the cache is bypassed.
        """
        if key is None:
            await respond(send)
            return
        if key in self._in_progress:
            # many clients may request an expired entry at once
            await self._in_progress[key].wait()
        if cached := self._responses.get(key):
            await send(cached[0])
            await send({"type": "http.response.body", "body": cached[1]})
            return
        start: Message | None = None

        async def sending(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                is_kept = message["status"] == 200 and _is_text(message["headers"])
                start = message if is_kept else None
            elif start is not None and not message.get("more_body", False):
                self._responses.put(key, (start, message.get("body", b"")), _MAX_AGE)
            else:
                start = None
            if start is None or message["type"] != "http.response.start":
                # waiting requests must not depend on a client that reads slowly
                making.set()
                self._in_progress.pop(key, None)
            await send(message)

        making = self._in_progress.setdefault(key, asyncio.Event())
        try:
            await respond(sending)
        finally:
            making.set()
            if self._in_progress.get(key) is making:
                del self._in_progress[key]


def cache_key(scope: Scope, index_revision: object) -> _Key | None:
    """Return the key of a request's response in the cache; None if it must not be cached.

    It contains everything that the response depends on, also the host, because pages contain their
    own URL.

    Parameters
    ----------
    scope
        The request.
    index_revision
        A value that changes with the index.
    """
    headers: dict[bytes, bytes] = dict(scope["headers"])
    if not _UNCACHED_HEADERS.isdisjoint(headers):
        return None
    named = headers.get(b"host"), scope["scheme"], accepts_gzip(scope)
    return (scope.get("raw_path", scope["path"]), scope["query_string"], *named, index_revision)


def accepts_gzip(scope: Scope) -> bool:
    """Return whether the client accepts gzip (RFC 9110, section 12.5.3)."""
    for name, value in scope["headers"]:
        if name == b"accept-encoding":
            for one in value.lower().split(b","):
                coding, _, weight = one.partition(b";")
                if coding.strip() in (b"gzip", b"x-gzip"):
                    return not re.fullmatch(rb"\s*q\s*=\s*0(\.0*)?\s*", weight)
    return False


def _is_text(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether the headers of a response are those of text."""
    return any(name == b"content-type" and _TEXT.match(value) for name, value in headers)
