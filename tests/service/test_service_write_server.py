"""Workers that use the write server produce the same store as a sync."""

from __future__ import annotations

import multiprocessing
import pickle
import socket
import threading
from concurrent.futures import ProcessPoolExecutor

import pytest

from neuromirror.crawl import open_recorder, rebuild_index
from neuromirror.model import EventRaised, NeuromirrorError
from neuromirror.service.jobs import run_job
from neuromirror.service.leases import Lease
from neuromirror.service.write_server import (
    RemoteRecorder,
    WriteServer,
    WriteServerAddress,
    WriteServerLostError,
)
from support.job_harness import JobHarness
from support.mirror_harness import MirrorHarness


def _all_visited(job_harness: JobHarness, *, far: bool) -> list[str]:
    """Read the list, visit due datasets, update the superdatasets; return the visited names."""
    listed = job_harness.run_job("listing", "demo", far=far)
    names = [task.hint.dataset.local_id for task in listed.due]
    for task in listed.due:
        local_id = task.hint.dataset.local_id
        done = job_harness.run_job("visit", f"demo:{local_id}", hint=task.hint, far=far)
        assert [one.exit_code for one in done.results] == [0], done.results
    report = job_harness.run_job("superdatasets", "demo", far=far)
    assert [one for one in report.results if one.exit_code] == []
    return names


@pytest.mark.parametrize("far", [False, True])
def test_jobs_of_workers_make_what_a_sync_makes(
    job_harness: JobHarness, mirror_harness: MirrorHarness, tmp_path: object, far: bool
) -> None:
    names = _all_visited(job_harness, far=far)
    assert len(names) > 3

    other = MirrorHarness(mirror_harness.mirrors, mirror_harness.folder.with_name("by-sync"))
    other.sync()
    assert _states(mirror_harness) == _states(other)
    # one file has no sha256 yet, which needs another visit
    assert _all_visited(job_harness, far=far) == ["000004"]
    mirror_harness.fsck()


def _states(mirror_harness: MirrorHarness) -> dict[str, str]:
    """Return refs of published versions, and trees of others: their commits have times."""
    return {name: sha for name, sha in mirror_harness.refs().items() if "/published" in name}


def test_a_job_goes_to_another_process_and_its_report_comes_back(job_harness: JobHarness) -> None:
    job = job_harness.job("visit", "demo:000001")
    assert pickle.loads(pickle.dumps(job)) == job
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        report = pool.submit(run_job, job_harness.job_context(), job).result()
    assert [one.status for one in report.results] == ["ok"]
    assert job_harness.mirror_harness.index().dataset("demo:000001").versions > 0


def test_a_worker_whose_lease_was_taken_over_writes_nothing(job_harness: JobHarness) -> None:
    job = job_harness.job(
        "visit", "demo:000001", lease=job_harness.lease("demo:000001", seconds=-1)
    )
    taken = job_harness.lease("demo:000001")
    before = job_harness.mirror_harness.file_digests()
    (result,) = run_job(job_harness.job_context(), job).results
    assert (result.status, result.visit) == ("error", "failed")
    assert "lease" in result.message
    refs = job_harness.mirror_harness.refs()
    assert refs == {}
    assert set(job_harness.mirror_harness.file_digests()) >= set(before)
    job_harness.schedule.release(taken.name, taken.token)
    # and the next one finds nothing in its way
    assert job_harness.run_job("visit", "demo:000001").results[0].status == "ok"
    job_harness.mirror_harness.fsck(killed=True)


def test_an_expired_lease_holds_until_another_owner_takes_it(job_harness: JobHarness) -> None:
    lease = job_harness.lease("demo:000001", seconds=-1)
    assert job_harness.run_job("visit", "demo:000001", lease=lease).results[0].status == "ok"


def test_a_client_without_the_key_is_rejected(job_harness: JobHarness) -> None:
    address = WriteServerAddress(job_harness.write_server.address.socket_address, b"a guess")
    with pytest.raises(WriteServerLostError):
        RemoteRecorder(address, job_harness.lease("demo"), None)
    # the write server continues
    assert job_harness.run_job("visit", "demo:000001").results[0].status == "ok"


def test_a_silent_client_blocks_no_other(job_harness: JobHarness) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(job_harness.write_server.address.socket_address))
        assert job_harness.run_job("visit", "demo:000001").results[0].status == "ok"


def test_queries_go_to_a_rebuilt_index(job_harness: JobHarness) -> None:
    job_harness.run_job("visit", "demo:000001")
    rebuild_index(job_harness.mirror_harness.store, job_harness.mirror_harness.store.index_path)
    with open_recorder(
        job_harness.mirror_harness.store, job_harness.mirror_harness.store.index_path
    ) as another:
        moment = "2024-03-01T00:00:00+00:00"
        another.record(EventRaised("demo", "000001", "incident", "recorded elsewhere", moment))
    far = RemoteRecorder(job_harness.write_server.address, job_harness.lease("demo"), None)
    messages = far.ask(lambda index: [one.message for one in index.events("demo:000001")])
    far.close()
    assert "recorded elsewhere" in messages


def test_remote_clients_can_query_the_index_and_nothing_else(job_harness: JobHarness) -> None:
    recorder = RemoteRecorder(job_harness.write_server.address, job_harness.lease("demo"), None)
    for name in ("_db", "catch_up"):
        with pytest.raises(NeuromirrorError, match=name):
            recorder._call("ask", name, (), {})
    recorder.close()


def test_a_worker_reports_the_loss_of_its_service(job_harness: JobHarness) -> None:
    recorder = RemoteRecorder(job_harness.write_server.address, job_harness.lease("demo"), None)
    job_harness.write_server.close()
    with pytest.raises(WriteServerLostError):
        recorder.confirm()
    recorder.close()


def test_a_write_server_closes_at_once_despite_new_connections(job_harness: JobHarness) -> None:
    for number in range(40):
        write_server = WriteServer(job_harness.recorder, job_harness.schedule)
        if number % 3:
            recorder = RemoteRecorder(write_server.address, Lease("demo", 1), None)
            if number % 3 == 2:
                recorder.close()
        closing = threading.Thread(target=write_server.close, daemon=True)
        closing.start()
        closing.join(600)
        assert not closing.is_alive()
