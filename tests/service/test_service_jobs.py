"""Jobs: what workers do by way of the desk is what a sync does by itself."""

from __future__ import annotations

import multiprocessing
import pickle
import socket
import threading
from concurrent.futures import ProcessPoolExecutor

import pytest
from crawl_place import Place
from service_office import Office

from neuromirror.crawl import rebuild_index, recording
from neuromirror.model import EventRaised, NeuromirrorError
from neuromirror.service.desk import Desk, DeskAddress, DeskGone, DeskRecorder
from neuromirror.service.jobs import do
from neuromirror.service.leases import Lease


def _all_visited(office: Office, *, far: bool) -> list[str]:
    """Reads the list, visits what is due, brings on the super-datasets; gives what was visited."""
    listed = office.do("list", "demo", far=far)
    names = [task.hint.dataset.local_id for task in listed.due]
    for task in listed.due:
        local_id = task.hint.dataset.local_id
        done = office.do("visit", f"demo:{local_id}", hint=task.hint, far=far)
        assert [one.exit_code for one in done.results] == [0], done.results
    assert [one for one in office.do("group", "demo", far=far).results if one.exit_code] == []
    return names


@pytest.mark.parametrize("far", [False, True])
def test_jobs_of_workers_make_what_a_sync_makes(
    office: Office, place: Place, tmp_path: object, far: bool
) -> None:
    names = _all_visited(office, far=far)
    assert len(names) > 3

    other = Place(place.mirrors, place.folder.with_name("by-sync"))
    other.sync()
    assert _states(place) == _states(other)
    # one waits for its sha256, which only another visit can tell
    assert _all_visited(office, far=far) == ["000004"]
    place.fsck()


def _states(place: Place) -> dict[str, str]:
    """All refs of published versions, and the trees of the others: their commits tell the time."""
    return {name: sha for name, sha in place.refs().items() if "/published" in name}


def test_a_job_goes_to_another_process_and_its_report_comes_back(office: Office) -> None:
    job = office.job("visit", "demo:000001")
    assert pickle.loads(pickle.dumps(job)) == job
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        report = pool.submit(do, office.workplace(), job).result()
    assert [one.status for one in report.results] == ["ok"]
    assert office.place.index().dataset("demo:000001").versions > 0


def test_a_worker_whose_lease_was_taken_over_writes_nothing(office: Office) -> None:
    job = office.job("visit", "demo:000001", lease=office.lease("demo:000001", seconds=-1))
    taken = office.lease("demo:000001")
    before = office.place.content()
    (result,) = do(office.workplace(), job).results
    assert (result.status, result.visit) == ("error", "failed")
    assert "demo:000001: the lease of this visit is over" in result.message
    refs = office.place.refs()
    assert refs == {}
    assert set(office.place.content()) >= set(before)
    office.schedule.give_back(taken.name, taken.token)
    # and the next one finds nothing in its way
    assert office.do("visit", "demo:000001").results[0].status == "ok"
    office.place.fsck(killed=True)


def test_a_lease_that_nobody_has_taken_over_is_good_after_its_time(office: Office) -> None:
    lease = office.lease("demo:000001", seconds=-1)
    assert office.do("visit", "demo:000001", lease=lease).results[0].status == "ok"


def test_a_stranger_is_not_let_in(office: Office) -> None:
    address = DeskAddress(office.desk.address.place, b"a guess")
    with pytest.raises(DeskGone, match="does not answer"):
        DeskRecorder(address, office.lease("demo"), None)
    # the desk goes on
    assert office.do("visit", "demo:000001").results[0].status == "ok"


def test_a_stranger_who_says_nothing_holds_nobody_up(office: Office) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(office.desk.address.place))
        assert office.do("visit", "demo:000001").results[0].status == "ok"


def test_an_index_that_was_made_anew_is_the_one_that_is_asked(office: Office) -> None:
    office.do("visit", "demo:000001")
    rebuild_index(office.place.store, office.place.store.index_path)
    with recording(office.place.store, office.place.store.index_path) as another:
        moment = "2024-03-01T00:00:00+00:00"
        another.record(EventRaised("demo", "000001", "incident", "told elsewhere", moment))
    far = DeskRecorder(office.desk.address, office.lease("demo"), None)
    told = far.ask(lambda index: [one.message for one in index.events("demo:000001")])
    far.close()
    assert "told elsewhere" in told


def test_the_index_is_asked_questions_and_nothing_else_from_afar(office: Office) -> None:
    recorder = DeskRecorder(office.desk.address, office.lease("demo"), None)
    for name in ("_db", "catch_up"):
        with pytest.raises(NeuromirrorError, match="is not asked"):
            recorder._call("ask", name, (), {})
    recorder.close()


def test_a_worker_whose_service_ended_says_so(office: Office) -> None:
    recorder = DeskRecorder(office.desk.address, office.lease("demo"), None)
    office.desk.close()
    with pytest.raises(DeskGone, match="the next one does it again"):
        recorder.confirm()
    recorder.close()


def test_a_desk_closes_at_once_whoever_came_last(office: Office) -> None:
    for number in range(40):
        desk = Desk(office.recorder, office.schedule)
        if number % 3:
            recorder = DeskRecorder(desk.address, Lease("demo", 1), None)
            if number % 3 == 2:
                recorder.close()
        closing = threading.Thread(target=desk.close, daemon=True)
        closing.start()
        closing.join(600)
        assert not closing.is_alive()
