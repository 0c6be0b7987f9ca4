"""Replies that are given again for a moment: to many who come at once, and to those who reload.

Each is kept for some seconds, and only as long as the index stays as it is; what the store itself
tells beside the index is so at most as old. All that is kept together is bounded.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from neuromirror.web.server.compression import accepts_gzip, is_text
from neuromirror.web.server.http_files import Message, Send

_MAX_AGE = 5.0
_MAX_BYTES = 1 << 22
"""Bytes, with those that each takes beside its body."""
_ENTRY_OVERHEAD = 1 << 12

_Respond = Callable[[Send], Awaitable[None]]
_Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class _CachedResponse:
    start: Message
    body: bytes
    until: float


class ResponseCache:
    """The replies of one site; ``now`` tells the time in seconds."""

    def __init__(
        self, now: Callable[[], float] = time.monotonic, max_bytes: int = _MAX_BYTES
    ) -> None:
        self._now, self._max_bytes = now, max_bytes
        self._responses: OrderedDict[_Key, _CachedResponse] = OrderedDict()
        self._in_progress: dict[_Key, asyncio.Event] = {}
        self.bytes = 0

    async def send_response(self, key: _Key | None, send: Send, respond: _Respond) -> None:
        """Sends the reply that is kept under a key, or else what is asked for, and keeps it.

        Nothing is kept without a key.
        """
        if key is None:
            await respond(send)
            return
        if key in self._in_progress:
            # many may come at once for what has just grown old
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
                start = message if message["status"] == 200 and is_text(message) else None
            elif start is not None and not message.get("more_body", False):
                self._keep(key, start, message.get("body", b""))
            else:
                start = None
            if start is None or message["type"] != "http.response.start":
                # nobody waits for a client that reads slowly
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


def cache_key(scope: Mapping[str, Any], index_revision: object) -> _Key | None:
    """What a reply depends on, ``state`` among it; None for one that must be made for this request.

    The host is in it, since pages tell the address that they were asked at.
    """
    headers: dict[bytes, bytes] = dict(scope["headers"])
    if b"if-none-match" in headers or b"cookie" in headers or b"authorization" in headers:
        return None
    named = headers.get(b"host"), scope["scheme"], accepts_gzip(scope)
    return (scope.get("raw_path", scope["path"]), scope["query_string"], *named, index_revision)
