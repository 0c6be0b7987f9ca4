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
from crawl_place import Place
from service_office import Office
from service_states import alive, expect_same, until

from neuromirror import __version__
from neuromirror.crawl import recording
from neuromirror.index import Schedule
from neuromirror.model import ConfigurationError
from neuromirror.service import on_dask
from neuromirror.service.dask_worker import Sealed, there
from neuromirror.service.desk import Desk
from neuromirror.service.executors import (
    NoScheduler,
    TookTooLong,
    WorkerLost,
    dask,
    desk_host,
    workplace,
)
from neuromirror.service.jobs import Job, Report, do
from neuromirror.store import Store
from neuromirror_demo import DemoArchive

GIB = 1 << 30


class Cluster:
    """A scheduler and its workers, as processes of their own; what they print is in ``folder``."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self._environment = environment
        self._stack = ExitStack()
        self.workers: list[subprocess.Popen[bytes]] = []
        told = folder / "scheduler.json"
        self.scheduler = self._start("scheduler", "--port", "0", "--scheduler-file", str(told))
        found = until(lambda: told.exists() and told.read_text())
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

    def two(self) -> None:
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
    started.two()
    return started


@contextmanager
def far_office(place: Place, cluster: Cluster) -> Iterator[Office]:
    """A desk where workers on other machines reach it."""
    store = place.store
    with (
        recording(store, store.index_path) as recorder,
        Schedule.open(store.schedule_path) as schedule,
        Desk(recorder, schedule, desk_host(cluster.address)) as desk,
    ):
        yield Office(place, schedule, desk, recorder)


@pytest.fixture
def office(place: Place, cluster: Cluster) -> Iterator[Office]:
    with far_office(place, cluster) as running:
        yield running


@pytest.fixture
def executor(cluster: Cluster) -> Iterator[Executor]:
    with dask(cluster.address, seconds=120, memory=GIB, grace=0) as running:
        yield running


def submit(executor: Executor, office: Office, job: Job) -> Future[Report]:
    store = office.place.store
    place = workplace(store, store.index_path, None, office.desk.address)
    assert place.index is None
    return executor.submit(do, place, job)


def give_back(office: Office, *jobs: Job) -> None:
    for job in jobs:
        office.schedule.give_back(job.lease.name, job.lease.token)


def test_a_visit_whose_worker_died_is_done_by_the_other_or_told_lost_and_done_again(
    office: Office, place: Place, demo: DemoArchive, cluster: Cluster, executor: Executor,
    tmp_path: Path,
) -> None:  # fmt: skip
    listing = office.job("list", "demo")
    due = submit(executor, office, listing).result().due
    give_back(office, listing)
    jobs = {
        task.hint.dataset.local_id: office.job(
            "visit", f"demo:{task.hint.dataset.local_id}", hint=task.hint
        )
        for task in due
    }
    with demo.fault("hang", path="/000001/", seconds=3600) as hanging:
        doomed = submit(executor, office, jobs["000001"])
        until(lambda: hanging.struck)
        cluster.kill_busy()
        killed = hanging.struck
        with pytest.raises(WorkerLost, match=r"demo:000001 \(visit\): the Dask worker .* died"):
            doomed.result()
        # the other worker has not gone on under the same lease
        assert hanging.struck == killed
    give_back(office, jobs["000001"])
    jobs["000001"] = office.job("visit", "demo:000001")
    for running in [submit(executor, office, job) for job in jobs.values()]:
        assert [one.message for one in running.result().results if one.exit_code] == []
    give_back(office, *jobs.values())
    expect_same(place, tmp_path / "by-sync")


def test_a_job_on_dask_has_limits_and_its_errors_come_as_they_are(cluster: Cluster) -> None:
    with dask(cluster.address, seconds=2, memory=GIB) as executor:
        over = executor.submit(time.sleep, 300)
        wrong = executor.submit(eval, "1 / 0")
        gone = executor.submit(os._exit, 3)
        with pytest.raises(TookTooLong, match="sleep: not done after 2 s"):
            over.result()
        with pytest.raises(ZeroDivisionError):
            wrong.result()
        with pytest.raises(WorkerLost, match="exit code 3"):
            gone.result()
        assert executor.submit(int, "7", base=8).result() == 7


def test_leaving_dask_ends_jobs_and_leaves_nothing_at_the_workers(cluster: Cluster) -> None:
    told = cluster.folder / "told"
    with dask(cluster.address, grace=0.2) as executor:
        command = f"echo $$ $PPID > {told}; exec sleep 300"
        hangs = executor.submit(subprocess.run, ["sh", "-c", command])
        pids = [int(pid) for pid in until(lambda: told.exists() and told.read_text()).split()]
        assert all(map(alive, pids))
    assert hangs.cancelled()
    until(lambda: not any(map(alive, pids)))
    with pytest.raises(RuntimeError, match="no more jobs"):
        executor.submit(os.getpid)


def test_the_key_of_the_desk_is_in_no_log_of_dask(
    office: Office, cluster: Cluster, executor: Executor
) -> None:
    address = office.desk.address
    with pytest.raises(TypeError, match="missing"):
        executor.submit(do, workplace(office.place.store, Path(), None, address)).result()
    logs = "".join(path.read_text() for path in cluster.folder.glob("*.log"))
    assert "Compute Failed" in logs
    assert repr(address.key)[2:12] not in logs


def test_a_job_on_dask_whose_lease_was_taken_over_writes_nothing(
    office: Office, place: Place, demo: DemoArchive, executor: Executor
) -> None:
    with demo.fault("hang", path="/000001/", seconds=3600) as hanging:
        job = office.job("visit", "demo:000001", lease=office.lease("demo:000001", seconds=0.1))
        fenced = submit(executor, office, job)
        until(lambda: hanging.struck)
        until(lambda: office.schedule.claim("demo:000001", "another", time.time(), 60))
    (result,) = fenced.result().results
    assert (result.status, result.visit) == ("error", "failed")
    assert "the lease of this visit is over" in result.message
    assert place.refs() == {}


def test_a_worker_that_has_another_folder_at_the_place_of_the_store_does_nothing(
    office: Office, place: Place, cluster: Cluster, executor: Executor
) -> None:
    store = place.store
    real = workplace(store, store.index_path, None, office.desk.address)
    elsewhere = replace(real, store=place.folder.with_name("gone"))
    with pytest.raises(ConfigurationError, match=r"gone is not the folder .*there is no store at"):
        executor.submit(do, elsewhere, office.job("visit", "demo:000001")).result()
    other = Store.open(place.folder.with_name("other"), create=True)
    # as on a machine that has a store of its own there: nobody holds its lock
    call = Sealed(
        "a ticket", do, (replace(real, store=other.root), office.job("visit", "demo:000002")), {}
    )
    with dask(cluster.address) as running:
        assert isinstance(running, on_dask.OnDask)
        client, plugin = running._client, running._plugin
        told = client.submit(there, __version__, plugin, call)
        with pytest.raises(ConfigurationError, match="other is not the folder that the service"):
            told.result()
    assert list(other.aliases()) == []


def test_workers_of_another_release_are_refused(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dask(cluster.address) as executor:
        monkeypatch.setattr(on_dask, "__version__", "99.1")
        with pytest.raises(ConfigurationError, match=r"and the service 99\.1; install the same"):
            executor.submit(os.getpid).result()
    with (
        pytest.raises(ConfigurationError, match=r"the scheduler has .*the service has 99\.1"),
        dask(cluster.address),
    ):
        pass


def test_jobs_of_a_strict_scheduler_and_of_one_that_ends_are_lost_and_nothing_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(tmp_path, DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="0")
    try:
        cluster.start_worker()
        with dask(cluster.address, grace=5) as executor:
            job = executor.submit(time.sleep, 300)
            until(lambda: job_begun(cluster))
            cluster.kill_busy()
            with pytest.raises(WorkerLost, match=r"the Dask worker tcp://127.0.0.1:[0-9]+ died"):
                job.result(60)
            cluster.start_worker()
            job = executor.submit(time.sleep, 300)
            until(lambda: job_begun(cluster))
            cluster.scheduler.kill()
            with pytest.raises(WorkerLost, match=r"the Dask scheduler at .* has lost it"):
                job.result(60)
        monkeypatch.setattr(on_dask, "ANSWER", 0.5)
        with pytest.raises(NoScheduler, match="no Dask scheduler answers"), dask(cluster.address):
            pass
    finally:
        cluster.close()


def job_begun(cluster: Cluster) -> bool:
    """Whether a worker has a job."""
    import distributed

    with distributed.Client(cluster.address, set_as_default=False) as client:
        return any(client.processing().values())
