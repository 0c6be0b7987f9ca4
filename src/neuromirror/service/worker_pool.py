"""Jobs in worker processes, each with a time limit and a memory limit.

Pebble's pool was looked at and left: its workers share one pipe and the locks around it, so that
one killed at the wrong moment stops the others for a minute; and of a worker that is over its time
only the process itself is ended, not the git processes that it started.
"""

from __future__ import annotations

import json
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from neuromirror.model import NeuromirrorError
from neuromirror.service.jobs import Job
from neuromirror.service.worker import Call

_T = TypeVar("_T")

_MEMORY_INTERVAL = 0.1
"""Seconds between two looks at a worker's memory."""

_KILL_TIMEOUT = 5.0
"""Seconds that a killed process is waited for."""

_START_TIMEOUT = 60.0
"""Seconds in which a worker must be ready for its first job."""

_STOPPED_MESSAGE = "was ended with the service; the next one does it again"

_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from neuromirror.service.worker import serve; serve(int(sys.argv[1]))"
)
"""The worker imports what this process can, from the same places."""


class WorkerLostError(NeuromirrorError):
    """The process that did a job is gone; what it had published is whole, and it is done again."""


class JobTimeoutError(NeuromirrorError):
    """A job was over its time, and was ended with all that it had started."""


def job_label(function: Callable[..., Any], arguments: tuple[Any, ...]) -> str:
    """What a job is called where people are told of it."""
    for one in arguments:
        if isinstance(one, Job):
            return f"{one.lease.name} ({one.kind})"
    return getattr(function, "__name__", "a job")


class WorkerPool:
    """``workers`` processes, which a job may keep ``seconds``, with ``memory`` bytes.

    The limit of memory holds on Linux alone: for what a worker has of its own (files that it maps
    do not count), looked at several times a second, and for each process somewhat above it, where
    the kernel refuses more. That of time holds everywhere. A worker that a job has left with more
    than half of the memory is replaced.
    """

    def __init__(self, workers: int, seconds: float, memory: int) -> None:
        self._slots = [_Slot(seconds, memory) for _ in range(workers)]
        self._idle: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        for slot in self._slots:
            self._idle.put(slot)

    def run(self, function: Callable[..., _T], /, *args: Any, **kwargs: Any) -> _T:
        """What a function gives in the next worker that is free; all must bear to be pickled.

        Raises what it raises, and WorkerLostError and JobTimeoutError. To be called from many
        threads.
        """
        slot = self._idle.get()
        try:
            done: _T = slot.run((function, args, kwargs), job_label(function, args))
        finally:
            self._idle.put(slot)
        return done

    def close(self) -> None:
        """Ends the workers, and all that they started, whatever they do."""
        for slot in self._slots:
            slot.close()


class _Slot:
    """The place of one worker: always the same limits, another process where one is lost."""

    def __init__(self, seconds: float, memory: int) -> None:
        self._seconds = seconds
        self._memory = memory
        self._lock = threading.Lock()
        self._closed = False
        self._process: _Process | None = _Process(memory)

    def run(self, call: Call, what: str) -> Any:
        try:
            request = pickle.dumps(call)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise NeuromirrorError(f"{what} cannot be given to a worker: {error}") from error
        process = self._submit(request, what)
        try:
            succeeded, result = self._wait(process, what)
        except (EOFError, OSError) as error:
            exit_status = process.kill()
            self._replace_process()
            raise WorkerLostError(self._lost_message(what, exit_status)) from error
        except NeuromirrorError:
            process.kill()
            self._replace_process()
            raise
        if process.memory() > self._memory / 2 or isinstance(result, MemoryError):
            process.kill()
            self._replace_process()
        if succeeded:
            return result
        raise self._memory_error(what) if isinstance(result, MemoryError) else result

    def _submit(self, request: bytes, what: str) -> _Process:
        """A process that was given the job; one that died while it had none is replaced."""
        for _ in range(2):
            process = self._process
            if process is not None:
                with suppress(EOFError, OSError):
                    if process.is_ready():
                        process.connection.send_bytes(request)
                        return process
                process.kill()
            self._replace_process()
        if self._closed:
            raise WorkerLostError(f"{what}: {_STOPPED_MESSAGE}")
        raise WorkerLostError(f"{what}: no worker process stays alive; what it printed says why")

    def _wait(self, process: _Process, what: str) -> tuple[bool, Any]:
        until = time.monotonic() + self._seconds
        while not process.connection.poll(_MEMORY_INTERVAL):
            if time.monotonic() > until:
                raise JobTimeoutError(
                    f"{what}: not done after {self._seconds:g} s, and was ended; it is tried "
                    "again later. If upstream is only slow, allow more by --visit-hours"
                )
            if process.memory() > self._memory:
                raise self._memory_error(what)
        answer: tuple[bool, Any] = process.connection.recv()
        return answer

    def _memory_error(self, what: str) -> WorkerLostError:
        return WorkerLostError(
            f"{what}: took more than the {self._memory / (1 << 20):,.0f} MiB of memory that a job "
            "may have, and was ended; if the dataset is that large, allow more by --worker-memory"
        )

    def _lost_message(self, what: str, code: int) -> str:
        if self._closed:
            return f"{what}: {_STOPPED_MESSAGE}"
        if code >= 0:
            return f"{what}: the worker process ended (exit code {code}); it is done again"
        more = ""
        if -code == signal.SIGKILL:
            more = "; if nobody did that, the machine had no memory left: see the kernel's log"
        name = signal.Signals(-code).name
        return f"{what}: the worker process was killed ({name}){more}. It is done again"

    def _replace_process(self) -> None:
        with self._lock:
            self._process = None if self._closed else _Process(self._memory)

    def close(self) -> None:
        """Ends the process, whatever it does."""
        with self._lock:
            self._closed = True
            process = self._process
        if process is not None:
            process.kill()


class _Process:
    """A worker process and the socket to it; it starts in the background."""

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
        with suppress(OSError):  # one that is dead already is seen when it gets a job
            self.connection.send(memory)

    def is_ready(self) -> bool:
        """Whether it has started; raises EOFError or OSError where it ended instead."""
        if not self._has_started and self.connection.poll(_START_TIMEOUT):
            self.connection.recv()
            self._has_started = True
        return self._has_started

    def memory(self) -> int:
        """Bytes that it has of its own; 0 where that is not told."""
        try:
            pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()
        except OSError:
            return 0
        return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE")

    def kill(self) -> int:
        """Kills it with all that it has started; gives what a shell would call its status."""
        with self._kill_lock:
            if self._process.returncode is None:
                # before it is waited for: until then nobody else can get its number
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                with suppress(subprocess.TimeoutExpired):  # a disk that hangs lets nobody die
                    return self._process.wait(_KILL_TIMEOUT)
        code: int | None = self._process.returncode
        return -signal.SIGKILL if code is None else code
