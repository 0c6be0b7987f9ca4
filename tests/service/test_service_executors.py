"""Executors: jobs in processes have limits, and what ends one of them harms nothing else."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from types import SimpleNamespace

import pytest

from neuromirror.model import ConfigurationError, NeuromirrorError
from neuromirror.service import executors, worker_pool
from neuromirror.service.executors import ProcessExecutor, job_context
from neuromirror.service.jobs import Job, JobReport, WorkerLostError, run_job
from neuromirror.service.jobs import JobContext as Workplace
from neuromirror.service.worker_pool import JobTimeoutError, PipeChannel, WorkerPool
from neuromirror.service.writer import Writer, job_channel
from neuromirror_demo import DemoArchive
from support.forked_commands import fork_command
from support.forked_workers import ForkedWorker
from support.job_harness import JobHarness, open_job_harness
from support.mirror_harness import MirrorHarness
from support.store_states import (
    assert_same_as_sync,
    comparable_states,
    is_alive,
    minted_counts,
    wait_until,
)

FORKING = SimpleNamespace(
    Popen=ForkedWorker, DEVNULL=subprocess.DEVNULL, TimeoutExpired=subprocess.TimeoutExpired
)
MIB = 1 << 20
GIB = 1 << 30


@pytest.fixture
def writer(job_harness: JobHarness) -> Writer:
    return job_harness.writer


class LentPool:
    """A pool that is used by several executors, and stays when one of them is left."""

    def __init__(self, pool: WorkerPool) -> None:
        self.run = pool.run

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def shared_pool() -> Iterator[WorkerPool]:
    """Two worker processes for all tests that need no particular limits."""
    pool = WorkerPool(2, seconds=120, memory=GIB)
    yield pool
    pool.close()


@pytest.fixture
def lent_pool(shared_pool: WorkerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have executors of processes use the shared ones, which are forked."""
    monkeypatch.setattr(executors, "WorkerPool", lambda *_: LentPool(shared_pool))
    monkeypatch.setattr(worker_pool, "subprocess", FORKING)


@pytest.fixture
def worker_pair(writer: Writer, lent_pool: None) -> Iterator[Executor]:
    """An executor with two worker processes."""
    with ProcessExecutor(2, writer, seconds=120, memory=GIB) as executor:
        yield executor


def run_jobs(executor: Executor, job_harness: JobHarness, *jobs: Job) -> list[JobReport]:
    """Submit all jobs at once, return their reports, and release their leases."""
    running = [executor.submit(run_job, job_harness.job_context(), job) for job in jobs]
    try:
        return [one.result() for one in running]
    finally:
        for job in jobs:
            job_harness.schedule.leases.release(job.lease.name, job.lease.token)


def visit_all(job_harness: JobHarness, executor: Executor) -> int:
    """Reads the list, visits all that is due at once, brings on what is above; gives how many."""
    (listed,) = run_jobs(executor, job_harness, job_harness.job("listing", "demo"))
    jobs = [
        job_harness.job("visit", f"demo:{task.hint.dataset.local_id}", hint=task.hint)
        for task in listed.due
    ]
    reports = run_jobs(executor, job_harness, *jobs)
    reports += run_jobs(executor, job_harness, job_harness.job("superdatasets", "demo"))
    assert [one.message for report in reports for one in report.results if one.exit_code] == []
    return len(jobs)


def test_visits_side_by_side_make_what_a_sync_makes(
    shared_demo: DemoArchive, demo_harness: MirrorHarness, tmp_path: Path, lent_pool: None
) -> None:
    mirror_harness = MirrorHarness(shared_demo.mirrors, tmp_path / "store")
    with (
        open_job_harness(mirror_harness) as job_harness,
        ProcessExecutor(2, job_harness.writer, seconds=120, memory=GIB) as executor,
    ):
        assert visit_all(job_harness, executor) > 3
    mirror_harness.fsck()
    assert comparable_states(mirror_harness) == comparable_states(demo_harness)
    assert minted_counts(mirror_harness) == minted_counts(demo_harness)


def test_a_visit_whose_worker_is_killed_is_retried_and_others_continue(
    job_harness: JobHarness,
    mirror_harness: MirrorHarness,
    demo: DemoArchive,
    tmp_path: Path,
    worker_pair: Executor,
) -> None:
    executor = worker_pair
    job = job_harness.job("visit", "demo:000001")
    with demo.fault("hang", path="/000001/", seconds=3600) as hanging:
        # the worker that was used last is the first to be used again
        worker = executor.submit(os.getpid).result()
        doomed = executor.submit(run_job, job_harness.job_context(), job)
        wait_until(lambda: hanging.struck)
        assert executor.submit(os.getpid).result() != worker
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(WorkerLostError, match=r"demo:000001 \(visit\): .* killed \(SIGKILL\)"):
            doomed.result()
        hanging.clear()
        job_harness.schedule.leases.release(job.lease.name, job.lease.token)
        retried = [job_harness.job("visit", f"demo:00000{one}") for one in (1, 2)]
        for report in run_jobs(executor, job_harness, *retried):
            assert [result.status for result in report.results] == ["ok"]
    assert_same_as_sync(mirror_harness, tmp_path / "by-sync")


@pytest.mark.parametrize(
    ("event", "part"),
    [
        ("open", "tmp_pack_"),
        ("os.rename", ".idx"),
        # sent, and perhaps applied, but the reply is not read
        ("request", "Publish"),
        ("request", "Record"),
    ],
)
def test_a_worker_may_be_killed_while_it_writes(
    job_harness: JobHarness,
    mirror_harness: MirrorHarness,
    worker_pair: Executor,
    event: str,
    part: str,
) -> None:
    job = job_harness.job("visit", "demo:000001")
    with pytest.raises(WorkerLostError, match=r"killed \(SIGKILL\)"):
        worker_pair.submit(run_until_killed, job_harness.job_context(), job, event, part).result()
    job_harness.schedule.leases.release(job.lease.name, job.lease.token)
    (report,) = run_jobs(worker_pair, job_harness, job_harness.job("visit", "demo:000001"))
    assert [result.exit_code for result in report.results] == [0]
    assert_visited_once(mirror_harness)


def assert_visited_once(mirror_harness: MirrorHarness) -> None:
    """Each version of the visited dataset is in git and journal, once."""
    assert {"main", "git-annex"} <= {name.rpartition("/")[2] for name in mirror_harness.refs()}
    versions = [name for name in minted_counts(mirror_harness) if name[1] == "000001"]
    assert versions
    assert {minted_counts(mirror_harness)[name] for name in versions} == {1}
    mirror_harness.fsck(killed=True)
    assert mirror_harness.sync("demo:000001")["demo:000001"].exit_code == 0


def run_until_killed(mirror_harness: Workplace, job: Job, event: str, part: str) -> JobReport:
    """In a worker: does a job until a step whose arguments name ``part``, and dies there."""

    def die(audit_event: str, arguments: tuple[object, ...]) -> None:
        if audit_event == event and part in str(arguments):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(die)
    if event == "request":
        channel = job_channel.get()
        assert isinstance(channel, PipeChannel)
        job_channel.set(AuditedChannel(channel))
    return run_job(mirror_harness, job)


class AuditedChannel:
    """The channel of a worker, which may die when it has sent a request."""

    def __init__(self, channel: PipeChannel) -> None:
        self._channel = channel

    def request(self, message: bytes) -> bytes:
        self._channel.send(message)
        sys.audit("request", message)
        return self._channel.receive()


_DYING_SERVICE = """
import os, signal, sys, time
from pathlib import Path
from neuromirror.crawl import load_mirrors, open_recorder
from neuromirror.index import Schedule
from neuromirror.service.executors import job_context, ProcessExecutor, ThreadExecutor
from neuromirror.service.jobs import Job, run_job
from neuromirror.crawl.recorder import Lease
from neuromirror.service.writer import Writer
from neuromirror.store import Store

def die(event, about):
    if event in ("os.rename", "open") and arguments[2] in str(about):
        os.kill(os.getpid(), signal.SIGKILL)

def open_executor(writer):
    if arguments[3] == "processes":
        return ProcessExecutor(1, writer, 600, 1 << 30)
    return ThreadExecutor(1, writer)

store = Store.open(Path(arguments[0]), create=True)
mirror = load_mirrors(Path(arguments[1]))["demo"]
with (
    open_recorder(store, store.index_path) as recorder,
    Schedule.open(store.schedule_path) as schedule,
    open_executor(Writer(recorder, schedule)) as executor,
):
    lease = Lease("demo:000001", schedule.leases.claim("demo:000001", "a test", time.time(), 60))
    job = Job("visit", lease, mirror, "000001")
    context = job_context(store, store.index_path, None, remote=False)
    sys.addaudithook(die)
    executor.submit(run_job, context, job).result()
"""


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ("packed-refs.new-", "threads"),
        ("packed-refs'", "processes"),
        ("info/refs", "threads"),
        ("journal.jsonl", "threads"),
    ],
)
def test_the_service_may_be_killed_while_it_applies_a_result(
    mirror_harness: MirrorHarness, part: str, kind: str
) -> None:
    arguments = [str(mirror_harness.folder), str(mirror_harness.mirrors), part, kind]
    killed = fork_command([], 1, 2, first=f"arguments = {arguments}\n{_DYING_SERVICE}")
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    # its worker exits too, and gives up the lock of the dataset
    wait_until(lambda: mirror_harness.sync("demo:000001")["demo:000001"].exit_code == 0)
    assert_visited_once(mirror_harness)


def list_workers() -> list[int]:
    """The worker processes of this process."""
    found = [
        int(pid)
        for task in Path("/proc/self/task").iterdir()
        for pid in (task / "children").read_text().split()
    ]
    return [pid for pid in found if b"service.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.fixture
def workers() -> Callable[[], list[int]]:
    """Return a function that lists the worker processes that the test has started."""
    before = list_workers()
    return lambda: [pid for pid in list_workers() if pid not in before]


def test_a_job_over_its_time_limit_is_killed_with_its_processes(
    job_harness: JobHarness,
    mirror_harness: MirrorHarness,
    demo: DemoArchive,
    writer: Writer,
    workers: Callable[[], list[int]],
) -> None:
    with ProcessExecutor(2, writer, seconds=3, memory=GIB) as executor:
        executor.submit(os.getpid).result()
        with demo.fault("hang", path="/000001/", seconds=3600):
            hangs = executor.submit(
                run_job, job_harness.job_context(), job_harness.job("visit", "demo:000001")
            )
            sleeps = executor.submit(subprocess.run, ["sleep", "300"])
            (child,) = wait_until(lambda: [pid for one in workers() for pid in started_by(one)])
            with pytest.raises(JobTimeoutError, match=r"demo:000001 \(visit\): .* 3 s"):
                hangs.result()
            with pytest.raises(JobTimeoutError, match=r"run: .* 3 s"):
                sleeps.result()
        assert not is_alive(child)
        assert mirror_harness.refs() == {}
        assert executor.submit(int, "7", base=8).result() == 7
        # leaving the executor kills jobs that do not finish
        hangs = executor.submit(subprocess.run, ["sleep", "300"])
        pids = wait_until(lambda: [pid for worker in workers() for pid in started_by(worker)])
    with pytest.raises(WorkerLostError):
        hangs.result()
    wait_until(lambda: not any(map(is_alive, pids)))
    assert workers() == []


def started_by(pid: int) -> list[int]:
    """The children of a process."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(one) for task in tasks for one in (task / "children").read_text().split()]
    except FileNotFoundError:
        return []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits memory")
def test_a_job_over_its_memory_limit_is_killed_and_its_worker_replaced(writer: Writer) -> None:
    with ProcessExecutor(1, writer, seconds=60, memory=200 * MIB) as executor:
        for much in (
            "bytearray(8 << 30)",  # the kernel refuses it
            "[b'x' * (300 << 20), __import__('time').sleep(60)]",  # it is seen
        ):
            before = executor.submit(os.getpid).result()
            with pytest.raises(WorkerLostError, match=" 200 MiB "):
                executor.submit(eval, much).result()
            assert not is_alive(before), much
        # one that holds more than half of the limit is replaced before the next job
        kept = "__import__('sys').__dict__.update(kept=b'x' * (150 << 20))"
        left = executor.submit(eval, f"{kept} or __import__('os').getpid()").result()
        assert left != before
        assert executor.submit(os.getpid).result() != left


def test_an_error_of_a_job_keeps_its_type_and_traceback(worker_pair: Executor) -> None:
    with pytest.raises(ZeroDivisionError) as found:
        worker_pair.submit(eval, "1 / 0").result()
    assert 'File "<string>", line 1' in found.value.__notes__[0]
    with pytest.raises(FileNotFoundError) as missing:
        worker_pair.submit(os.stat, "/nowhere").result()
    assert (missing.value.errno, missing.value.filename) == (errno.ENOENT, "/nowhere")
    with pytest.raises(NeuromirrorError, match="Can't pickle <function <lambda>"):
        worker_pair.submit(eval, "lambda: 0").result()
    with pytest.raises(NeuromirrorError, match="cannot be given to a worker"):
        worker_pair.submit(lambda: 0).result()
    assert worker_pair.submit(int, "7", base=8).result() == 7


def test_a_job_whose_lease_was_taken_over_writes_nothing(
    job_harness: JobHarness, mirror_harness: MirrorHarness, demo: DemoArchive, worker_pair: Executor
) -> None:
    with demo.fault("hang", path="/000001/", seconds=3600) as hanging:
        job = job_harness.job(
            "visit", "demo:000001", lease=job_harness.lease("demo:000001", seconds=0.2)
        )
        fenced = worker_pair.submit(run_job, job_harness.job_context(), job)
        wait_until(lambda: hanging.struck)
        time.sleep(0.2)
        job_harness.lease("demo:000001")
        before = mirror_harness.file_digests()
    (result,) = fenced.result().results
    assert (result.status, result.visit) == ("error", "failed")
    assert "lease" in result.message
    assert mirror_harness.refs() == {}
    journal = "neuromirror/journal.jsonl"
    assert mirror_harness.file_digests().get(journal) == before.get(journal)
    mirror_harness.fsck(killed=True)


_SERVICE = """
import subprocess
from pathlib import Path
from neuromirror.crawl import open_recorder
from neuromirror.index import Schedule
from neuromirror.service.executors import ProcessExecutor
from neuromirror.service.writer import Writer
from neuromirror.store import Store

store = Store.open(Path(folder), create=True)
with (
    open_recorder(store, store.index_path) as recorder,
    Schedule.open(store.schedule_path) as schedule,
    ProcessExecutor(1, Writer(recorder, schedule), 600, 1 << 30) as executor,
):
    executor.submit(subprocess.run, ["sh", "-c", "echo $$ $PPID >&2; exec sleep 300"]).result()
"""


def test_a_service_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading) as output:
        first = f"folder = {str(tmp_path / 'store')!r}\n{_SERVICE}"
        service = fork_command([], writing, writing, first=first)
        os.close(writing)
        pids = [int(pid) for pid in output.readline().split()]
        assert all(map(is_alive, pids))
        service.kill()
    wait_until(lambda: not any(map(is_alive, pids)))


def test_workers_elsewhere_get_neither_index_nor_private_store(job_harness: JobHarness) -> None:
    store, private = job_harness.mirror_harness.store, Path("private")
    here = job_context(store, store.index_path, private, remote=False)
    assert (here.index, here.private) == (store.index_path, private)
    there = job_context(store, store.index_path, None, remote=True)
    assert (there.store, there.index, there.private) == (store.root, None, None)
    with pytest.raises(ConfigurationError, match="--private-store"):
        job_context(store, store.index_path, private, remote=True)


def test_git_processes_of_a_job_have_the_limit_too(worker_pair: Executor) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux limits memory")
    output = worker_pair.submit(subprocess.check_output, ["sh", "-c", "ulimit -d"]).result()
    assert int(output) * 1024 == GIB + 512 * MIB
