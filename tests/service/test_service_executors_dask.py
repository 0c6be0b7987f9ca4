"""Jobs on a real Dask scheduler with two worker processes: one may die, and nothing is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from neuromirror import __version__
from neuromirror.crawl import open_recorder
from neuromirror.index import Schedule
from neuromirror.model import ConfigurationError
from neuromirror.service import dask_cluster
from neuromirror.service.dask_worker import PickledCall, run_on_worker
from neuromirror.service.executors import (
    JobTimeoutError,
    SchedulerUnavailableError,
    WorkerLostError,
    dask_executor,
    job_context,
    write_server_host,
)
from neuromirror.service.jobs import Job, JobReport, run_job
from neuromirror.service.write_server import WriteServer
from neuromirror.store import Store
from neuromirror_demo import DemoArchive
from support.job_harness import JobHarness
from support.mirror_harness import MirrorHarness
from support.store_states import assert_same_as_sync, is_alive, wait_until

GIB = 1 << 30


class Cluster:
    """A scheduler and its workers, as processes of their own; what they print is in ``folder``."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self._environment = environment
        self._stack = ExitStack()
        self.workers: list[subprocess.Popen[bytes]] = []
        scheduler_file = folder / "scheduler.json"
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
            env={
                **os.environ,
                "DASK_TEMPORARY_DIRECTORY": str(self.folder),
                **self._environment,
            },
        )
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process

    def start_worker(self) -> None:
        """Adds a worker, in the background."""
        self.workers.append(self._start("worker", self.address, "--no-nanny", "--nthreads=1"))

    def start_two_workers(self) -> None:
        """Starts as many workers as are missing to two."""
        self.workers = [one for one in self.workers if one.poll() is None]
        while len(self.workers) < 2:
            self.start_worker()
        import distributed

        with distributed.Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)

    def kill_busy(self) -> None:
        """Kills the one worker that has a job."""
        import distributed

        with distributed.Client(self.address, set_as_default=False) as client:
            (busy,) = [worker for worker, keys in client.processing().items() if keys]
            pid = client.run(os.getpid, workers=[busy])[busy]
        (process,) = [one for one in self.workers if one.pid == pid]
        process.kill()
        process.wait()

    def close(self) -> None:
        self._stack.close()


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("dask"))
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def cluster(started: Cluster) -> Cluster:
    """A scheduler with two workers."""
    started.start_two_workers()
    return started


@contextmanager
def remote_job_harness(mirror_harness: MirrorHarness, cluster: Cluster) -> Iterator[JobHarness]:
    """A write server that remote workers can reach."""
    store = mirror_harness.store
    with (
        open_recorder(store, store.index_path) as recorder,
        Schedule.open(store.schedule_path) as schedule,
        WriteServer(recorder, schedule, write_server_host(cluster.address)) as write_server,
    ):
        yield JobHarness(mirror_harness, schedule, write_server, recorder)


@pytest.fixture
def job_harness(mirror_harness: MirrorHarness, cluster: Cluster) -> Iterator[JobHarness]:
    with remote_job_harness(mirror_harness, cluster) as running:
        yield running


@pytest.fixture
def executor(cluster: Cluster) -> Iterator[Executor]:
    with dask_executor(cluster.address, seconds=120, memory=GIB, grace=0) as running:
        yield running


def submit(executor: Executor, job_harness: JobHarness, job: Job) -> Future[JobReport]:
    store = job_harness.mirror_harness.store
    context = job_context(store, store.index_path, None, job_harness.write_server.address)
    assert context.index is None
    return executor.submit(run_job, context, job)


def give_back(job_harness: JobHarness, *jobs: Job) -> None:
    for job in jobs:
        job_harness.schedule.release(job.lease.name, job.lease.token)


def test_a_visit_whose_dask_worker_died_runs_elsewhere_or_is_reported_lost_and_retried(
    job_harness: JobHarness, mirror_harness: MirrorHarness, demo: DemoArchive, cluster: Cluster,
    executor: Executor,
    tmp_path: Path,
) -> None:  # fmt: skip
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
        assert [one.message for one in running.result().results if one.exit_code] == []
    give_back(job_harness, *jobs.values())
    assert_same_as_sync(mirror_harness, tmp_path / "by-sync")


def test_a_job_on_dask_has_limits_and_its_errors_come_as_they_are(cluster: Cluster) -> None:
    with dask_executor(cluster.address, seconds=2, memory=GIB) as executor:
        over = executor.submit(time.sleep, 300)
        wrong = executor.submit(eval, "1 / 0")
        gone = executor.submit(os._exit, 3)
        with pytest.raises(JobTimeoutError, match=r"sleep: .* 2 s"):
            over.result()
        with pytest.raises(ZeroDivisionError):
            wrong.result()
        with pytest.raises(WorkerLostError, match="code 3"):
            gone.result()
        assert executor.submit(int, "7", base=8).result() == 7


def test_leaving_dask_ends_jobs_and_leaves_nothing_at_the_workers(cluster: Cluster) -> None:
    pid_file = cluster.folder / "pid"
    with dask_executor(cluster.address, grace=0.2) as executor:
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


def test_the_key_of_the_write_server_is_in_no_log_of_dask(
    job_harness: JobHarness, cluster: Cluster, executor: Executor
) -> None:
    address = job_harness.write_server.address
    with pytest.raises(TypeError, match="missing"):
        executor.submit(
            run_job, job_context(job_harness.mirror_harness.store, Path(), None, address)
        ).result()
    logs = "".join(path.read_text() for path in cluster.folder.glob("*.log"))
    assert "Compute Failed" in logs
    assert repr(address.key)[2:12] not in logs


def test_a_job_on_dask_whose_lease_was_taken_over_writes_nothing(
    job_harness: JobHarness, mirror_harness: MirrorHarness, demo: DemoArchive, executor: Executor
) -> None:
    with demo.fault("hang", path="/000001/", seconds=3600) as hanging:
        job = job_harness.job(
            "visit", "demo:000001", lease=job_harness.lease("demo:000001", seconds=0.1)
        )
        fenced = submit(executor, job_harness, job)
        wait_until(lambda: hanging.struck)
        wait_until(lambda: job_harness.schedule.claim("demo:000001", "another", time.time(), 60))
    (result,) = fenced.result().results
    assert (result.status, result.visit) == ("error", "failed")
    assert "lease" in result.message
    assert mirror_harness.refs() == {}


def test_a_worker_that_sees_another_folder_at_the_store_path_does_nothing(
    job_harness: JobHarness, mirror_harness: MirrorHarness, cluster: Cluster, executor: Executor
) -> None:
    store = mirror_harness.store
    real = job_context(store, store.index_path, None, job_harness.write_server.address)
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
    with dask_executor(cluster.address) as running:
        assert isinstance(running, dask_cluster.DaskExecutor)
        client, plugin = running._client, running._plugin
        result = client.submit(run_on_worker, __version__, plugin, call)
        with pytest.raises(ConfigurationError, match="other is not the folder that the service"):
            result.result()
    assert list(other.aliases()) == []


def test_workers_of_another_release_are_refused(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dask_executor(cluster.address) as executor:
        monkeypatch.setattr(dask_cluster, "__version__", "99.1")
        with pytest.raises(ConfigurationError, match=r"and the service 99\.1; install the same"):
            executor.submit(os.getpid).result()
    with (
        pytest.raises(ConfigurationError, match=r"the scheduler has .*the service has 99\.1"),
        dask_executor(cluster.address),
    ):
        pass


def test_jobs_of_a_strict_scheduler_and_of_one_that_ends_are_lost_and_nothing_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(tmp_path, DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="0")
    try:
        cluster.start_worker()
        with dask_executor(cluster.address, grace=5) as executor:
            job = executor.submit(time.sleep, 300)
            wait_until(lambda: job_begun(cluster))
            cluster.kill_busy()
            with pytest.raises(
                WorkerLostError, match=r"the Dask worker tcp://127.0.0.1:[0-9]+ died"
            ):
                job.result(60)
            cluster.start_worker()
            job = executor.submit(time.sleep, 300)
            wait_until(lambda: job_begun(cluster))
            cluster.scheduler.kill()
            with pytest.raises(WorkerLostError, match=r"the Dask scheduler at tcp://"):
                job.result(60)
        monkeypatch.setattr(dask_cluster, "SCHEDULER_TIMEOUT", 0.5)
        with (
            pytest.raises(SchedulerUnavailableError),
            dask_executor(cluster.address),
        ):
            pass
    finally:
        cluster.close()


def job_begun(cluster: Cluster) -> bool:
    """Whether a worker has a job."""
    import distributed

    with distributed.Client(cluster.address, set_as_default=False) as client:
        return any(client.processing().values())
