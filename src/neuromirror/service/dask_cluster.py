"""Jobs on a Dask cluster whose workers share the store's folder.

Jobs are pickled by reference, so that scheduler and workers need the same release of neuromirror.
Their requests to the writer, and its replies, go through Dask's queues. The result is a report,
never file content.
"""

from __future__ import annotations

import logging
import pickle
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from neuromirror import __version__
from neuromirror.model import ConfigurationError, NeuromirrorError
from neuromirror.service.executors import JOB_MEMORY, JOB_SECONDS
from neuromirror.service.jobs import JobContext, WorkerLostError
from neuromirror.service.logs import log_event
from neuromirror.service.worker_pool import find_job
from neuromirror.service.writer import JobWriter, Writer
from neuromirror.store import Store

if TYPE_CHECKING:
    from neuromirror.service.dask_worker import PickledCall


# --- requests of jobs

_REQUEST_THREADS = 8
"""Requests that are applied at once."""

_POLL_SECONDS = 5.0
"""Seconds for which the scheduler waits for a request, and between two signs of work on one."""

_RETRY_SECONDS = 1.0

_LOST = (OSError, CancelledError, RuntimeError, KeyError, ValueError, AttributeError)
"""Errors of a queue whose scheduler is gone, or whose client is closed and has no scheduler."""


RESULT = 0
"""The number of the message with a job's result; those of requests follow."""


class DaskJob:
    """A job on a Dask worker: ``ours`` is its future; its requests go to ``writer``.

    The job sends its result as the last of its messages. Dask would request it from the worker
    later, and wait for one that is dead or frozen; meanwhile no other job's result would arrive.
    ``ticket`` is the name of the queue for replies to the job.
    """

    def __init__(
        self, listener: RequestListener, ticket: str, writer: JobWriter, ours: Future[Any]
    ) -> None:
        self._listener = listener
        self._ticket = ticket
        self._writer = writer
        self._queue = listener.queue(ticket)
        self.ours = ours
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

    def finish(self, outcome: Callable[[], Any]) -> None:
        """Set the future to what ``outcome`` returns or raises, once no request is in progress."""
        if not self.close() or not self.ours.set_running_or_notify_cancel():
            return
        try:
            self.ours.set_result(outcome())
        except Exception as error:  # noqa: BLE001 - that of the job
            self.ours.set_exception(error)

    def close(self) -> bool:
        """Refuse further requests, wait for the one in progress, and release the queue.

        Return whether the job was still open.
        """
        was_open = self._listener.forget(self._ticket)
        self._writer.close()
        with suppress(*_LOST):
            self._queue.close()
        return was_open


class RequestListener:
    """Reads the messages of all jobs of a Dask client from a queue of the scheduler.

    ``name`` is the name of the queue. Each message is passed to its :class:`DaskJob`, in ``pool``.
    """

    def __init__(self, client: Any, name: str, pool: ThreadPoolExecutor) -> None:
        self._client = client
        self._jobs: dict[str, DaskJob] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._name = name
        self._requests = self.queue(name)
        self._pool = pool
        self._thread = threading.Thread(target=self._listen, name="dask requests", daemon=True)
        self._thread.start()

    def queue(self, name: str) -> Any:
        """Return a queue of the scheduler, created if necessary."""
        import distributed

        untyped: Any = distributed.Queue
        return untyped(name, self._client)

    def open(self, ticket: str, writer: JobWriter, ours: Future[Any]) -> DaskJob:
        """Accept the messages of a job; the caller closes the result."""
        job = DaskJob(self, ticket, writer, ours)
        with self._lock:
            self._jobs[ticket] = job
        return job

    def forget(self, ticket: str) -> bool:
        """Ignore further messages of a job; return whether they were accepted until now."""
        with self._lock:
            return self._jobs.pop(ticket, None) is not None

    def submit(self, function: Callable[..., None], *args: Any) -> None:
        """Call a function in another thread; not after the executor was left."""
        with suppress(RuntimeError):
            self._pool.submit(function, *args)

    def close(self) -> None:
        """Read no more messages; the client is closed, or is closed next."""
        self._closed.set()
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
        """Process a message in another thread; only log one that has no sender."""
        try:
            ticket, number, message = msgspec.convert(request, tuple[str, int, bytes])
        except msgspec.ValidationError as error:
            log_event("request refused", f"malformed: {error}", level=logging.ERROR)
            return
        with self._lock:
            job = self._jobs.get(ticket)
        if job is not None and number == RESULT:
            self.submit(job.finish, partial(pickle.loads, message))
        elif job is not None:
            job.number = number
            self.submit(job.answer, number, message)

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


# --- the executor

_T = TypeVar("_T")

SCHEDULER_TIMEOUT = 10.0
"""Seconds that the scheduler may take to respond."""


class SchedulerUnavailableError(NeuromirrorError):
    """The Dask scheduler cannot be reached."""


class DaskExecutor(Executor):
    """Runs jobs on the workers of a Dask scheduler; reconnects if the connection is lost.

    ``address`` is that of the scheduler, such as ``tcp://HOST:8786``. Jobs have the limits
    ``seconds`` and ``memory`` of a :class:`~neuromirror.service.worker_pool.WorkerPool` and raise
    the same errors. If a Dask worker dies, its job fails with WorkerLostError, and Dask does not
    rerun it elsewhere. The executor holds a lock in the store; a worker that does not see the lock
    has another folder or local file locks, and refuses the job.

    Raises
    ------
    SchedulerUnavailableError
        If the scheduler cannot be reached.
    ConfigurationError
        If Dask is not installed, or the cluster has another release of neuromirror.
    """

    def __init__(
        self, address: str, writer: Writer, seconds: float = JOB_SECONDS, memory: int = JOB_MEMORY
    ) -> None:
        self._writer = writer
        self._lock = threading.Lock()
        self._jobs: set[Future[Any]] = set()
        self._address = address
        self._limits = (seconds, memory)
        self._plugin = f"neuromirror-{secrets.token_hex(6)}"
        self._closed = False
        self._locked_stores: set[Path] = set()
        self._store_locks = ExitStack()
        self._pool = ThreadPoolExecutor(_REQUEST_THREADS, thread_name_prefix="dask request")
        self._client, self._listener = self._connect()

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]:
        """See :meth:`concurrent.futures.Executor.submit`; raises SchedulerUnavailableError."""
        from neuromirror.service.dask_worker import CLUSTER_LOCK, PickledCall, run_on_worker

        ours: Future[_T] = Future()
        call = PickledCall(f"{self._plugin}-{secrets.token_hex(8)}", fn, args, kwargs)
        with self._lock:
            if self._closed:
                raise RuntimeError("the executor is closed")
            if self._client.status in ("closed", "closing"):
                self._listener.close()
                self._client, self._listener = self._connect()
            for one in args:
                if isinstance(one, JobContext) and one.store not in self._locked_stores:
                    lock = Store(one.store).lock(CLUSTER_LOCK, "the store", wait=SCHEDULER_TIMEOUT)
                    self._store_locks.enter_context(lock)
                    self._locked_stores.add(one.store)
            job = self._listener.open(call.ticket, self._writer.open(find_job(args)), ours)
            try:
                theirs = self._client.submit(
                    run_on_worker, __version__, self._plugin, call, pure=False, retries=0
                )
            except BaseException:
                job.close()
                raise
            self._jobs.add(ours)
            end = partial(self._listener.submit, self._end, job, call)
        ours.add_done_callback(partial(self._release, theirs))
        theirs.add_done_callback(end)
        return ours

    def _end(self, job: DaskJob, call: PickledCall, theirs: Any) -> None:
        """Process the end of a call on a worker; if it succeeded, its result is in the queue."""
        import distributed

        if theirs.status != "finished":
            job.finish(partial(_raise_failure, theirs, call.label, self._address))
        untyped: Any = distributed.Event
        with suppress(*_LOST):
            untyped(call.ticket, theirs.client).clear()

    def _release(self, theirs: Any, ours: Future[Any]) -> None:
        with self._lock:
            self._jobs.discard(ours)
        if ours.cancelled():
            # without waiting for the scheduler: a service that stops cancels all its jobs
            theirs.client.loop.add_callback(theirs.client._cancel, [theirs])

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = True) -> None:
        """Cancel and kill all unfinished jobs."""
        with self._lock:
            self._closed = True
            left = list(self._jobs)
        for job in left:
            job.cancel()
        if self._client.status == "running":
            # if the scheduler dies now, its workers stop too; a frozen worker does not respond
            with suppress(OSError, RuntimeError, ValueError):
                self._client.sync(
                    self._client.scheduler.unregister_worker_plugin,
                    name=self._plugin,
                    callback_timeout=SCHEDULER_TIMEOUT,
                )
        self._listener.close()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()
        self._store_locks.close()

    def _connect(self) -> tuple[Any, RequestListener]:
        """Return a client and a listener; start a worker pool on each worker."""
        try:
            import distributed

            from neuromirror.service.dask_worker import WorkerPoolPlugin
        except ImportError as error:
            raise ConfigurationError(
                "work on a Dask cluster needs the extra 'cluster': pip install "
                "'neuromirror[cluster]'"
            ) from error
        untyped: Any = distributed.Client
        try:
            if not self._address.strip():  # Dask would start a cluster on this machine
                raise ValueError("it is empty")
            client = untyped(self._address, timeout=SCHEDULER_TIMEOUT, set_as_default=False)
        except ValueError as error:
            raise ConfigurationError(
                f"'{self._address}' is not the address of a Dask scheduler: {error}; it is like "
                "tcp://HOST:8786"
            ) from error
        except OSError as error:
            raise SchedulerUnavailableError(
                f"no Dask scheduler responds at {self._address}: {error}; start one ('dask "
                f"scheduler'), or use another address"
            ) from error
        try:
            _check_releases(client.get_versions(packages=["neuromirror"]))
            client.register_plugin(WorkerPoolPlugin(*self._limits), name=self._plugin)
            return client, RequestListener(client, self._plugin, self._pool)
        except BaseException:
            client.close()
            raise


def _check_releases(versions: dict[str, Any]) -> None:
    others = {"the scheduler": versions["scheduler"]}
    others |= {f"the worker {address}": one for address, one in versions["workers"].items()}
    for where, about in others.items():
        release = about["packages"].get("neuromirror")
        if release != __version__:
            raise ConfigurationError(
                f"on the Dask cluster, {where} has {release or 'no release'} of neuromirror, "
                f"but the service has {__version__}; install the same release everywhere, for the "
                "scheduler too"
            )


def _raise_failure(theirs: Any, what: str, address: str) -> None:
    """Raise the error of a call that failed on the cluster."""
    from distributed.scheduler import KilledWorker

    from neuromirror.service.dask_worker import worker_lost_error

    try:
        theirs.result()
    except KilledWorker as error:
        worker = str(getattr(error.last_worker, "address", error.last_worker))
        raise worker_lost_error(what, worker) from error
    except CancelledError as error:
        raise WorkerLostError(
            f"{what}: the Dask scheduler at {address} lost the job, probably in a restart. It is "
            "retried"
        ) from error
