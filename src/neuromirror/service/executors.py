"""Executors for jobs: threads of the service or worker processes; :mod:`.dask_cluster` has a third.

Each is a context manager with ``submit(run_job, context, job)``. On exit, pending jobs are
cancelled, and running ones have ``grace`` seconds before they are killed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from neuromirror.model import ConfigurationError
from neuromirror.service.jobs import JobContext
from neuromirror.service.worker_pool import WorkerPool, find_job, run_call
from neuromirror.service.writer import Writer
from neuromirror.store import Store

_T = TypeVar("_T")

JOB_SECONDS = 24 * 3600.0
"""Default time limit of a job."""

JOB_MEMORY = 4 << 30
"""Default memory limit of a job in bytes."""

GRACE_SECONDS = 20.0
"""Default time that running jobs have to finish when a service stops."""


class JobExecutor(Executor):
    """An executor of jobs, which send their requests to ``writer``."""

    def __init__(self, writer: Writer, grace: float) -> None:
        self._writer = writer
        self._grace = grace
        self._lock = threading.Lock()
        self._jobs: set[Future[Any]] = set()

    def __exit__(self, *_: object) -> None:
        self.leave(self._grace)

    def leave(self, grace: float) -> None:
        """Cancel pending jobs, and wait up to ``grace`` seconds for running ones."""
        raise NotImplementedError

    def _forget(self, job: Future[Any]) -> None:
        with self._lock:
            self._jobs.discard(job)


class ThreadExecutor(JobExecutor):
    """Runs up to ``workers`` jobs in threads of this process.

    A job that hangs cannot be killed and delays the exit of Python.
    """

    def __init__(self, workers: int, writer: Writer, grace: float = GRACE_SECONDS) -> None:
        super().__init__(writer, grace)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="job")
        self._run: Callable[..., Any] = run_call

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]:
        """See :meth:`concurrent.futures.Executor.submit`."""
        job: Future[_T] = self._pool.submit(self._call, fn, *args, **kwargs)
        with self._lock:
            self._jobs.add(job)
        job.add_done_callback(self._forget)
        return job

    def _call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        # closed before the result is set
        with closing(self._writer.open(find_job(args))) as channel:
            return self._run(channel, function, *args, **kwargs)

    def leave(self, grace: float) -> None:
        """See :meth:`JobExecutor.leave`."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            left = list(self._jobs)
        wait(left, grace)


class ProcessExecutor(ThreadExecutor):
    """Runs jobs in worker processes, with the limits ``seconds`` and ``memory`` bytes.

    They are enforced as described at :class:`~neuromirror.service.worker_pool.WorkerPool`.
    """

    def __init__(
        self,
        workers: int,
        writer: Writer,
        seconds: float,
        memory: int,
        grace: float = GRACE_SECONDS,
    ) -> None:
        super().__init__(workers, writer, grace)
        self._processes = WorkerPool(workers, seconds, memory)
        self._run = self._processes.run

    def leave(self, grace: float) -> None:
        """See :meth:`JobExecutor.leave`; kills the jobs that have not finished."""
        super().leave(grace)
        self._processes.close()
        self._pool.shutdown()


def job_context(store: Store, index: Path, private: Path | None, *, remote: bool) -> JobContext:
    """Return the paths that jobs need, for local workers or for those of other machines.

    Remote workers query the index through the writer, since SQLite files must not be read over a
    network. For the same reason they cannot use a private store: raises ConfigurationError if
    ``private`` is given for them.
    """
    if not remote:
        return JobContext(store.root, index, private)
    if private is not None:
        raise ConfigurationError(
            "workers on other machines cannot use a private store: its index must not be read "
            "over a network. Omit --scheduler or --private-store"
        )
    return JobContext(store.root, None, None)
