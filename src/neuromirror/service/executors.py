"""Executors for jobs: threads of the service, worker processes, or a Dask cluster.

Each is a context manager that yields an executor for ``submit(run_job, context, job)``, whose jobs
send their requests to ``writer``. On exit, pending jobs are cancelled, and running ones are killed
after ``grace`` seconds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from neuromirror.model import ConfigurationError
from neuromirror.service.dask_cluster import DaskExecutor, SchedulerUnavailableError
from neuromirror.service.jobs import JobContext, WorkerLostError
from neuromirror.service.worker_pool import (
    JobTimeoutError,
    WorkerPool,
    find_job,
    run_call,
)
from neuromirror.service.writer import Writer
from neuromirror.store import Store

__all__ = [
    "GRACE_SECONDS",
    "JOB_MEMORY",
    "JOB_SECONDS",
    "JobTimeoutError",
    "SchedulerUnavailableError",
    "WorkerLostError",
    "dask_executor",
    "job_context",
    "process_executor",
    "thread_executor",
]

_T = TypeVar("_T")

JOB_SECONDS = 24 * 3600.0
"""Default time limit of a job."""

JOB_MEMORY = 4 << 30
"""Default memory limit of a job in bytes."""

GRACE_SECONDS = 20.0
"""Default time that running jobs have to finish when a service stops."""


class _ThreadExecutor(Executor):
    """A thread pool that calls ``run`` for each job; it can be left while jobs are running.

    ``run`` receives the job's channel to the writer, which is closed before the result is set.
    """

    def __init__(self, workers: int, writer: Writer, run: Callable[..., Any]) -> None:
        self._writer = writer
        self._run = run
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="job")
        self._lock = threading.Lock()
        self._jobs: set[Future[Any]] = set()

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]:
        """See :meth:`concurrent.futures.Executor.submit`."""
        job: Future[_T] = self._pool.submit(self._call, fn, *args, **kwargs)
        with self._lock:
            self._jobs.add(job)
        job.add_done_callback(self._forget)
        return job

    def _call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with closing(self._writer.open(find_job(args))) as channel:
            return self._run(channel, function, *args, **kwargs)

    def _forget(self, job: Future[Any]) -> None:
        with self._lock:
            self._jobs.discard(job)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See :meth:`concurrent.futures.Executor.shutdown`."""
        self._pool.shutdown(wait, cancel_futures=cancel_futures)

    def leave(self, grace: float) -> None:
        """Cancel pending jobs, and wait up to ``grace`` seconds for running ones."""
        self.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            left = list(self._jobs)
        wait(left, grace)


@contextmanager
def thread_executor(
    workers: int, writer: Writer, grace: float = GRACE_SECONDS
) -> Iterator[Executor]:
    """Provide an executor that runs up to ``workers`` jobs in threads of this process.

    A job that hangs cannot be killed and delays the exit of Python. At the end of the block running
    jobs have ``grace`` seconds to finish.
    """
    pool = _ThreadExecutor(workers, writer, run_call)
    try:
        yield pool
    finally:
        pool.leave(grace)


@contextmanager
def process_executor(
    workers: int, writer: Writer, seconds: float, memory: int, grace: float = GRACE_SECONDS
) -> Iterator[Executor]:
    """Provide an executor that runs jobs in worker processes, with limits per job.

    The limits are ``seconds`` and ``memory`` bytes, enforced as described at
    :class:`~neuromirror.service.worker_pool.WorkerPool`. At the end of the block running jobs have
    ``grace`` seconds to finish.
    """
    worker_pool = WorkerPool(workers, seconds, memory)
    pool = _ThreadExecutor(workers, writer, worker_pool.run)
    try:
        yield pool
    finally:
        pool.leave(grace)
        worker_pool.close()
        pool.shutdown()


@contextmanager
def dask_executor(
    address: str,
    writer: Writer,
    seconds: float = JOB_SECONDS,
    memory: int = JOB_MEMORY,
    grace: float = GRACE_SECONDS,
) -> Iterator[Executor]:
    """Provide an executor for the workers of a Dask scheduler, such as ``tcp://HOST:8786``.

    See :class:`~neuromirror.service.dask_cluster.DaskExecutor`.

    Parameters
    ----------
    address
        The address of the scheduler.
    writer
        The service's writer, which applies the requests of the jobs.
    seconds, memory
        Limits per job, in seconds and bytes.
    grace
        Seconds for which running jobs may continue at the end of the block.

    Raises
    ------
    SchedulerUnavailableError
        If the scheduler cannot be reached.
    ConfigurationError
        If Dask is not installed, or the cluster has another release of neuromirror.
    """
    cluster = DaskExecutor(address, writer, seconds, memory)
    try:
        yield cluster
    finally:
        cluster.leave(grace)


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
