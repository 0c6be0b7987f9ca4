"""Where jobs are done: in threads of the service, in processes beside it, on a Dask cluster.

Each is a context that yields an executor, to which ``submit(do, place, job)`` is said. When it is
left, jobs that wait are cancelled, those that run have ``grace`` seconds, and then are ended.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from neuromirror.model import ConfigurationError
from neuromirror.service.dask_cluster import (
    SCHEDULER_TIMEOUT,
    DaskExecutor,
    SchedulerUnavailableError,
)
from neuromirror.service.jobs import JobContext
from neuromirror.service.worker_pool import JobTimeoutError, WorkerLostError, WorkerPool
from neuromirror.service.write_server import WriteServerAddress
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
    "write_server_host",
]

_T = TypeVar("_T")

JOB_SECONDS = 24 * 3600.0
"""A job's time where nothing else is said."""

JOB_MEMORY = 4 << 30
"""A job's bytes of memory where nothing else is said."""

GRACE_SECONDS = 20.0
"""Seconds in which jobs may come to their end when a service stops."""


class _ThreadExecutor(Executor):
    """Threads that do jobs by ``do``, and that can be left while they have some."""

    def __init__(self, workers: int, run: Callable[..., Any]) -> None:
        self._run = run
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="job")
        self._lock = threading.Lock()
        self._jobs: set[Future[Any]] = set()

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]:
        """See :meth:`concurrent.futures.Executor.submit`."""
        job: Future[_T] = self._pool.submit(self._run, fn, *args, **kwargs)
        with self._lock:
            self._jobs.add(job)
        job.add_done_callback(self._forget)
        return job

    def _forget(self, job: Future[Any]) -> None:
        with self._lock:
            self._jobs.discard(job)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See :meth:`concurrent.futures.Executor.shutdown`."""
        self._pool.shutdown(wait, cancel_futures=cancel_futures)

    def leave(self, grace: float) -> None:
        """Cancels the jobs that wait, and waits so many seconds for those that run."""
        self.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            left = list(self._jobs)
        wait(left, grace)


@contextmanager
def thread_executor(workers: int, grace: float = GRACE_SECONDS) -> Iterator[Executor]:
    """Jobs in this process; nothing ends one that hangs, and Python waits for it before it ends."""
    pool = _ThreadExecutor(workers, lambda function, *args, **kwargs: function(*args, **kwargs))
    try:
        yield pool
    finally:
        pool.leave(grace)


@contextmanager
def process_executor(
    workers: int, seconds: float, memory: int, grace: float = GRACE_SECONDS
) -> Iterator[Executor]:
    """Jobs in processes beside this one, each for ``seconds`` and with ``memory`` bytes.

    See :class:`~neuromirror.service.worker_pool.Crew` for what the limits are worth.
    """
    worker_pool = WorkerPool(workers, seconds, memory)
    pool = _ThreadExecutor(workers, worker_pool.run)
    try:
        yield pool
    finally:
        pool.leave(grace)
        worker_pool.close()
        pool.shutdown()


@contextmanager
def dask_executor(
    address: str,
    seconds: float = JOB_SECONDS,
    memory: int = JOB_MEMORY,
    grace: float = GRACE_SECONDS,
) -> Iterator[Executor]:
    """Jobs on the workers of a Dask scheduler, as ``tcp://HOST:8786``; limits as of processes.

    Raises SchedulerUnavailableError, and ConfigurationError where Dask is not installed, or other
    releases of
    neuromirror are. See :class:`~neuromirror.service.dask_cluster.DaskExecutor`.
    """
    cluster = DaskExecutor(address, seconds, memory)
    try:
        yield cluster
    finally:
        cluster.leave(grace)


def write_server_host(scheduler: str | None, host: str | None = None) -> str | None:
    """The address at which the desk is to listen: None where all workers are of this machine.

    By default that is the address by which this machine reaches the Dask scheduler; ``host`` is
    another one that the workers can reach. Raises SchedulerUnavailableError, and
    ConfigurationError for an
    address of a scheduler that is none.
    """
    if scheduler is None or host is not None:
        return host if scheduler is not None else None
    given = urlsplit(scheduler if "://" in scheduler else f"tcp://{scheduler}")
    try:
        name, port = given.hostname, given.port
    except ValueError:
        name = port = None
    if name is None or port is None:
        raise ConfigurationError(
            f"'{scheduler}' is not the address of a Dask scheduler; it is like tcp://HOST:8786"
        )
    try:
        # of IPv4, as the desk's connections are
        with socket.create_connection(
            (socket.gethostbyname(name), port), SCHEDULER_TIMEOUT
        ) as connection:
            return str(connection.getsockname()[0])
    except OSError as error:
        raise SchedulerUnavailableError(
            f"the Dask scheduler at {scheduler} cannot be reached: {error}; start it, or name "
            "another"
        ) from error


def job_context(
    store: Store, index: Path, private: Path | None, address: WriteServerAddress
) -> JobContext:
    """Where jobs are done, for workers of this machine or, by a desk that has a host, of others.

    These have no index: SQLite's files must not be read over a network, and the desk answers for
    it. Nor have they a private store, which has an index of its own: raises ConfigurationError.
    """
    if not isinstance(address.socket_address, tuple):
        return JobContext(store.root, index, private, address)
    if private is not None:
        raise ConfigurationError(
            "a private store cannot be kept by workers on other machines: its index must not be "
            "read over a network. Leave out --scheduler or --private-store"
        )
    return JobContext(store.root, None, None, address)
