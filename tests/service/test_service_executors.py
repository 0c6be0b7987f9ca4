"""Executors: jobs in processes have limits, and what ends one of them harms nothing else."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path

import pytest
from crawl_place import Place
from service_office import Office
from service_states import alive, expect_same, minted, states, until

from neuromirror.model import ConfigurationError, NeuromirrorError
from neuromirror.service.desk import DeskAddress
from neuromirror.service.executors import (
    NoScheduler,
    TookTooLong,
    WorkerLost,
    desk_host,
    processes,
    threads,
    workplace,
)
from neuromirror.service.jobs import Job, Report, do
from neuromirror.service.jobs import Place as Workplace
from neuromirror_demo import DemoArchive

MIB = 1 << 20
GIB = 1 << 30


@pytest.fixture
def two() -> Iterator[Executor]:
    """Two worker processes."""
    with processes(2, seconds=120, memory=GIB) as executor:
        yield executor


def done_by(executor: Executor, office: Office, *jobs: Job) -> list[Report]:
    """What came of jobs that were all submitted at once; their leases are given back."""
    running = [executor.submit(do, office.workplace(), job) for job in jobs]
    try:
        return [one.result() for one in running]
    finally:
        for job in jobs:
            office.schedule.give_back(job.lease.name, job.lease.token)


def visit_all(office: Office, executor: Executor) -> int:
    """Reads the list, visits all that is due at once, brings on what is above; gives how many."""
    (listed,) = done_by(executor, office, office.job("list", "demo"))
    jobs = [
        office.job("visit", f"demo:{task.hint.dataset.local_id}", hint=task.hint)
        for task in listed.due
    ]
    reports = done_by(executor, office, *jobs)
    reports += done_by(executor, office, office.job("group", "demo"))
    assert [one.message for told in reports for one in told.results if one.exit_code] == []
    return len(jobs)


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_visits_side_by_side_make_what_a_sync_makes(
    office: Office, place: Place, tmp_path: Path, two: Executor, kind: str
) -> None:
    if kind == "threads":
        with threads(2) as executor:
            visited = visit_all(office, executor)
    else:
        visited = visit_all(office, two)
    assert visited > 3
    place.fsck()
    before = states(place)
    expect_same(place, tmp_path / "by-sync")
    assert before.items() <= states(place).items()


def test_a_visit_whose_worker_is_killed_is_done_again_and_others_go_on(
    office: Office, place: Place, demo: DemoArchive, tmp_path: Path
) -> None:
    job = office.job("visit", "demo:000001")
    with (
        demo.fault("hang", path="/000001/", seconds=3600) as hanging,
        processes(2, seconds=120, memory=GIB) as executor,
    ):
        doomed = executor.submit(do, office.workplace(), job)
        until(lambda: hanging.struck)
        (worker,) = set(workers()) - {executor.submit(os.getpid).result()}
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(WorkerLost, match=r"demo:000001 \(visit\): .* killed \(SIGKILL\)"):
            doomed.result()
        hanging.clear()
        office.schedule.give_back(job.lease.name, job.lease.token)
        again = [office.job("visit", f"demo:00000{one}") for one in (1, 2)]
        for report in done_by(executor, office, *again):
            assert [one.status for one in report.results] == ["ok"]
    expect_same(place, tmp_path / "by-sync")


@pytest.mark.parametrize(
    ("event", "part"),
    [
        ("open", "tmp_pack_"),
        ("os.rename", ".idx"),
        ("os.rename", "packed-refs"),
        ("os.rename", "info/refs"),
    ],
)
def test_a_worker_may_be_killed_while_it_writes(
    office: Office, place: Place, tmp_path: Path, two: Executor, event: str, part: str
) -> None:
    job = office.job("visit", "demo:000001")
    with pytest.raises(WorkerLost, match=r"killed \(SIGKILL\)"):
        two.submit(do_killed, office.workplace(), job, event, part).result()
    office.schedule.give_back(job.lease.name, job.lease.token)
    (report,) = done_by(two, office, office.job("visit", "demo:000001"))
    assert [one.exit_code for one in report.results] == [0]
    assert {"main", "git-annex"} <= {name.rpartition("/")[2] for name in place.refs()}
    versions = [name for name in minted(place) if name[1] == "000001"]
    assert versions
    assert {minted(place)[name] for name in versions} == {1}
    place.fsck(killed=True)
    assert place.sync("demo:000001")["demo:000001"].exit_code == 0


def do_killed(place: Workplace, job: Job, event: str, part: str) -> Report:
    """In a worker: does a job until a step whose arguments name ``part``, and dies there."""

    def die(told: str, arguments: tuple[object, ...]) -> None:
        if told == event and part in str(arguments):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(die)
    return do(place, job)


def workers() -> list[int]:
    """The worker processes of this process."""
    found = [
        int(pid)
        for task in Path("/proc/self/task").iterdir()
        for pid in (task / "children").read_text().split()
    ]
    return [pid for pid in found if b"service.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_a_job_over_its_time_is_ended_with_what_it_started_and_others_go_on(
    office: Office, place: Place, demo: DemoArchive
) -> None:
    with processes(2, seconds=3, memory=GIB) as executor:
        executor.submit(os.getpid).result()
        with demo.fault("hang", path="/000001/", seconds=3600):
            hangs = executor.submit(do, office.workplace(), office.job("visit", "demo:000001"))
            sleeps = executor.submit(subprocess.run, ["sleep", "300"])
            (child,) = until(lambda: [pid for one in workers() for pid in started_by(one)])
            with pytest.raises(TookTooLong, match=r"demo:000001 \(visit\): not done after 3 s"):
                hangs.result()
            with pytest.raises(TookTooLong, match="run: not done after 3 s"):
                sleeps.result()
        assert not alive(child)
        assert place.refs() == {}
        assert executor.submit(int, "7", base=8).result() == 7
    assert workers() == []


def started_by(pid: int) -> list[int]:
    """The children of a process."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(one) for task in tasks for one in (task / "children").read_text().split()]
    except FileNotFoundError:
        return []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits memory")
@pytest.mark.parametrize(
    "much",
    [
        "bytearray(8 << 30)",  # the kernel refuses it
        "[b'x' * (9 << 20) * n for n in range(1, 99)]",
        "[b'x' * (300 << 20), __import__('time').sleep(60)]",  # it is seen
    ],
)
def test_a_job_over_its_memory_is_ended_and_the_next_has_a_new_worker(much: str) -> None:
    with processes(1, seconds=60, memory=200 * MIB) as executor:
        before = executor.submit(os.getpid).result()
        with pytest.raises(WorkerLost, match="more than the 200 MiB of memory that a job may have"):
            executor.submit(eval, much).result()
        assert executor.submit(os.getpid).result() != before
        assert not alive(before)


def test_git_processes_of_a_job_have_the_limit_too(two: Executor) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux limits memory")
    told = two.submit(subprocess.check_output, ["sh", "-c", "ulimit -d"]).result()
    assert int(told) * 1024 == GIB + 512 * MIB


def test_a_worker_that_holds_much_is_replaced_before_the_next_job() -> None:
    kept = "sys.modules['sys'].__dict__.update(kept=b'x' * (150 << 20)) or os.getpid()"
    kept = f"exec('import os, sys') or {kept}"
    with processes(1, seconds=60, memory=256 * MIB) as executor:
        left = executor.submit(eval, kept).result()
        assert executor.submit(os.getpid).result() != left


def test_a_worker_that_died_idle_is_no_loss(two: Executor) -> None:
    idle = two.submit(os.getpid).result()
    os.kill(idle, signal.SIGKILL)
    until(lambda: not alive(idle))
    pids = [two.submit(os.getpid) for _ in range(20)]
    assert idle not in {one.result() for one in pids}


def test_an_error_of_a_job_comes_as_it_is_and_tells_where_it_was_raised(two: Executor) -> None:
    with pytest.raises(ZeroDivisionError) as found:
        two.submit(eval, "1 / 0").result()
    assert 'File "<string>", line 1' in found.value.__notes__[0]
    with pytest.raises(FileNotFoundError) as missing:
        two.submit(os.stat, "/nowhere").result()
    assert (missing.value.errno, missing.value.filename) == (errno.ENOENT, "/nowhere")
    with pytest.raises(NeuromirrorError, match="Can't pickle <function <lambda>"):
        two.submit(eval, "lambda: 0").result()
    with pytest.raises(NeuromirrorError, match="cannot be given to a worker"):
        two.submit(lambda: 0).result()
    assert two.submit(int, "7", base=8).result() == 7


def test_a_job_whose_lease_was_taken_over_writes_nothing(
    office: Office, place: Place, demo: DemoArchive, two: Executor
) -> None:
    with demo.fault("hang", path="/000001/", seconds=3600) as hanging:
        job = office.job("visit", "demo:000001", lease=office.lease("demo:000001", seconds=0.2))
        fenced = two.submit(do, office.workplace(), job)
        until(lambda: hanging.struck)
        time.sleep(0.2)
        office.lease("demo:000001")
        before = place.content()
    (result,) = fenced.result().results
    assert (result.status, result.visit) == ("error", "failed")
    assert "the lease of this visit is over" in result.message
    assert place.refs() == {}
    journal = "neuromirror/journal.jsonl"
    assert place.content().get(journal) == before.get(journal)
    place.fsck(killed=True)


def test_leaving_gives_running_jobs_their_time_and_cancels_the_others() -> None:
    with processes(1, seconds=60, memory=GIB, grace=20) as executor:
        executor.submit(os.getpid).result()
        runs = executor.submit(time.sleep, 0.5)
        until(runs.running)
        waits = executor.submit(os.getpid)
    assert runs.result() is None
    assert waits.cancelled()


def test_leaving_ends_what_does_not_end_by_itself() -> None:
    with processes(2, seconds=600, memory=GIB, grace=0.2) as executor:
        hangs = executor.submit(subprocess.run, ["sleep", "300"])
        pids = until(lambda: [pid for one in workers() for pid in started_by(one)])
    with pytest.raises(WorkerLost, match="was ended with the service"):
        hangs.result()
    until(lambda: not any(map(alive, pids)))
    assert workers() == []


_SERVICE = """
import subprocess
from neuromirror.service.executors import processes

with processes(1, 600, 1 << 30) as executor:
    executor.submit(subprocess.run, ["sh", "-c", "echo $$ $PPID >&2; exec sleep 300"]).result()
"""


def test_a_service_that_is_killed_leaves_no_process() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _SERVICE], stderr=subprocess.PIPE, text=True
    ) as service:
        assert service.stderr is not None
        pids = [int(pid) for pid in service.stderr.readline().split()]
        assert all(map(alive, pids))
        service.kill()
    until(lambda: not any(map(alive, pids)))


def test_threads_are_left_in_time() -> None:
    with threads(1, grace=0.1) as executor:
        runs = executor.submit(time.sleep, 1)
        until(runs.running)
        waits = executor.submit(os.getpid)
    assert waits.cancelled()
    assert not runs.done()
    runs.result()


def test_a_desk_for_workers_elsewhere_listens_where_the_scheduler_is_reached(
    office: Office, place: Place
) -> None:
    assert desk_host(None) is None
    assert desk_host(None, "10.0.0.1") is None
    assert desk_host("tcp://nowhere.invalid:8786", "10.0.0.1") == "10.0.0.1"
    with socket.create_server(("127.0.0.1", 0)) as scheduler:
        port = scheduler.getsockname()[1]
        for address in (f"tcp://127.0.0.1:{port}", f"tls://localhost:{port}", f"localhost:{port}"):
            assert desk_host(address) == "127.0.0.1"
    with pytest.raises(NoScheduler, match=f"127.0.0.1:{port} cannot be reached"):
        desk_host(f"127.0.0.1:{port}")
    for wrong in ("here", "tcp://here", "tcp://here:port", ""):
        with pytest.raises(ConfigurationError, match="not the address of a Dask scheduler"):
            desk_host(wrong)


def test_workers_elsewhere_get_neither_index_nor_private_store(office: Office) -> None:
    store = office.place.store
    here, private = office.desk.address, Path("private")
    assert workplace(store, store.index_path, private, here).index == store.index_path
    afar = DeskAddress(("10.0.0.1", 4711), b"key")
    assert workplace(store, store.index_path, None, afar) == (
        type(office.workplace())(store.root, None, None, afar)
    )
    with pytest.raises(ConfigurationError, match="--private-store"):
        workplace(store, store.index_path, private, afar)
