"""A service with a simulated clock, over a store beside a demo archive."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from neuromirror.crawl import Mirror, Result
from neuromirror.crawl.recorder import lease_owner
from neuromirror.index import TaskRow
from neuromirror.model import NeuromirrorError, Traffic
from neuromirror.service.engine import MirrorFiles, Service
from neuromirror.service.executors import ThreadExecutor
from neuromirror.service.health import Readiness
from neuromirror.service.worker_pool import find_job, run_call
from neuromirror.service.writer import Writer
from support.job_harness import JobHarness, open_job_harness
from support.mirror_harness import MirrorHarness

HOUR, DAY = 3600.0, 86400.0


class ManualClock:
    """A clock that returns the time set by a test."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@dataclass
class RecordingObserver:
    """Records the events that a service reports to its metrics."""

    jobs: list[tuple[str, str, str]] = field(default_factory=list)
    ticks: list[float] = field(default_factory=list)

    def job_finished(self, kind: str, mirror: str, outcome: str, seconds: float) -> None:
        self.jobs.append((kind, mirror, outcome))

    def requests_sent(self, mirror: str, traffic: Mapping[str, Traffic]) -> None:
        pass

    def housekeeping_finished(self, name: str, ok: bool, seconds: float) -> None:
        pass

    def tick_finished(self, seconds: float) -> None:
        self.ticks.append(seconds)


class ManualExecutor(Executor):
    """Holds jobs until the test runs them or ends them in another way."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = []
        self.writer: Writer | None = None
        """Of the service that it belongs to."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.jobs.append((future, fn, args))
        return future

    @property
    def names(self) -> list[str]:
        return [args[1].lease.name for _, _, args in self.jobs]

    def take(self, name: str) -> tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]:
        return self.jobs.pop(self.names.index(name))

    def run(self, name: str) -> None:
        future, function, args = self.take(name)
        try:
            future.set_result(self.call(function, args))
        except (NeuromirrorError, OSError) as error:
            future.set_exception(error)

    def call(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Run a job that was taken, with a channel to the writer, and return its report."""
        assert self.writer is not None
        with closing(self.writer.open(find_job(args))) as channel:
            return run_call(channel, function, *args)

    def fail(self, name: str, error: BaseException) -> None:
        self.take(name)[0].set_exception(error)


@dataclass
class ServiceHarness:
    """A service, and the parts that a test controls and inspects."""

    job_harness: JobHarness
    service: Service
    files: MirrorFiles
    clock: ManualClock
    observer: RecordingObserver
    results: list[Result]
    executor: Executor

    def row(self, name: str) -> TaskRow:
        found = self.job_harness.schedule.task(name)
        assert found is not None, name
        return found

    def settle(self, seconds: float = 600) -> list[str]:
        """Tick until no job is running or due; return the finished jobs."""
        before, until = len(self.observer.jobs), time.monotonic() + seconds
        self.service.wakeup.set()
        while self.service.tick() or not self.service.is_idle:
            assert time.monotonic() < until, "the service does not come to rest"
            self.service.wakeup.wait(0.05)
        return [kind for kind, *_ in self.observer.jobs[before:]]

    def read_list(self) -> None:
        """Run the listing of the manual executor, write its results, and start due visits."""
        assert isinstance(self.executor, ManualExecutor)
        self.service.tick()
        self.executor.run("demo")
        self.service.tick()
        self.settle_writing()
        self.service.tick()

    def settle_writing(self) -> None:
        """Let the service write its pending data in pieces, without starting jobs."""
        while self.service._pending_writes:
            self.service._continue_writes(time.monotonic() + 1)

    def write_superdatasets(self) -> list[str]:
        done = []
        while self.service.make_superdatasets_due():
            done += self.settle()
        return done

    def take_results(self) -> dict[str, Result]:
        found = {result.dataset: result for result in self.results}
        self.results.clear()
        return found


@contextmanager
def waiting_for_jobs(executor: ThreadExecutor) -> Iterator[None]:
    """Wait for the running jobs at the end, which would use a store that is closed."""
    try:
        yield
    finally:
        executor._pool.shutdown(cancel_futures=True)


@contextmanager
def open_service_harness(
    mirror_harness: MirrorHarness,
    *,
    executor: Executor | None = None,
    workers: int = 4,
    names: Sequence[str] = (),
    clock: ManualClock | None = None,
    check: Callable[[Mirror], None] = lambda mirror: None,
    start: bool = True,
) -> Iterator[ServiceHarness]:
    clock, observer, results = clock or ManualClock(), RecordingObserver(), []
    name = lease_owner("serve")
    with (
        open_job_harness(mirror_harness) as job_harness,
        ThreadExecutor(workers, job_harness.writer) as pool,
        waiting_for_jobs(pool),
    ):
        if isinstance(executor, ManualExecutor):
            executor.writer = job_harness.writer
        files = MirrorFiles(mirror_harness.mirrors, names, check)
        service = Service(
            job_harness.job_context(),
            files,
            job_harness.schedule,
            job_harness.recorder,
            executor or pool,
            workers=workers,
            owner=name,
            observer=observer,
            on_result=results.append,
            problems=Readiness(
                mirror_harness.store, mirror_harness.store.index_path, job_harness.schedule
            ).local_problems,
            clock=clock,
        )
        if start:
            service.start()
        yield ServiceHarness(
            job_harness, service, files, clock, observer, results, executor or pool
        )
