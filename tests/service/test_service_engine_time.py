"""Time and death: clocks that jump, months without a service, leases of those who are no more."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from crawl_place import Place
from service_engine import DAY, HOUR, Clock, Held, works_of

from neuromirror.model import DatasetRef
from neuromirror.service import leftovers
from neuromirror.service.leases import owner
from neuromirror_demo import DemoArchive


def dead_owner() -> str:
    """The owner that a process names that is dead by now."""
    told = "from neuromirror.service.leases import owner; print(owner('serve'))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@contextmanager
def sleeping() -> Iterator[int]:
    """The number of a process that lives as long as the block lasts."""
    with subprocess.Popen(["sleep", "600"]) as process:
        try:
            yield process.pid
        finally:
            process.kill()


def test_a_new_service_goes_on_where_the_last_one_was(place: Place, demo: DemoArchive) -> None:
    with works_of(place) as works:
        works.settle()
        works.group()
        clock = works.clock
    demo.clear_requests()
    with works_of(place, clock=clock) as works:
        assert works.settle() == []
        assert demo.requests == []
        clock.now += 2 * HOUR
        assert works.settle()[0] == "list"


def test_a_first_service_on_a_store_of_syncs_visits_nothing_that_is_current(
    place: Place, demo: DemoArchive
) -> None:
    place.sync()
    with works_of(place) as works:
        done = works.settle()
        # one waits for a checksum
        assert done.count("visit") <= 1
        rows = [row for row in works.office.schedule.tasks("demo") if row.local_id]
        assert {row.name for row in rows} == {
            f"demo:{one.local_id}" for one in place.index().datasets("demo") if not one.within
        }
        assert all(row.source_uri and row.deep_due for row in rows)
        # deep visits of them are not all on one day
        days = {int(((row.deep_due or 0) - works.clock.now) / DAY) for row in rows}
        assert len(days) > 3
        # and what changes is found
        demo.add_file("000001", "sub-9/sub-9_new.nwb", content=b"new")
        works.clock.now += 2 * HOUR
        works.settle()
        assert works.heard()["demo:000001"].versions


def test_what_another_program_has_visited_is_not_due_any_more(
    place: Place, demo: DemoArchive
) -> None:
    with works_of(place) as works:
        works.settle()
        demo.add_file("000001", "sub-9/sub-9_new.nwb", content=b"new")
        schedule, row = works.office.schedule, works.row("demo:000001")
        works.clock.now += 2 * HOUR
        schedule.put([replace(row, due=works.clock.now + HOUR, failures=2)])
        place.sync()
        works.settle()
        row = works.row("demo:000001")
        assert (row.due, row.failures) == (None, 0)
        demo.touch("000001")
        works.clock.now += 2 * HOUR
        assert "visit" in works.settle()


@pytest.mark.parametrize("days", [1, 365])
@pytest.mark.parametrize("again", [False, True], ids=["running", "started-anew"])
def test_a_clock_that_is_set_back_does_no_harm(
    place: Place, demo: DemoArchive, again: bool, days: int
) -> None:
    clock = Clock()
    clock.now += days * DAY
    with works_of(place, clock=clock) as works:
        works.settle()
        works.group()
        if not again:
            clock.now -= days * DAY
            works.settle()
            works.heard()
            demo.add_file("000001", "sub-9/sub-9_new.nwb", content=b"new")
            clock.now += 2 * HOUR
            works.settle()
            assert works.heard()["demo:000001"].versions
            return
    clock.now -= days * DAY
    demo.add_file("000001", "sub-9/sub-9_new.nwb", content=b"new")
    with works_of(place, clock=clock) as works:
        works.settle()
        # a list is never put off for longer
        clock.now += 5 * HOUR
        works.settle()
        assert works.heard()["demo:000001"].versions


@pytest.mark.parametrize(
    "jump", [-DAY, DAY, -365 * DAY, 365 * DAY], ids=["back", "on", "a-year-back", "a-year-on"]
)
def test_a_job_under_way_survives_a_clock_that_jumps(place: Place, jump: float) -> None:
    held = Held()
    with works_of(place, executor=held, workers=20) as works:
        works.service.tick()
        works.clock.now += jump
        works.service.tick()
        (lease,) = works.office.schedule.leases(0)
        assert jump > 0 or lease.until <= works.clock.now + 60
        held.do("demo")
        works.service.tick()
        works.settle_writing()
        row = works.row("demo")
        assert (row.status, row.failures) == ("unchanged", 0)
        assert works.clock.now < (row.due or 0) < works.clock.now + 2 * HOUR
        assert 0 <= row.seconds <= max(jump, 0) + HOUR


@pytest.mark.parametrize("days", [1, 365])
def test_a_clock_set_forward_reads_each_list_once(place: Place, days: int) -> None:
    with works_of(place) as works:
        works.settle()
        works.clock.now += days * DAY
        assert works.settle().count("list") == 1


def test_leases_of_a_service_that_was_killed_end_at_the_next_start(place: Place) -> None:
    held = Held()
    with works_of(place, executor=held, workers=2) as works:
        works.service.tick()
        held.do("demo")
        works.service.tick()
        names, schedule = list(held.names), works.office.schedule
        tokens = {one.name: one.token for one in schedule.leases(works.clock.now)}
        assert sorted(tokens) == sorted(names)
        dead = dead_owner()
        for name in names:
            schedule.give_back(name, tokens[name])
            assert schedule.claim(name, dead, works.clock.now, 60)
    with works_of(place) as works:
        assert works.office.schedule.leases(works.clock.now) == []
        works.settle()
        assert set(names) <= set(works.heard())


def test_the_lease_of_the_living_and_of_a_dataset_that_is_locked_is_left_alone(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "_WAIT", 0.1)
    dead = dead_owner()
    with works_of(place) as works:
        works.settle()
        schedule, now = works.office.schedule, works.clock.now
        with sleeping() as other:
            living = owner("sync").replace(f"process {os.getpid()} ", f"process {other} ")
            schedule.claim("demo:000001", living, now, 60)
            schedule.claim("demo:000002", dead, now, 60)
            schedule.claim("demo:000003", dead.replace(" on ", " on elsewhere-"), now, 60)
            schedule.claim("demo", dead, now, 60)
            locked = next(one for one in place.index().datasets("demo") if one.local_id == "000002")
            with place.store.lock(_dataset_id(locked.source_uri), "a test"):
                works.service.start()
            left = {one.name for one in schedule.leases(now)}
            assert left == {"demo:000001", "demo:000002", "demo:000003"}
            works.service.start()
            assert {one.name for one in schedule.leases(now)} == {"demo:000001", "demo:000003"}


def test_a_lease_that_a_wrong_clock_made_too_long_ends(place: Place) -> None:
    with works_of(place) as works:
        schedule, now = works.office.schedule, works.clock.now
        schedule.claim("demo:000001", "a sync that died", now + DAY, 60)
        alive = schedule.claim("demo:000002", "a sync that lives", now + DAY, 60)
        assert alive is not None
        schedule.claim("demo:000003", "a sync of now", now, 60)
        assert works.service._leftovers.end_of_the_future(now) == []
        schedule.renew([("demo:000002", alive)], now, 60)
        assert works.service._leftovers.end_of_the_future(now) == ["demo:000001"]
        left = [one.name for one in schedule.leases(now)]
        assert left == ["demo:000002", "demo:000003"]


def _dataset_id(source_uri: str) -> str:
    return DatasetRef("", "", source_uri).dataset_id
