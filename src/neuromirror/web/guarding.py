"""What stands around all replies: headers that keep browsers safe, and the store's own files."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from neuromirror.web.site import Site

_Message = MutableMapping[str, Any]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[Any, Any, _Send], Awaitable[None]]

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

_SERVED = re.compile(
    rb"/(?:ria-layout-version|alias/[^/]+/.+|[0-9a-f]{3}/[0-9a-f-]{33}/.+|manifests/[0-9a-f]{2}/.+"
    rb"|tombstones/[^/]+\.json)"
)
"""What anybody may have of a store: repositories, manifests; never the journal or the index."""

_OPEN = re.compile(rb"/-/static(?:-plugins)?/")
"""Pages of Datasette about itself tell paths of the machine: only its style sheets are given."""

_BLOCK = 1 << 18


def guarded(app: _App, site: Site) -> _App:
    """An application with the headers and the files around it."""

    async def asgi(scope: Any, receive: Any, send: _Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return

        async def guarding(message: _Message) -> None:
            if message["type"] == "http.response.start":
                names = {name.lower() for name, _ in _HEADERS}
                kept = [
                    (name, value)
                    for name, value in message.get("headers", [])
                    if name.lower() not in names
                ]
                message = {**message, "headers": [*kept, *_HEADERS]}
            await send(message)

        path = scope.get("raw_path", scope["path"].encode()).partition(b"?")[0]
        if scope["method"] not in ("GET", "HEAD"):
            await _say(
                guarding, 405, "Nothing can be changed here: only GET and HEAD are answered."
            )
        elif _SERVED.fullmatch(path):
            await _give(guarding, site, path, scope["method"] == "HEAD")
        elif path.startswith(b"/-/") and not _OPEN.match(path):
            await _say(guarding, 404, "There is no such page.")
        else:
            if path.startswith(b"/index"):
                site.reader.refresh()
            await app(scope, receive, guarding)

    return asgi


async def _give(send: _Send, site: Site, path: bytes, head: bool) -> None:
    """A file of the store; nothing outside of it, whatever a link or a name says."""
    try:
        named = unquote_to_bytes(path[1:]).decode()
        found = (site.store.root / named).resolve(strict=True)
        inside = found.relative_to(site.store.root.resolve())
    except (OSError, ValueError, RuntimeError):
        await _say(send, 404, "The store has no such file.")
        return
    if inside.parts[0] == "neuromirror" or not found.is_file():
        await _say(send, 404, "The store has no such file.")
        return
    await _send_file(send, site, found, head)


async def _send_file(send: _Send, site: Site, found: Path, head: bool) -> None:
    with found.open("rb") as file:
        headers = [
            (b"content-type", b"application/octet-stream"),
            (b"content-length", str(found.stat().st_size).encode()),
            (b"cache-control", b"no-cache"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while not head and (block := await site.reader.do(lambda: file.read(_BLOCK))):
            await send({"type": "http.response.body", "body": block, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _say(send: _Send, status: int, text: str) -> None:
    body = text.encode() + b"\n"
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
