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

from neuromirror.web.server.giving import Message, Send
from neuromirror.web.server.packing import accepts_gzip, is_text

_SECONDS = 5.0
_ALL = 1 << 22
"""Bytes, with those that each takes beside its body."""
_EACH = 1 << 12

_Ask = Callable[[Send], Awaitable[None]]
_Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class _Reply:
    start: Message
    body: bytes
    until: float


class Kept:
    """The replies of one site; ``now`` tells the time in seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic, most: int = _ALL) -> None:
        self._now, self._most = now, most
        self._replies: OrderedDict[_Key, _Reply] = OrderedDict()
        self._making: dict[_Key, asyncio.Event] = {}
        self.bytes = 0

    async def give(self, key: _Key | None, send: Send, ask: _Ask) -> None:
        """Sends the reply that is kept under a key, or else what is asked for, and keeps it.

        Nothing is kept without a key.
        """
        if key is None:
            await ask(send)
            return
        if key in self._making:
            # many may come at once for what has just grown old
            await self._making[key].wait()
        found = self._replies.get(key)
        if found is not None and self._now() < found.until:
            self._replies.move_to_end(key)
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
                self._making.pop(key, None)
            await send(message)

        making = self._making.setdefault(key, asyncio.Event())
        try:
            await ask(sending)
        finally:
            making.set()
            if self._making.get(key) is making:
                del self._making[key]

    def _keep(self, key: _Key, start: Message, body: bytes) -> None:
        self._drop(key)
        self._replies[key] = _Reply(start, body, self._now() + _SECONDS)
        self.bytes += len(body) + _EACH
        while self.bytes > self._most:
            self._drop(next(iter(self._replies)))

    def _drop(self, key: _Key) -> None:
        found = self._replies.pop(key, None)
        if found is not None:
            self.bytes -= len(found.body) + _EACH


def key_of(scope: Mapping[str, Any], state: object) -> _Key | None:
    """What a reply depends on, ``state`` among it; None for one that must be made for this request.

    The host is in it, since pages tell the address that they were asked at.
    """
    told: dict[bytes, bytes] = dict(scope["headers"])
    if b"if-none-match" in told or b"cookie" in told or b"authorization" in told:
        return None
    named = told.get(b"host"), scope["scheme"], accepts_gzip(scope)
    return (scope.get("raw_path", scope["path"]), scope["query_string"], *named, state)
