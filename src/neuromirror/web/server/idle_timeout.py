"""Timeouts for idle connections, so that they cannot exhaust the server."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, ClassVar, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_REQUEST_TIMEOUT = 20.0
"""Seconds that a client may take to send the head of a request."""
_READ_TIMEOUT = 60.0
"""Seconds in which the client must read from the send buffer (about 256 kB)."""
_MAX_IDLE_CONNECTIONS: Final = 250
"""Maximum number of connections without a request; beyond it the oldest is closed."""


class IdleTimeoutProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol with timeouts for slow requests and slow readers."""

    request_timeout, read_timeout, max_idle = _REQUEST_TIMEOUT, _READ_TIMEOUT, _MAX_IDLE_CONNECTIONS
    _idle_connections: ClassVar[dict[IdleTimeoutProtocol, None]] = {}

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._request_timer: asyncio.TimerHandle | None = None
        self._read_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timeout of the first request."""
        super().connection_made(transport)
        held = transport.get_extra_info("socket")
        if held is not None and held.family in (socket.AF_INET, socket.AF_INET6):
            # otherwise Nagle's algorithm delays the end of a small response by 40 ms
            held.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._start_request_timer()

    def data_received(self, data: bytes) -> None:
        """Stop the timeout when the request is complete, including an ignored body."""
        super().data_received(data)
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._stop_request_timer()
        elif self._request_timer is None:
            self._start_request_timer()

    def on_response_complete(self) -> None:
        """Start the timeout of a pipelined request, if there is one."""
        super().on_response_complete()
        # buffered data is the start of a pipelined request
        begun = self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]
        if begun and self._request_timer is None:
            self._start_request_timer()

    def pause_writing(self) -> None:
        """Start the read timeout: the send buffer is full."""
        super().pause_writing()
        self._read_timer = self.loop.call_later(self.read_timeout, self._abort)

    def resume_writing(self) -> None:
        """Stop the read timeout."""
        super().resume_writing()
        self._read_timer = _cancel_timer(self._read_timer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers."""
        self._stop_request_timer()
        self._read_timer = _cancel_timer(self._read_timer)
        super().connection_lost(exc)

    def _start_request_timer(self) -> None:
        self._request_timer = self.loop.call_later(self.request_timeout, self._abort)
        waiting = self._idle_connections
        waiting[self] = None
        if len(waiting) > self.max_idle:
            # prompt clients are served, however many others are silent
            next(iter(waiting))._abort()

    def _stop_request_timer(self) -> None:
        self._request_timer = _cancel_timer(self._request_timer)
        self._idle_connections.pop(self, None)

    def _abort(self) -> None:
        self._stop_request_timer()
        # discard unsent data
        self.transport.abort()


def _cancel_timer(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    if timer is not None:
        timer.cancel()
    return None
