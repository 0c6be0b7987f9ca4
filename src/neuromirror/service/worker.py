"""The main program of a worker process: runs the jobs that arrive on a socket, one at a time.

It is a separate program, because a process with threads must not fork, and the leader of a session,
so that its jobs' processes can be killed with it. It exits as soon as the service is gone.
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
"""A function with positional and keyword arguments."""

THREAD_STACK_BYTES = 1 << 29
"""Allowance for thread stacks, which the kernel counts although they are mostly unused."""

_OOM_SCORE = 500
"""Out of 1000: if memory runs out, the kernel kills a worker before the service."""


def serve(number: int) -> None:
    """Receive the memory limit in bytes and then jobs from a socket; never returns.

    The first reply, None, means ready. Each further one is a pickled pair: whether the call
    succeeded, and its result or exception.
    """
    # git processes must not inherit the socket
    os.set_inheritable(number, False)
    # the stdout of the service is for programs
    os.dup2(2, 1)
    connection = Connection(number)
    calls: queue.SimpleQueue[Call] = queue.SimpleQueue()
    _limit(connection.recv())
    # import what every job needs before the first one arrives
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
    """Limit the memory of each process of a job; on Linux only."""
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
        # some exceptions can be pickled but not unpickled
        pickle.loads(content)
    except (pickle.PicklingError, TypeError, AttributeError, ValueError) as other:
        content = pickle.dumps((False, NeuromirrorError(f"{error or 'no answer'} ({other})")))
    return content
