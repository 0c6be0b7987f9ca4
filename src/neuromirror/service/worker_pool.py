"""A pool of worker processes with a time limit and a memory limit per job.

A worker runs the jobs that arrive on a pipe, one at a time. The pipe is a socket pair that only the
process and the pool that started it have. A frame is a byte and its content: the pool sends calls
(pickled) and replies of the writer, the process sends requests to the writer, and the result of
each call (pickled) as its last frame. A worker is a separate program, because a process with
threads must not fork, and the leader of a session, so that its jobs' processes can be killed with
it. It exits as soon as the service is gone.

Pebble's pool was rejected: its workers share a pipe and its locks, so that killing one at the wrong
moment blocks the others for a minute; and on a timeout it kills the worker only, not the git
processes that the worker started.
"""

from __future__ import annotations

import json
import os
import pickle
import queue
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from neuromirror.model import NeuromirrorError
from neuromirror.service.jobs import Job, WorkerLostError
from neuromirror.service.writer import Channel, WriterLostError, job_channel

# --- the program of a worker

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
        """See :class:`~neuromirror.service.writer.Channel`."""
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


# --- the pool


_MEMORY_INTERVAL = 0.1
"""Seconds between two checks of a worker's memory."""

_KILL_TIMEOUT = 5.0
"""Seconds to wait for a killed process to exit."""

_START_TIMEOUT = 60.0
"""Seconds that a worker may take to start."""

_STOPPED_MESSAGE = "was stopped with the service; the next one runs the job again"

_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from neuromirror.service.worker_pool import serve; serve(int(sys.argv[1]))"
)
"""Workers use the module search path of this process."""


class JobTimeoutError(NeuromirrorError):
    """A job exceeded its time limit and was killed with all its processes."""


def find_job(arguments: tuple[Any, ...]) -> Job | None:
    """Return the :class:`Job` among the arguments of a function; None if no argument is a job."""
    return next((argument for argument in arguments if isinstance(argument, Job)), None)


def job_label(function: Callable[..., Any], arguments: tuple[Any, ...]) -> str:
    """Return the name of a call for messages: that of its job, otherwise of its function."""
    job = find_job(arguments)
    if job is not None:
        return f"{job.lease.name} ({job.kind})"
    return getattr(function, "__name__", "a job")


class WorkerPool:
    """A pool of at most ``workers`` processes; each job may take ``seconds`` and ``memory`` bytes.

    A process starts when a job finds no idle one, so that a service with little to do has few.
    The memory limit is enforced on Linux only: the private memory of a worker (without mapped
    files) is checked several times per second, and the kernel enforces a slightly higher limit for
    each process. A worker that still holds more than half of the limit after a job is replaced.
    """

    def __init__(self, workers: int, seconds: float, memory: int) -> None:
        self._slots = [_Slot(seconds, memory) for _ in range(workers)]
        # the slot that was used last, whose process has started, is the first to be used again
        self._idle: queue.LifoQueue[_Slot] = queue.LifoQueue()
        for slot in self._slots:
            self._idle.put(slot)

    def run(
        self, channel: Channel, function: Callable[..., _T], /, *args: Any, **kwargs: Any
    ) -> _T:
        """Call a function in the next free worker and return its result; thread-safe.

        Requests to the writer go to ``channel``. Function, arguments and result must be picklable.
        Raises the function's exception, WorkerLostError, JobTimeoutError or WriterLostError.
        """
        slot = self._idle.get()
        try:
            done: _T = slot.run((function, args, kwargs), job_label(function, args), channel)
        finally:
            self._idle.put(slot)
        return done

    def close(self) -> None:
        """Kill all workers and the processes that they started."""
        for slot in self._slots:
            slot.close()


class _Slot:
    """A slot of the pool: fixed limits, and a process from the first job on, replaced if lost."""

    def __init__(self, seconds: float, memory: int) -> None:
        self._seconds = seconds
        self._memory = memory
        self._lock = threading.Lock()
        self._closed = False
        self._process: _Process | None = None

    def run(self, call: Call, what: str, channel: Channel) -> Any:
        try:
            request = pickle.dumps(call)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise NeuromirrorError(f"{what} cannot be given to a worker: {error}") from error
        process = self._submit(request, what)
        try:
            succeeded, result = self._wait(process, what, channel)
        except (EOFError, OSError) as error:
            raise WorkerLostError(self._lost_message(what, self._kill(process))) from error
        except BaseException:
            self._kill(process)
            raise
        if process.memory() > self._memory / 2 or isinstance(result, MemoryError):
            self._kill(process)
        if succeeded:
            return result
        raise self._memory_error(what) if isinstance(result, MemoryError) else result

    def _submit(self, request: bytes, what: str) -> _Process:
        """Send a job to the process; start it first, or replace it if it died while idle."""
        if self._process is None:
            self._replace_process()
        for _ in range(2):
            process = self._process
            if process is None:  # the pool was closed
                break
            with suppress(EOFError, OSError):
                if process.is_ready():
                    process.connection.send_bytes(CALL + request)
                    return process
            self._kill(process)
        if self._closed:
            raise WorkerLostError(f"{what}: {_STOPPED_MESSAGE}")
        raise WorkerLostError(
            f"{what}: worker processes exit immediately; see their output for the reason"
        )

    def _wait(self, process: _Process, what: str, channel: Channel) -> tuple[bool, Any]:
        """Pass requests to the channel until the process sends its result."""
        until = time.monotonic() + self._seconds
        while True:
            if process.connection.poll(_MEMORY_INTERVAL):
                frame = process.connection.recv_bytes()
                if frame[:1] == RESULT:
                    answer: tuple[bool, Any] = pickle.loads(frame[1:])
                    return answer
                process.connection.send_bytes(REPLY + channel.request(frame[1:]))
            if time.monotonic() > until:
                raise JobTimeoutError(
                    f"{what}: not finished after {self._seconds:g} s, and was killed; it is "
                    "retried later. If upstream is merely slow, raise --visit-hours"
                )
            if process.memory() > self._memory:
                raise self._memory_error(what)

    def _memory_error(self, what: str) -> WorkerLostError:
        return WorkerLostError(
            f"{what}: used more than {self._memory / (1 << 20):,.0f} MiB of memory, the limit of a "
            "job, and was killed; if the dataset is that large, raise --worker-memory"
        )

    def _lost_message(self, what: str, code: int) -> str:
        if self._closed:
            return f"{what}: {_STOPPED_MESSAGE}"
        if code >= 0:
            return f"{what}: the worker process exited with code {code}; the job is retried"
        more = ""
        if -code == signal.SIGKILL:
            more = "; probably the machine ran out of memory: see the kernel's log"
        name = signal.Signals(-code).name
        return f"{what}: the worker process was killed ({name}){more}. The job is retried"

    def _kill(self, process: _Process) -> int:
        """Kill the process and start another one; return its exit status."""
        exit_status = process.kill()
        self._replace_process()
        return exit_status

    def _replace_process(self) -> None:
        with self._lock:
            self._process = None if self._closed else _Process(self._memory)

    def close(self) -> None:
        """Kill the process."""
        with self._lock:
            self._closed = True
            process = self._process
        if process is not None:
            process.kill()


class _Process:
    """A worker process and its socket; it starts in the background."""

    def __init__(self, memory: int) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            number = theirs.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(number), json.dumps(sys.path)],
                stdin=subprocess.DEVNULL,
                pass_fds=[number],
                start_new_session=True,
            )
        self.connection = Connection(ours.detach())
        self._has_started = False
        self._kill_lock = threading.Lock()
        with suppress(OSError):  # a dead process is noticed when it gets a job
            self.connection.send(memory)

    def is_ready(self) -> bool:
        """Whether the process is ready; raises EOFError or OSError if it has exited."""
        if not self._has_started and self.connection.poll(_START_TIMEOUT):
            self.connection.recv()
            self._has_started = True
        return self._has_started

    def memory(self) -> int:
        """Return the private memory in bytes; 0 if the system does not report it."""
        try:
            pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()
        except OSError:
            return 0
        return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE")

    def kill(self) -> int:
        """Kill the process and its children; return its exit status."""
        with self._kill_lock:
            if self._process.returncode is None:
                # before wait(): until then its process id cannot be reused
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                with suppress(
                    subprocess.TimeoutExpired
                ):  # a process blocked on a disk does not die
                    return self._process.wait(_KILL_TIMEOUT)
        code: int | None = self._process.returncode
        return -signal.SIGKILL if code is None else code
