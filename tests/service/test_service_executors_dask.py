"""Jobs on a real Dask scheduler with worker processes: one may die, and nothing is lost."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from neuromirror import __version__
from neuromirror.model import ConfigurationError
from neuromirror.service import dask_cluster
from neuromirror.service.dask_cluster import DaskExecutor, SchedulerUnavailableError
from neuromirror.service.executors import job_context
from neuromirror.service.jobs import Job, JobRecorder, JobReport, WorkerLostError, run_job
from neuromirror.service.worker_pool import JobTimeoutError
from neuromirror.service.writer import Writer, WriterLostError
from neuromirror.store import Store
from neuromirror_demo import DemoArchive
from support.job_harness import JobHarness, open_job_harness
from support.mirror_harness import MirrorHarness
from support.small_archive import small_archive
from support.store_states import assert_same_as_sync, is_alive, wait_until

GIB = 1 << 30


class Cluster:
    """A scheduler and its workers, as processes of their own; what they print is in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = ExitStack()
        self._executors: dict[str, DaskExecutor] = {}
        self.workers: list[subprocess.Popen[bytes]] = []
        self.start_scheduler()

    def start_scheduler(self) -> None:
        scheduler_file = self.folder / "scheduler.json"
        scheduler_file.unlink(missing_ok=True)
        self.scheduler = self._start(
            "scheduler", "--port", "0", "--scheduler-file", str(scheduler_file)
        )
        found = wait_until(lambda: scheduler_file.exists() and scheduler_file.read_text())
        self.address: str = json.loads(found)["address"]

    def _start(self, what: str, *arguments: str) -> subprocess.Popen[bytes]:
        log = self._stack.enter_context((self.folder / f"{what}.log").open("ab"))
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", f"distributed.cli.dask_{what}", *arguments),
                *("--host", "127.0.0.1", "--no-dashboard"),
            ],
            stdout=log,
            stderr=log,
            env={**os.environ, "DASK_TEMPORARY_DIRECTORY": str(self.folder)},
        )
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process

    def start_worker(self) -> None:
        """Adds a worker, in the background."""
        self.workers.append(self._start("worker", self.address, "--no-nanny", "--nthreads=1"))

    def start_workers(self, count: int) -> None:
        """Starts workers until there are this many."""
        self.workers = [worker for worker in self.workers if worker.poll() is None]
        if len(self.workers) >= count:
            return
        while len(self.workers) < count:
            self.start_worker()
        import distributed

        with distributed.Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(count, timeout=60)

    def kill_busy(self) -> None:
        """Kills the one worker that has a job."""
        import distributed

        with distributed.Client(self.address, set_as_default=False) as client:
            (busy,) = [worker for worker, keys in client.processing().items() if keys]
            pid = client.run(os.getpid, workers=[busy])[busy]
        (process,) = [one for one in self.workers if one.pid == pid]
        process.kill()
        process.wait()

    def end_frozen(self) -> None:
        """Kills the workers that were stopped by a signal."""
        for worker in [one for one in self.workers if one.poll() is None]:
            if ") T " in Path(f"/proc/{worker.pid}/stat").read_text():
                worker.kill()
                worker.wait()

    def executor(self, writer: Writer) -> DaskExecutor:
        """Return the executor of all tests that need no particular one, on this scheduler."""
        if self.address not in self._executors:
            opened = DaskExecutor(self.address, writer, seconds=120, memory=GIB)
            executor = self._stack.enter_context(opened)
            assert isinstance(executor, DaskExecutor)
            self._executors[self.address] = executor
        return self._executors[self.address]

    def close(self) -> None:
        self._stack.close()


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("dask"))
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="module")
def demo(module_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoArchive]:
    with small_archive(tmp_path_factory.mktemp("archive") / "demo") as running:
        yield running


@pytest.fixture(scope="module")
def mirror_harness(demo: DemoArchive, tmp_path_factory: pytest.TempPathFactory) -> MirrorHarness:
    return MirrorHarness(demo.mirrors, tmp_path_factory.mktemp("mirror") / "store")


@pytest.fixture(scope="module")
def shared_job_harness(mirror_harness: MirrorHarness) -> Iterator[JobHarness]:
    with open_job_harness(mirror_harness) as opened:
        yield opened


@pytest.fixture
def cluster(started: Cluster) -> Cluster:
    """A scheduler with at least one worker."""
    if started.scheduler.poll() is not None:
        for worker in started.workers:  # they have no scheduler any more
            worker.kill()
            worker.wait()
        started.start_scheduler()
    started.start_workers(1)
    return started


@pytest.fixture
def job_harness(shared_job_harness: JobHarness) -> Iterator[JobHarness]:
    """A writer of a store that all tests share; each ends its leases."""
    yield shared_job_harness
    leases = shared_job_harness.schedule.leases
    for one in leases.in_force(0):
        leases.release(one.name, one.token)


@pytest.fixture
def writer(job_harness: JobHarness) -> Writer:
    return job_harness.writer


@pytest.fixture
def executor(cluster: Cluster, writer: Writer) -> DaskExecutor:
    return cluster.executor(writer)


def submit(executor: Executor, job_harness: JobHarness, job: Job) -> Future[JobReport]:
    store = job_harness.mirror_harness.store
    context = job_context(store, store.index_path, None, remote=True)
    assert context.index is None
    return executor.submit(run_job, context, job)


def give_back(job_harness: JobHarness, *jobs: Job) -> None:
    for job in jobs:
        job_harness.schedule.leases.release(job.lease.name, job.lease.token)


def test_a_visit_whose_dask_worker_died_runs_elsewhere_or_is_reported_lost_and_retried(
    job_harness: JobHarness, mirror_harness: MirrorHarness, demo: DemoArchive, cluster: Cluster,
    executor: Executor,
    tmp_path: Path,
) -> None:  # fmt: skip
    cluster.start_workers(2)
    listing = job_harness.job("listing", "demo")
    due = submit(executor, job_harness, listing).result().due
    give_back(job_harness, listing)
    jobs = {
        task.hint.dataset.local_id: job_harness.job(
            "visit", f"demo:{task.hint.dataset.local_id}", hint=task.hint
        )
        for task in due
    }
    with demo.fault("hang", path="/000001/", seconds=3600) as hanging:
        doomed = submit(executor, job_harness, jobs["000001"])
        wait_until(lambda: hanging.struck)
        cluster.kill_busy()
        killed = hanging.struck
        with pytest.raises(
            WorkerLostError, match=r"demo:000001 \(visit\): the Dask worker .* died"
        ):
            doomed.result()
        # the other worker has not gone on under the same lease
        assert hanging.struck == killed
    give_back(job_harness, jobs["000001"])
    jobs["000001"] = job_harness.job("visit", "demo:000001")
    for running in [submit(executor, job_harness, job) for job in jobs.values()]:
        assert [result.message for result in running.result().results if result.exit_code] == []
    give_back(job_harness, *jobs.values())
    assert_same_as_sync(mirror_harness, tmp_path / "by-sync")


def test_a_worker_that_freezes_when_its_results_are_requested_holds_up_nothing(
    cluster: Cluster, executor: Executor
) -> None:
    cluster.start_workers(2)

    def freeze_when_asked(dask_worker: Any) -> None:
        import os
        import signal

        dask_worker.handlers["get_data"] = lambda **_: os.kill(os.getpid(), signal.SIGSTOP)

    import distributed

    with distributed.Client(cluster.address, set_as_default=False) as client:
        client.run(freeze_when_asked)
    try:
        jobs = [executor.submit(int, str(number)) for number in range(8)]
        assert [job.result(60) for job in jobs] == list(range(8))
    finally:
        cluster.end_frozen()


def test_commits_go_on_while_one_worker_is_dead_and_another_frozen(
    demo: DemoArchive, tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.start_workers(3)
    stop = "import os, signal; os.kill(os.getppid(), signal.{})"
    try:
        with (
            open_job_harness(MirrorHarness(demo.mirrors, tmp_path / "store")) as job_harness,
            DaskExecutor(cluster.address, job_harness.writer) as executor,
        ):
            frozen = executor.submit(exec, stop.format("SIGSTOP"))
            dead = executor.submit(exec, stop.format("SIGKILL"))
            with pytest.raises(WorkerLostError):
                dead.result(60)
            for _ in range(2):
                job = job_harness.job("listing", "demo")
                assert submit(executor, job_harness, job).result(60).due
                give_back(job_harness, job)
            assert not frozen.done()
            monkeypatch.setattr(dask_cluster, "SCHEDULER_TIMEOUT", 1.0)
        assert frozen.cancelled()
    finally:
        cluster.end_frozen()


def test_a_job_on_dask_has_limits_and_its_errors_come_as_they_are(
    cluster: Cluster, writer: Writer
) -> None:
    with DaskExecutor(cluster.address, writer, seconds=2, memory=GIB) as executor:
        over = executor.submit(time.sleep, 300)
        wrong = executor.submit(eval, "1 / 0")
        gone = executor.submit(exec, "import os; os._exit(3)")  # coverage replaces os._exit
        with pytest.raises(JobTimeoutError, match=r"sleep: .* 2 s"):
            over.result()
        with pytest.raises(ZeroDivisionError):
            wrong.result()
        with pytest.raises(WorkerLostError, match="code 3"):
            gone.result()
        assert executor.submit(int, "7", base=8).result() == 7


def test_leaving_dask_ends_jobs_and_leaves_nothing_at_the_workers(
    cluster: Cluster, writer: Writer
) -> None:
    pid_file = cluster.folder / "pid"
    with DaskExecutor(cluster.address, writer) as executor:
        command = f"echo $$ $PPID > {pid_file}; exec sleep 300"
        hangs = executor.submit(subprocess.run, ["sh", "-c", command])
        pids = [
            int(pid)
            for pid in wait_until(lambda: pid_file.exists() and pid_file.read_text()).split()
        ]
        assert all(map(is_alive, pids))
    assert hangs.cancelled()
    wait_until(lambda: not any(map(is_alive, pids)))
    with pytest.raises(RuntimeError):
        executor.submit(os.getpid)


@contextmanager
def far_recorder(executor: DaskExecutor, ticket: str) -> Iterator[JobRecorder]:
    """The recorder of a job on a Dask worker."""
    from neuromirror.service.dask_worker import DaskChannel

    queue = executor._listener.queue
    channel = DaskChannel(queue(executor._plugin), queue(ticket), ticket)
    with closing(channel), closing(JobRecorder(channel, Store(Path()), None)) as recorder:
        yield recorder


def test_a_job_whose_service_is_gone_is_over(
    cluster: Cluster, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuromirror.service.dask_worker.REPLY_TIMEOUT", 0.5)
    with DaskExecutor(cluster.address, writer) as executor:
        assert isinstance(executor, DaskExecutor)
        # a service that was killed reads no requests
        executor._listener.close()
        with far_recorder(executor, "a ticket") as far, pytest.raises(WriterLostError):
            far.ask(lambda index: index.datasets.tombstones())


def test_a_job_on_dask_whose_lease_was_taken_over_writes_nothing(
    job_harness: JobHarness, mirror_harness: MirrorHarness, demo: DemoArchive, executor: Executor
) -> None:
    demo.add_file("000001", "new.txt", b"new")
    before = mirror_harness.refs()
    with demo.fault("hang", path="/000001/", seconds=3600) as hanging:
        job = job_harness.job(
            "visit", "demo:000001", lease=job_harness.lease("demo:000001", seconds=0.1)
        )
        fenced = submit(executor, job_harness, job)
        wait_until(lambda: hanging.struck)
        wait_until(
            lambda: job_harness.schedule.leases.claim("demo:000001", "another", time.time(), 60)
        )
    (result,) = fenced.result().results
    assert (result.status, result.visit) == ("error", "failed")
    assert "lease" in result.message
    assert mirror_harness.refs() == before


def test_a_worker_that_sees_another_folder_at_the_store_path_does_nothing(
    job_harness: JobHarness, mirror_harness: MirrorHarness, executor: DaskExecutor
) -> None:
    from neuromirror.service.dask_worker import PickledCall, run_on_worker

    store = mirror_harness.store
    real = job_context(store, store.index_path, None, remote=True)
    elsewhere = replace(real, store=mirror_harness.folder.with_name("gone"))
    with pytest.raises(ConfigurationError, match=r"gone is not the folder "):
        executor.submit(run_job, elsewhere, job_harness.job("visit", "demo:000001")).result()
    other = Store.open(mirror_harness.folder.with_name("other"), create=True)
    # as on a machine with another store at this path: its lock is free
    call = PickledCall(
        "a ticket",
        run_job,
        (replace(real, store=other.root), job_harness.job("visit", "demo:000002")),
        {},
    )
    client, plugin = executor._client, executor._plugin
    result = client.submit(run_on_worker, __version__, plugin, call)
    with pytest.raises(ConfigurationError, match="other is not the folder that the service"):
        result.result()
    assert list(other.repositories.aliases()) == []


def test_workers_of_another_release_are_refused(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, writer: Writer
) -> None:
    with DaskExecutor(cluster.address, writer) as executor:
        monkeypatch.setattr(dask_cluster, "__version__", "99.1")
        with pytest.raises(ConfigurationError, match=r"the service 99\.1"):
            executor.submit(os.getpid).result()
    with (
        pytest.raises(ConfigurationError, match=r"the scheduler has .*the service has 99\.1"),
        DaskExecutor(cluster.address, writer),
    ):
        pass


def test_jobs_of_a_strict_scheduler_and_of_one_that_ends_are_lost_and_nothing_hangs(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, writer: Writer
) -> None:
    with DaskExecutor(cluster.address, writer) as executor:
        assert isinstance(executor, DaskExecutor)
        # the first death of a worker counts
        executor._client.run_on_scheduler(
            lambda dask_scheduler: vars(dask_scheduler).update(allowed_failures=0)
        )
        job = executor.submit(time.sleep, 300)
        wait_until(lambda: job_begun(cluster))
        cluster.kill_busy()
        with pytest.raises(WorkerLostError, match=r"the Dask worker tcp://127.0.0.1:[0-9]+ died"):
            job.result(60)
        cluster.start_workers(1)
        job = executor.submit(time.sleep, 300)
        wait_until(lambda: job_begun(cluster))
        cluster.scheduler.kill()
        with pytest.raises(WorkerLostError, match=r"the Dask scheduler at tcp://"):
            job.result(60)
    cluster.scheduler.wait()
    monkeypatch.setattr(dask_cluster, "SCHEDULER_TIMEOUT", 0.5)
    with pytest.raises(SchedulerUnavailableError), DaskExecutor(cluster.address, writer):
        pass


def job_begun(cluster: Cluster) -> bool:
    """Whether a worker has a job."""
    import distributed

    with distributed.Client(cluster.address, set_as_default=False) as client:
        return any(client.processing().values())


def test_a_late_reply_is_not_taken_for_that_of_the_next_request(
    job_harness: JobHarness, executor: DaskExecutor
) -> None:
    job = job_harness.job("listing", "demo")
    listener, ticket = executor._listener, "a ticket"
    opened = listener.open(ticket, job_harness.writer.open(job), Future())
    with closing(opened) as replies:
        # of an earlier request, and the sign that one is in progress
        replies.send(7, b"late")
        replies.send(1, b"")
        with far_recorder(executor, ticket) as far:
            assert far.ask(lambda index: index.datasets.tombstones()) == []


def test_a_malformed_request_does_not_end_the_listener(
    job_harness: JobHarness, executor: DaskExecutor
) -> None:
    job = job_harness.writer.open(job_harness.job("listing", "demo"))
    with closing(executor._listener.open("a ticket", job, Future())):
        requests = executor._listener.queue(executor._plugin)
        for request in (
            7,
            "abc",
            (1, 2),
            ({}, 1, b""),
            ("a ticket", "one", b""),
            ("a ticket", 9, 7),
        ):
            requests.put(request)
        with far_recorder(executor, "a ticket") as far:
            assert far.ask(lambda index: index.datasets.tombstones()) == []
