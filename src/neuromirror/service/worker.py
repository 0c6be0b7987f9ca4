"""The main program of a worker process: runs the jobs that arrive on a pipe, one at a time.

The pipe is a socket pair that only the process and the pool that started it have. A frame is a byte
and its content: the pool sends calls (pickled) and replies of the writer, the process sends
requests to the writer, and the result of each call (pickled) as its last frame.

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
from typing import Any, TypeVar

from neuromirror.model import NeuromirrorError
from neuromirror.service.writer_messages import Channel, WriterLostError, job_channel

_T = TypeVar("_T")

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
"""A function with positional and keyword arguments."""

CALL, REPLY, REQUEST, RESULT = b"c", b"r", b"q", b"="
"""The first byte of a frame."""

THREAD_STACK_BYTES = 1 << 29
"""Allowance for thread stacks, which the kernel counts although they are mostly unused."""

_OOM_SCORE = 500
"""Out of 1000: if memory runs out, the kernel kills a worker before the service."""


def serve(number: int) -> None:
    """Run the loop of a worker process: receive jobs from a pipe and send results; never returns.

    ``number`` is the file descriptor of the pipe. The first message is the memory limit in bytes;
    the first reply, None, means ready. A result is a pickled pair: whether the call succeeded, and
    its result or exception.
    """
    # git processes must not inherit the pipe
    os.set_inheritable(number, False)
    # the stdout of the service is for programs
    os.dup2(2, 1)
    connection = Connection(number)
    calls: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    replies: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    _limit(connection.recv())
    # import what every job needs before the first one arrives
    import neuromirror.service.jobs  # noqa: F401

    connection.send(None)
    frames = {CALL: calls, REPLY: replies}
    threading.Thread(target=_listen, args=(connection, frames), daemon=True).start()
    with ThreadPoolExecutor(1, thread_name_prefix="job") as pool:
        while True:
            call: Call = pickle.loads(calls.get())
            function, arguments, named = call
            channel = PipeChannel(connection, replies)
            result = _pickled_result(pool.submit(run_call, channel, function, *arguments, **named))
            channel.close()
            connection.send_bytes(RESULT + result)


def run_call(channel: Channel, function: Callable[..., _T], *args: Any, **kwargs: Any) -> _T:
    """Call a function in this thread; a job that it runs sends its requests through ``channel``."""
    token = job_channel.set(channel)
    try:
        return function(*args, **kwargs)
    finally:
        job_channel.reset(token)


class PipeChannel:
    """The channel of one job in a worker process, over the pipe to the service.

    It is closed before the next job uses the pipe. ``replies`` receives the writer's replies.
    """

    def __init__(self, connection: Connection, replies: queue.SimpleQueue[bytes]) -> None:
        self._connection = connection
        self._replies = replies
        self._lock = threading.Lock()
        self._closed = False

    def request(self, message: bytes) -> bytes:
        """See :class:`~neuromirror.service.writer_messages.Channel`."""
        with self._lock:
            if self._closed:
                raise WriterLostError("the job has ended; nothing more is written")
            self.send(message)
            return self.receive()

    def send(self, message: bytes) -> None:
        """Send a request; the caller receives its reply before it sends the next."""
        self._connection.send_bytes(REQUEST + message)

    def receive(self) -> bytes:
        """Return the next reply."""
        return self._replies.get()

    def close(self) -> None:
        """Refuse further requests, after the one in progress."""
        with self._lock:
            self._closed = True


def _listen(connection: Connection, frames: dict[bytes, queue.SimpleQueue[bytes]]) -> None:
    with suppress(EOFError, OSError):
        while True:
            frame = connection.recv_bytes()
            frames[frame[:1]].put(frame[1:])
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
