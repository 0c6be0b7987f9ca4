"""A pool of Datasette processes that serve the pages below ``/index``.

A visitor's SQL statement runs in one of these processes, which has a memory limit and is killed
after a timeout; their number is small. Requests and responses go through a socket.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuromirror.model import NeuromirrorError
from neuromirror.web.server.child_processes import ChildProcess, Reply

MAX_CONCURRENT = 2
"""Maximum number of concurrent requests."""
TIMEOUT_SECONDS = 15.0
"""Time limit of a request."""
_ABANDONED_SECONDS = 1.0
"""Time that a request may continue after its client has disconnected."""
_MODULE = "neuromirror.web.server.datasette_process"
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TZ")
"""Environment variables that the processes inherit: no tokens or passwords."""


class DatasetteBusyError(NeuromirrorError):
    """A request was refused, because the maximum number of requests for tables is in progress."""


class DatasetteProcessError(NeuromirrorError):
    """The Datasette process that served a request exited without a response."""


class DatasetteTimeoutError(NeuromirrorError):
    """A Datasette process took too long to respond, and was stopped."""


class DatasettePool:
    """The Datasette processes of one site, which are started on demand; for one event loop.

    ``store`` and ``index_path`` are paths, ``title`` and ``address`` those of the site; ``sql`` is
    whether visitors may write SQL statements. ``idle`` are the processes without a request, and
    ``busy`` is the number of requests in progress.
    """

    def __init__(self, store: Path, index_path: Path, *, title: str, address: str, sql: bool):
        self._process_options = {
            "store": str(store.absolute()),
            "index": str(index_path.absolute()),
            "title": title,
            "address": address,
            "sql": sql,
        }
        self.idle: list[ChildProcess] = []
        self.busy = 0

    async def respond(self, scope: Mapping[str, Any]) -> Reply:
        """Return Datasette's reply to a request.

        Raises DatasetteBusyError, DatasetteTimeoutError or DatasetteProcessError. If cancelled, the
        process gets another moment to finish, because a new one takes longer to start than most
        requests take, and is then killed.
        """
        if self.busy >= MAX_CONCURRENT:
            raise DatasetteBusyError(f"{MAX_CONCURRENT} requests for tables are in progress")
        self.busy += 1
        host = [one for one in scope["headers"] if one[0] == b"host"]
        replying = asyncio.ensure_future(self._respond({**scope, "headers": host}))
        replying.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            return await asyncio.shield(replying)
        except asyncio.CancelledError:
            asyncio.get_running_loop().call_later(_ABANDONED_SECONDS, replying.cancel)
            raise

    async def _respond(self, scope: Mapping[str, Any]) -> Reply:
        process, is_reusable = self.idle.pop() if self.idle else self._start(), False
        try:
            reply = await process.request(scope, TIMEOUT_SECONDS)
            is_reusable = not reply.is_last
            return reply
        except TimeoutError:
            raise DatasetteTimeoutError(
                f"the response took more than {TIMEOUT_SECONDS:g} s"
            ) from None
        except EOFError:
            raise DatasetteProcessError("a Datasette process died") from None
        finally:
            if is_reusable:
                self.idle.append(process)
            else:
                process.stop()
                await process.ended()
            self.busy -= 1

    def _start(self) -> ChildProcess:
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        return ChildProcess(_MODULE, self._process_options, environment)

    def close(self) -> None:
        """Stop the idle processes."""
        for process in self.idle:
            process.close()
        self.idle.clear()
