"""Executors for jobs: threads of the service or worker processes; :mod:`.dask_cluster` has a third.

Each is a context manager with ``submit(run_job, context, job)``. On exit, pending jobs are
cancelled, and running ones are killed.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
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


class ThreadExecutor(Executor):
    """Runs up to ``workers`` jobs in threads of this process; their requests go to ``writer``.

    A job that hangs cannot be killed and delays the exit of Python.
    """

    def __init__(self, workers: int, writer: Writer) -> None:
        self._writer = writer
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="job")
        self._run: Callable[..., Any] = run_call

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]:
        """See :meth:`concurrent.futures.Executor.submit`."""
        return self._pool.submit(self._call, fn, *args, **kwargs)

    def _call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        # closed before the result is set
        with closing(self._writer.open(find_job(args))) as channel:
            return self._run(channel, function, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = True) -> None:
        """Cancel pending jobs."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class ProcessExecutor(ThreadExecutor):
    """Runs jobs in worker processes, with the limits ``seconds`` and ``memory`` bytes.

    They are enforced as described at :class:`~neuromirror.service.worker_pool.WorkerPool`.
    """

    def __init__(self, workers: int, writer: Writer, seconds: float, memory: int) -> None:
        super().__init__(workers, writer)
        self._processes = WorkerPool(workers, seconds, memory)
        self._run = self._processes.run

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = True) -> None:
        """Cancel pending jobs, and kill the others."""
        super().shutdown()
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
