"""A short-lived cache of responses, for concurrent clients and reloads.

Entries live for a few seconds, and only while the index is unchanged; data that comes from the
store instead may be outdated by as much. The total size is bounded.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from msgspec import Struct
from starlette.types import Message, Scope, Send

_TEXT = re.compile(rb"text/|image/svg\+xml|application/(?:[a-z.]+\+)?(?:json|xml|javascript)")
"""Types that are cached."""
_MAX_AGE = 5.0
_MAX_BYTES = 1 << 22
"""Maximum size of the cache, including overhead per entry."""
_ENTRY_OVERHEAD = 1 << 12

_Respond = Callable[[Send], Awaitable[None]]
_Key = tuple[Any, ...]


class _CachedResponse(Struct, frozen=True):
    start: Message
    body: bytes
    until: float


class ResponseCache:
    """Keeps the responses of one site for a short time; ``now`` returns the time in seconds."""

    def __init__(
        self, now: Callable[[], float] = time.monotonic, max_bytes: int = _MAX_BYTES
    ) -> None:
        self._now, self._max_bytes = now, max_bytes
        self._responses: OrderedDict[_Key, _CachedResponse] = OrderedDict()
        self._in_progress: dict[_Key, asyncio.Event] = {}
        self.bytes = 0

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
        found = self._responses.get(key)
        if found is not None and self._now() < found.until:
            self._responses.move_to_end(key)
            await send(found.start)
            await send({"type": "http.response.body", "body": found.body})
            return
        start: Message | None = None

        async def sending(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message if message["status"] == 200 and _is_text(message) else None
            elif start is not None and not message.get("more_body", False):
                self._keep(key, start, message.get("body", b""))
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

    def _keep(self, key: _Key, start: Message, body: bytes) -> None:
        self._drop(key)
        self._responses[key] = _CachedResponse(start, body, self._now() + _MAX_AGE)
        self.bytes += len(body) + _ENTRY_OVERHEAD
        while self.bytes > self._max_bytes:
            self._drop(next(iter(self._responses)))

    def _drop(self, key: _Key) -> None:
        found = self._responses.pop(key, None)
        if found is not None:
            self.bytes -= len(found.body) + _ENTRY_OVERHEAD


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
    if b"if-none-match" in headers or b"cookie" in headers or b"authorization" in headers:
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


def _is_text(start: Message) -> bool:
    """Return whether the headers in an ASGI start message are those of a text response."""
    return any(name == b"content-type" and _TEXT.match(value) for name, value in start["headers"])
