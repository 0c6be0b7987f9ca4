"""What of a service is on a Dask worker: a crew of processes, and the way to it.

A job is done beside the Dask worker and not in it: so it has limits of time and memory there as
well, it ends when the service leaves, and the worker can always tell its scheduler that it lives.
"""

from __future__ import annotations

import pickle
import socket
from collections.abc import Callable
from typing import Any

from distributed import Event, Worker, WorkerPlugin, get_worker

from neuromirror import __version__
from neuromirror.model import ConfigurationError, NeuromirrorError
from neuromirror.service.jobs import JobContext
from neuromirror.service.worker_pool import WorkerLostError, WorkerPool, job_label
from neuromirror.store import NotAStoreError, Store, StoreBusyError

CLUSTER_LOCK = "cluster"
"""The lock of a store that is held while a service has workers elsewhere."""


class PickledCall:
    """A call as Dask sees it: it logs the arguments of what fails, and one of them is a key.

    ``ticket`` is a name of Dask's that is set when a worker begins with it.
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

    def run_in(self, pool: WorkerPool) -> Any:
        """What the call gives."""
        function, args, kwargs = pickle.loads(self._pickled)
        for one in args:
            if isinstance(one, JobContext):
                _check_shared(one)
        return pool.run(function, *args, **kwargs)


def _check_shared(context: JobContext) -> None:
    """Raises ConfigurationError where the service's lock of the store is not seen."""
    try:
        with Store.open(context.store).lock(CLUSTER_LOCK, "the store"):
            why = "or the locks of its file system do not reach from one machine to another"
    except StoreBusyError:
        return
    except NotAStoreError as error:
        why = str(error)
    raise ConfigurationError(
        f"on {socket.gethostname()}, {context.store} is not the folder that the service has there "
        f"({why}); share the store's folder with the machines of all Dask workers, see "
        "docs/cluster.md"
    )


class WorkerPoolPlugin(WorkerPlugin):
    """A crew on every Dask worker: a process for each of its threads."""

    def __init__(self, seconds: float, memory: int) -> None:
        self._seconds = seconds
        self._memory = memory
        self.pool: WorkerPool | None = None

    def setup(self, worker: Worker) -> None:
        """Dask's, when a worker comes."""
        self.pool = WorkerPool(worker.state.nthreads, self._seconds, self._memory)

    def teardown(self, worker: Worker) -> None:
        """Dask's, when a worker or the service goes."""
        if self.pool is not None:
            self.pool.close()


def worker_lost_error(label: str, worker: str) -> WorkerLostError:
    """What those are told who wait for a job of a Dask worker that died."""
    return WorkerLostError(
        f"{label}: the Dask worker {worker} died; its log says why (most often it had no memory "
        "left). It is done again"
    )


def run_on_worker(version: str, plugin: str, call: PickledCall) -> Any:
    """A job, on the worker; raises ConfigurationError where that has another release.

    Dask gives to others what a worker had that is gone, for all that Dask knows. That one may work
    on under the same lease: so this is refused, and tried again under another by the service.
    """
    if version != __version__:
        raise ConfigurationError(
            f"a Dask worker has neuromirror {__version__}, and the service {version}; install "
            "the same release everywhere"
        )
    found = get_worker().plugins.get(plugin)
    if not isinstance(found, WorkerPoolPlugin) or found.pool is None:
        raise WorkerLostError(f"{call.label}: the service that gave this job to Dask is gone")
    untyped: Any = Event
    begun = untyped(call.ticket)
    if begun.is_set():
        raise worker_lost_error(call.label, "that had begun it")
    begun.set()
    return call.run_in(found.pool)
