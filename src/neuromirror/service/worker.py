"""What a worker process does: one job after another, for the process at the other end of a socket.

It is a program of its own, not a fork of a service that has threads, and is the first of its
session: with it go all programs that its jobs started. When the service is gone it ends at once.
"""

from __future__ import annotations

import os
import pickle
import queue
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from neuromirror.model import NeuromirrorError

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
"""A function, its arguments by place and by name."""

THREAD_STACK_BYTES = 1 << 29
"""Bytes that threads have for their stacks, and do not use; they count where the kernel counts."""

_OOM_SCORE = 500
"""Of 1000: the kernel, out of memory, takes a worker and not the service."""


def serve(number: int) -> None:
    """Takes the limit (bytes of memory), then jobs from the socket of this number; never ends.

    The first answer, None, says that it is ready. Each other is a pickled pair: whether it went
    well, and the result or the error.
    """
    # git's processes must not hold the socket open
    os.set_inheritable(number, False)
    # what the service prints is for programs
    os.dup2(2, 1)
    connection = Connection(number)
    calls: queue.SimpleQueue[Call] = queue.SimpleQueue()
    _limit(connection.recv())
    # what every job needs, before the first one comes
    import neuromirror.service.jobs  # noqa: F401

    connection.send(None)
    threading.Thread(target=_listen, args=(connection, calls), daemon=True).start()
    with ThreadPoolExecutor(1, thread_name_prefix="job") as pool:
        while True:
            function, arguments, named = calls.get()
            connection.send_bytes(_pickled_result(pool.submit(function, *arguments, **named)))


def _listen(connection: Connection, calls: queue.SimpleQueue[Call]) -> None:
    with suppress(EOFError, OSError):
        while True:
            calls.put(connection.recv())
    os.killpg(0, signal.SIGKILL)


def _limit(memory: int) -> None:
    """No process of a job gets much more; for all but Linux there is no such limit."""
    if sys.platform != "linux":
        return
    most = memory + THREAD_STACK_BYTES
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or hard > most:
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE))


def _pickled_result(done: Future[Any]) -> bytes:
    error = done.exception()
    try:
        if error is None:
            return pickle.dumps((True, done.result()))
        if not isinstance(error, NeuromirrorError):
            error.add_note("".join(traceback.format_exception(error)))
        content = pickle.dumps((False, error))
        # some errors can be packed and not unpacked
        pickle.loads(content)
    except (pickle.PicklingError, TypeError, AttributeError, ValueError) as other:
        content = pickle.dumps((False, NeuromirrorError(f"{error or 'no answer'} ({other})")))
    return content
