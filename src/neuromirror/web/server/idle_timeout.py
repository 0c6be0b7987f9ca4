"""Connections on which nothing moves are closed, so that they keep nobody else out."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, ClassVar, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_REQUEST_TIMEOUT = 20.0
"""Seconds that the head of a request may take."""
_READ_TIMEOUT = 60.0
"""Seconds in which some of a reply must be read: a quarter of a megabyte of a large one."""
_MAX_IDLE_CONNECTIONS: Final = 250
"""Connections that may wait for a request at a time; beyond them the oldest is closed."""


class IdleTimeoutProtocol(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it; but it does not wait for ever for the rest of a request.

    Nor for somebody who has asked to read on.
    """

    request_timeout, read_timeout, max_idle = _REQUEST_TIMEOUT, _READ_TIMEOUT, _MAX_IDLE_CONNECTIONS
    _idle_connections: ClassVar[dict[IdleTimeoutProtocol, None]] = {}

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._request_timer: asyncio.TimerHandle | None = None
        self._read_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Somebody is there; their request is to follow soon."""
        super().connection_made(transport)
        held = transport.get_extra_info("socket")
        if held is not None and held.family in (socket.AF_INET, socket.AF_INET6):
            # else the end of a small reply waits 40 ms for the other side to have seen its head
            held.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._start_request_timer()

    def data_received(self, data: bytes) -> None:
        """Some of a request, or all of it; nothing here takes a body, so that it counts, too."""
        super().data_received(data)
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._stop_request_timer()
        elif self._request_timer is None:
            self._start_request_timer()

    def on_response_complete(self) -> None:
        """The reply is written; the next request may have begun."""
        super().on_response_complete()
        # what began to come meanwhile is a request that was sent ahead
        begun = self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]
        if begun and self._request_timer is None:
            self._start_request_timer()

    def pause_writing(self) -> None:
        """Much of a reply is not read yet."""
        super().pause_writing()
        self._read_timer = self.loop.call_later(self.read_timeout, self._abort)

    def resume_writing(self) -> None:
        """Most of it was read."""
        super().resume_writing()
        self._read_timer = _cancel_timer(self._read_timer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is there any more."""
        self._stop_request_timer()
        self._read_timer = _cancel_timer(self._read_timer)
        super().connection_lost(exc)

    def _start_request_timer(self) -> None:
        self._request_timer = self.loop.call_later(self.request_timeout, self._abort)
        waiting = self._idle_connections
        waiting[self] = None
        if len(waiting) > self.max_idle:
            # whoever asks at once is answered, however many others say nothing
            next(iter(waiting))._abort()

    def _stop_request_timer(self) -> None:
        self._request_timer = _cancel_timer(self._request_timer)
        self._idle_connections.pop(self, None)

    def _abort(self) -> None:
        self._stop_request_timer()
        # what is still to be written is not waited for
        self.transport.abort()


def _cancel_timer(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    if timer is not None:
        timer.cancel()
    return None
