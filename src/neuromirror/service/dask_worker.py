"""The part of a service that runs on Dask workers: a pool of processes for the jobs.

Jobs run in processes beside the Dask worker, not in it: they get time and memory limits, stop when
the service disconnects, and never block the worker's heartbeat to the scheduler.
"""

from __future__ import annotations

import pickle
import socket
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import closing
from typing import Any

from distributed import Event, Queue, Worker, WorkerPlugin, get_worker

from neuromirror import __version__
from neuromirror.model import ConfigurationError, NeuromirrorError
from neuromirror.service.dask_cluster import RESULT
from neuromirror.service.jobs import JobContext, WorkerLostError
from neuromirror.service.worker_pool import WorkerPool, job_label
from neuromirror.service.writer import Channel, WriterLostError
from neuromirror.store import NotAStoreError, Store, StoreBusyError

CLUSTER_LOCK = "cluster"
"""Name of the store lock that a service with remote workers holds."""


REPLY_TIMEOUT = 60.0
"""Seconds without a reply, or a sign that one is being prepared, after which a service is gone."""


class PickledCall:
    """A pickled call, so that Dask does not log its arguments if it fails.

    ``ticket`` is the name of two Dask objects: an event that is set when a worker starts the call,
    and a queue with the writer's replies.
    """

    def __init__(
        self,
        ticket: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self.ticket = ticket
        self.label = job_label(function, args)
        try:
            self._pickled = pickle.dumps((function, args, kwargs))
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise NeuromirrorError(f"{self.label} cannot be given to a worker: {error}") from error

    def run_in(self, pool: WorkerPool, channel: Channel) -> Any:
        """Run the call in a pool and return its result."""
        function, args, kwargs = pickle.loads(self._pickled)
        for one in args:
            if isinstance(one, JobContext):
                _check_shared(one)
        return pool.run(channel, function, *args, **kwargs)


def _check_shared(context: JobContext) -> None:
    """Raise ConfigurationError if the service's lock is not visible in the store."""
    try:
        with Store.open(context.store).lock(CLUSTER_LOCK, "the store"):
            why = "or its file system does not share locks between machines"
    except StoreBusyError:
        return
    except NotAStoreError as error:
        why = str(error)
    raise ConfigurationError(
        f"on {socket.gethostname()}, {context.store} is not the folder that the service has there "
        f"({why}); share the store's folder with the machines of all Dask workers, see "
        "docs/operate.md"
    )


class DaskChannel:
    """The channel of a job on a Dask worker.

    It has a queue for the requests of all jobs, and one for the replies to this job.

    A request is (ticket of the job, number, message). A reply is (number, message), where an empty
    message means that the service is working on it. Replies to other requests are discarded.
    """

    def __init__(self, requests: Any, replies: Any, ticket: str) -> None:
        self._requests = requests
        self._replies = replies
        self._ticket = ticket
        self._number = 0
        self._lock = threading.Lock()

    def request(self, message: bytes) -> bytes:
        """See :class:`~neuromirror.service.writer.Channel`."""
        with self._lock:
            self._number += 1
            try:
                self._requests.put((self._ticket, self._number, message))
                while True:
                    number, reply = self._replies.get(timeout=REPLY_TIMEOUT)
                    if number == self._number and reply:
                        return bytes(reply)
            except (TimeoutError, OSError, CancelledError, KeyError) as error:
                raise WriterLostError(
                    "the service exited during a visit; the next one repeats it"
                ) from error

    def send_result(self, result: Any) -> None:
        """Send the result of the job, which ends it."""
        self._requests.put((self._ticket, RESULT, pickle.dumps(result)))

    def close(self) -> None:
        """Release the queues."""
        for one in (self._requests, self._replies):
            one.close()


class WorkerPoolPlugin(WorkerPlugin):
    """Starts a worker pool on every Dask worker, with one process per thread; a plug-in of Dask.

    Jobs have the limits ``seconds`` and ``memory`` of a
    :class:`~neuromirror.service.worker_pool.WorkerPool`.
    """

    def __init__(self, seconds: float, memory: int) -> None:
        self._seconds = seconds
        self._memory = memory
        self.pool: WorkerPool | None = None

    def setup(self, worker: Worker) -> None:
        """Start the pool; called by Dask when a worker joins."""
        self.pool = WorkerPool(worker.state.nthreads, self._seconds, self._memory)

    def teardown(self, worker: Worker) -> None:
        """Stop the pool; called by Dask when the worker or the service leaves."""
        if self.pool is not None:
            self.pool.close()


def worker_lost_error(label: str, worker: str) -> WorkerLostError:
    """Return the error for a job whose Dask worker died.

    ``label`` is the name of the job, ``worker`` names the worker in the message.
    """
    return WorkerLostError(
        f"{label}: the Dask worker {worker} died; see its log (usually it ran out of "
        "memory). The job is retried"
    )


def run_on_worker(version: str, plugin: str, call: PickledCall) -> None:
    """Run a job on a Dask worker; raises ConfigurationError if it has another release.

    Dask reruns the jobs of a worker that it considers dead. That worker may still be running under
    the same lease, so a rerun is refused, and the service retries with a new lease.

    Parameters
    ----------
    version
        The release of the service.
    plugin
        The name of the service's plug-in on the workers, and of its queue for requests.
    call
        The job.
    """
    if version != __version__:
        raise ConfigurationError(
            f"a Dask worker has neuromirror {__version__}, but the service {version}; install "
            "the same release everywhere"
        )
    found = get_worker().plugins.get(plugin)
    if not isinstance(found, WorkerPoolPlugin) or found.pool is None:
        raise WorkerLostError(f"{call.label}: the service that submitted this job is gone")
    untyped: Any = Event
    begun = untyped(call.ticket)
    if begun.is_set():
        raise worker_lost_error(call.label, "that had started it")
    begun.set()
    untyped = Queue
    with closing(DaskChannel(untyped(plugin), untyped(call.ticket), call.ticket)) as channel:
        channel.send_result(call.run_in(found.pool, channel))
