"""What a service does beside its visits: chores at their times, and what is under embargo."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from crawl_place import Place
from embargo_place import ID, NAME, Embargo
from service_engine import DAY, HOUR, Clock, Counted

from neuromirror.crawl import FailureLog, rebuild_index, recording
from neuromirror.index import Schedule
from neuromirror.model import NeuromirrorError
from neuromirror.service.chore_times import ChoreTimes
from neuromirror.service.chores import Chore
from neuromirror_demo import DemoArchive


@pytest.fixture
def schedule(place: Place) -> Iterator[Schedule]:
    with Schedule.open(place.store.schedule_path) as opened:
        yield opened


@pytest.fixture
def log(place: Place) -> Iterator[FailureLog]:
    store = place.store
    with recording(store, store.index_path) as recorder:
        yield FailureLog(recorder)


class Work:
    """Chores that count, and fail if they are told to."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.fails: set[str] = set()

    def chore(self, name: str, every: float) -> Chore:
        def run() -> str:
            self.done.append(name)
            if name in self.fails:
                raise NeuromirrorError(f"{name} is broken")
            return f"{name} is done"

        return Chore(name, every, run)


def test_chores_are_done_at_their_times_and_remembered(schedule: Schedule, log: FailureLog) -> None:
    work, clock = Work(), Clock()
    chores = [work.chore("hourly", HOUR), work.chore("daily", DAY)]
    assert ChoreTimes(chores, schedule, Counted(), log, clock=clock).run_due() == 0
    assert work.done == ["hourly", "daily"]
    # another service knows of it
    times = ChoreTimes(chores, schedule, Counted(), log, clock=clock)
    clock.now += HOUR / 2
    times.run_due()
    assert work.done == ["hourly", "daily"]
    clock.now += HOUR
    times.run_due()
    assert work.done == ["hourly", "daily", "hourly"]
    # once, however long it was away
    clock.now += 100 * DAY
    times.run_due()
    assert work.done[3:] == ["hourly", "daily"]
    row = schedule.task("chore daily")
    assert row is not None
    assert (row.status, row.message, row.failures) == ("ok", "daily is done", 0)


def test_a_chore_that_fails_stops_no_other_and_is_told(schedule: Schedule, log: FailureLog) -> None:
    work, clock = Work(), Clock()
    work.fails.add("one")
    times = ChoreTimes(
        [work.chore("one", HOUR), work.chore("two", HOUR)], schedule, Counted(), log, clock=clock
    )
    assert times.run_due() == 1
    clock.now += 2 * HOUR
    assert times.run_due() == 1
    assert work.done == ["one", "two"] * 2
    row = schedule.task("chore one")
    assert row is not None
    assert (row.status, row.message, row.failures) == ("failed", "one is broken", 2)


def test_a_failed_chore_is_on_record_until_it_succeeds(
    schedule: Schedule, log: FailureLog, place: Place
) -> None:
    work, clock = Work(), Clock()
    work.fails.add("backup")
    times = ChoreTimes([work.chore("backup", HOUR)], schedule, Counted(), log, clock=clock)
    assert times.run_due() == 1
    with place.index() as index:
        (failure,) = index.failures()
    assert (failure.task, failure.mirror, failure.dataset) == ("backup", "", None)
    rebuild_index(place.store, place.store.index_path)
    with place.index() as index:
        assert index.failures() == [failure]
    work.fails.clear()
    clock.now += 2 * HOUR
    assert times.run_due() == 0
    with place.index() as index:
        assert index.failures() == []


def test_no_chore_is_begun_when_the_service_ends(schedule: Schedule, log: FailureLog) -> None:
    work = Work()
    over = [False]

    def last() -> str:
        over[0] = True
        return "the last one"

    chores = [Chore("last", HOUR, last), work.chore("never", HOUR)]
    ChoreTimes(chores, schedule, Counted(), log, lambda: over[0]).run_due()
    assert work.done == []


def test_a_clock_that_was_ahead_does_not_put_a_chore_off(
    schedule: Schedule, log: FailureLog
) -> None:
    work, clock = Work(), Clock()
    clock.now += 30 * DAY
    times = ChoreTimes([work.chore("hourly", HOUR)], schedule, Counted(), log, clock=clock)
    times.run_due()
    clock.now -= 30 * DAY
    times.run_due()
    assert len(work.done) == 2


def test_what_is_under_embargo_goes_to_the_private_store_and_nowhere_else(
    demo: DemoArchive, tmp_path: Path
) -> None:
    embargo = Embargo(demo, tmp_path / "stores")
    embargo.mirror()
    private = str(embargo.private)
    printed = embargo.run(
        *("serve", "--once", "--executor", "threads"), NEUROMIRROR_PRIVATE_STORE=private
    )
    assert embargo.line(printed) == f"ok {NAME} embargoed: the private store has a new state of it"
    assert embargo.commits(embargo.private)
    with Schedule.open(embargo.public / "neuromirror" / "schedule.sqlite") as opened:
        assert opened.task(NAME) is None
    embargo.assert_silent()

    demo.unembargo(ID)
    with Schedule.open(embargo.public / "neuromirror" / "schedule.sqlite") as opened:
        row = opened.task("demo")
        assert row is not None
        opened.drop(["demo"])
    embargo.run("serve", "--once", "--executor", "threads", NEUROMIRROR_PRIVATE_STORE=private)
    assert embargo.commits(embargo.public)


def test_without_its_private_store_such_a_mirror_is_not_served(
    demo: DemoArchive, tmp_path: Path
) -> None:
    embargo = Embargo(demo, tmp_path / "stores")
    embargo.mirror()
    said = embargo.run("serve", "--once", code=2)
    assert "name its folder, outside the public store, with --private-store" in said
    assert not embargo.public.exists()
