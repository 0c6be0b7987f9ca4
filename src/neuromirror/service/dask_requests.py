"""The service's end of the queues through which jobs on Dask workers talk to the writer."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import msgspec

from neuromirror.service.logs import log_event
from neuromirror.service.writer import JobWriter

_THREADS = 8
"""Requests that are applied at once."""

_POLL_SECONDS = 5.0
"""Seconds for which the scheduler waits for a request, and between two signs of work on one."""

_RETRY_SECONDS = 1.0

_LOST = (TimeoutError, OSError, CancelledError, RuntimeError, KeyError, ValueError)
"""Errors of a queue whose scheduler is gone, or whose client is closed."""


class JobReplies:
    """The connection between the writer and one job on a Dask worker.

    It applies the job's requests and sends the replies. ``ticket`` is the name of the job's queue
    for replies.
    """

    def __init__(self, listener: RequestListener, ticket: str, writer: JobWriter) -> None:
        self._listener = listener
        self._ticket = ticket
        self._writer = writer
        self._queue = listener.queue(ticket)
        self.number = 0
        """The request in progress, or 0."""

    def answer(self, number: int, message: bytes) -> None:
        """Apply a request and send the reply."""
        reply = self._writer.request(message)
        self.number = 0
        self.send(number, reply)

    def send(self, number: int, reply: bytes) -> None:
        """Send a reply; an empty one means that the request is in progress."""
        with suppress(*_LOST):
            self._queue.put((number, reply))

    def close(self) -> None:
        """Refuse further requests, wait for the one in progress, and release the queue."""
        self._listener.forget(self._ticket)
        self._writer.close()
        with suppress(*_LOST):
            self._queue.close()


class RequestListener:
    """Reads the requests of all jobs of a Dask client from a queue of the scheduler.

    ``name`` is the name of the queue. A thread passes each request to the :class:`JobReplies` of
    its job.
    """

    def __init__(self, client: Any, name: str) -> None:
        self._client = client
        self._jobs: dict[str, JobReplies] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._name = name
        self._requests = self.queue(name)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="dask request")
        self._thread = threading.Thread(target=self._listen, name="dask requests", daemon=True)
        self._thread.start()

    def queue(self, name: str) -> Any:
        """Return a queue of the scheduler, created if necessary."""
        import distributed

        untyped: Any = distributed.Queue
        return untyped(name, self._client)

    def open(self, ticket: str, writer: JobWriter) -> JobReplies:
        """Accept the requests of a job; the caller closes the result."""
        replies = JobReplies(self, ticket, writer)
        with self._lock:
            self._jobs[ticket] = replies
        return replies

    def forget(self, ticket: str) -> None:
        """Ignore further requests of a job."""
        with self._lock:
            self._jobs.pop(ticket, None)

    def close(self) -> None:
        """Stop without waiting for requests in progress; the client is closed next."""
        self._closed.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        with suppress(*_LOST):
            self._requests.close()

    def _listen(self) -> None:
        signalled = time.monotonic()
        while not self._closed.is_set():
            try:
                request = self._requests.get(timeout=_POLL_SECONDS)
            except TimeoutError:
                pass
            except _LOST:
                if self._client.status in ("closing", "closed"):
                    return
                self._reconnect()
            else:
                self._accept(request)
            if time.monotonic() - signalled >= _POLL_SECONDS:
                signalled = time.monotonic()
                self._signal()

    def _accept(self, request: object) -> None:
        """Apply a request in another thread; only log one that has no sender."""
        try:
            ticket, number, message = msgspec.convert(request, tuple[str, int, bytes])
        except msgspec.ValidationError as error:
            log_event("request refused", f"malformed: {error}", level=logging.ERROR)
            return
        with self._lock:
            job = self._jobs.get(ticket)
        if job is not None:
            job.number = number
            with suppress(RuntimeError):  # closed
                self._pool.submit(job.answer, number, message)

    def _reconnect(self) -> None:
        """Create the queue again: a scheduler that was restarted does not have it."""
        self._closed.wait(_RETRY_SECONDS)
        with suppress(*_LOST):
            self._requests = self.queue(self._name)

    def _signal(self) -> None:
        """Send an empty reply, which means "in progress", to each job that waits for a reply."""
        with self._lock:
            pending = [(one, one.number) for one in self._jobs.values() if one.number]
        for job, number in pending:
            job.send(number, b"")
