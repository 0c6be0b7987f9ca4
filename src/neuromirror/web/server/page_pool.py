"""A pool of processes that make pages, so that pages use several processors.

Python runs one thread at a time, so that one process makes pages on one processor only.
Connections, limits per client, cached responses, the gateway, previews and cutouts stay in the
catalogue's own process; it passes requests for pages that are made of the index and the store alone
to these processes, several at a time, over one socket each.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from neuromirror.model import NeuromirrorError, environment_without_secrets
from neuromirror.web.server.child_processes import ChildProcess, Reply
from neuromirror.web.server.http_files import Send

MAX_PROCESSES: Final = 4
"""Default maximum number of processes."""
_TIMEOUT_SECONDS: Final = 90.0
"""Time limit of a page; queries have shorter limits of their own."""
_RESTART_SECONDS: Final = 10.0
"""Minimum time between two starts of a process."""
_MODULE: Final = "neuromirror.web.server.page_process"


class PageProcessError(NeuromirrorError):
    """The process that made a page exited, or took too long."""


def default_processes() -> int:
    """Return the number of processors that this process may use, at most :data:`MAX_PROCESSES`."""
    return min(_processors(), MAX_PROCESSES)


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):  # macOS lacks it
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class PagePool:
    """The processes of one site that make pages; for one event loop.

    They are started once two pages are requested at the same time: until then, the catalogue's own
    process makes pages, and needs less memory.

    Parameters
    ----------
    count
        The number of processes.
    options
        Their options: see :func:`neuromirror.web.server.page_process.main`.

    Attributes
    ----------
    exits
        The number of processes that exited unexpectedly or were stopped because they hung, as
        ``pages exited``.
    """

    def __init__(self, count: int, options: Mapping[str, Any]) -> None:
        self._options = options
        self.exits: Counter[str] = Counter()
        self._processes: list[ChildProcess | None] = [None] * count
        self._in_progress = 0

    async def respond(
        self, scope: Mapping[str, Any], send: Send, make: Callable[[], Awaitable[None]]
    ) -> None:
        """Send the response to a request from a process; without one, ``make`` sends it.

        Raises
        ------
        PageProcessError
            The process exited before it replied, or took too long.
        """
        self._in_progress += 1
        try:
            if self._in_progress > 1:
                self._start_missing()
            process = self._least_busy()
            if process is None:
                await make()
                return
            reply = await self._request(process, scope)
        finally:
            self._in_progress -= 1
        start = {"type": "http.response.start", "status": reply.status, "headers": reply.headers}
        await send(start)
        await send({"type": "http.response.body", "body": reply.body})

    async def _request(self, process: ChildProcess, scope: Mapping[str, Any]) -> Reply:
        started = time.monotonic()
        try:
            return await process.request(scope, _TIMEOUT_SECONDS)
        except TimeoutError:
            if process.replied_at <= started and process.is_running:
                process.stop()  # queries stop earlier: the process hangs
                self._count_exit()
            raise PageProcessError(f"a page took more than {_TIMEOUT_SECONDS:g} s") from None
        except EOFError:
            raise PageProcessError("the process that made a page exited") from None

    def _count_exit(self) -> None:
        self.exits["pages exited"] += 1

    def _start_missing(self) -> None:
        for position, process in enumerate(self._processes):
            if process is None or (
                not process.is_running and time.monotonic() - process.started_at > _RESTART_SECONDS
            ):
                self._processes[position] = ChildProcess(
                    _MODULE, self._options, environment_without_secrets(), self._count_exit
                )

    def _least_busy(self) -> ChildProcess | None:
        ready = [one for one in self._processes if one is not None and one.is_ready]
        return min(ready, key=lambda one: len(one.pending), default=None)

    def close(self) -> None:
        """Stop all processes."""
        for process in self._processes:
            if process is not None:
                process.close()
        self._processes = []
