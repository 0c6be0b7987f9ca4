"""Scheduling of housekeeping tasks, and embargoed datasets of a service."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from neuromirror.crawl import FailureLog, open_recorder, rebuild_index
from neuromirror.index import Schedule
from neuromirror.lab.audit import AuditSettings
from neuromirror.model import NeuromirrorError
from neuromirror.service import housekeeping
from neuromirror.service.housekeeping import HousekeepingScheduler, HousekeepingTask
from neuromirror_demo import DemoArchive
from support.embargo_harness import ID, NAME, EmbargoHarness
from support.mirror_harness import MirrorHarness
from support.service_harness import DAY, HOUR, ManualClock, RecordingObserver


@pytest.fixture
def schedule(mirror_harness: MirrorHarness) -> Iterator[Schedule]:
    with Schedule.open(mirror_harness.store.schedule_path) as opened:
        yield opened


@pytest.fixture
def log(mirror_harness: MirrorHarness) -> Iterator[FailureLog]:
    store = mirror_harness.store
    with open_recorder(store, store.index_path) as recorder:
        yield FailureLog(recorder)


class RecordedTasks:
    """Return tasks that count their runs and fail on request."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.fails: set[str] = set()

    def task(self, name: str, every: float) -> HousekeepingTask:
        def run() -> str:
            self.done.append(name)
            if name in self.fails:
                raise NeuromirrorError(f"{name} is broken")
            return f"{name} is done"

        return HousekeepingTask(name, every, run)


def test_housekeeping_tasks_run_when_due_and_are_recorded(
    schedule: Schedule, log: FailureLog
) -> None:
    work, clock = RecordedTasks(), ManualClock()
    tasks = [work.task("hourly", HOUR), work.task("daily", DAY)]
    assert (
        HousekeepingScheduler(tasks, schedule, RecordingObserver(), log, clock=clock).run_due() == 0
    )
    assert work.done == ["hourly", "daily"]
    # another service knows of it
    times = HousekeepingScheduler(tasks, schedule, RecordingObserver(), log, clock=clock)
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
    row = schedule.task("housekeeping daily")
    assert row is not None
    assert (row.status, row.message, row.failures) == ("ok", "daily is done", 0)


def test_a_failed_housekeeping_task_is_logged_and_stops_no_other(
    schedule: Schedule, log: FailureLog
) -> None:
    work, clock = RecordedTasks(), ManualClock()
    work.fails.add("one")
    times = HousekeepingScheduler(
        [work.task("one", HOUR), work.task("two", HOUR)],
        schedule,
        RecordingObserver(),
        log,
        clock=clock,
    )
    assert times.run_due() == 1
    clock.now += 2 * HOUR
    assert times.run_due() == 1
    assert work.done == ["one", "two"] * 2
    row = schedule.task("housekeeping one")
    assert row is not None
    assert (row.status, row.message, row.failures) == ("failed", "one is broken", 2)


def test_a_failed_housekeeping_task_stays_recorded_until_it_succeeds(
    schedule: Schedule, log: FailureLog, mirror_harness: MirrorHarness
) -> None:
    work, clock = RecordedTasks(), ManualClock()
    work.fails.add("backup")
    times = HousekeepingScheduler(
        [work.task("backup", HOUR)], schedule, RecordingObserver(), log, clock=clock
    )
    assert times.run_due() == 1
    with mirror_harness.index() as index:
        (failure,) = index.failures()
    assert (failure.task, failure.mirror, failure.dataset) == ("backup", "", None)
    rebuild_index(mirror_harness.store, mirror_harness.store.index_path)
    with mirror_harness.index() as index:
        assert index.failures() == [failure]
    work.fails.clear()
    clock.now += 2 * HOUR
    assert times.run_due() == 0
    with mirror_harness.index() as index:
        assert index.failures() == []


def test_no_housekeeping_task_starts_while_the_service_stops(
    schedule: Schedule, log: FailureLog
) -> None:
    work = RecordedTasks()
    over = [False]

    def last() -> str:
        over[0] = True
        return "the last one"

    tasks = [HousekeepingTask("last", HOUR, last), work.task("never", HOUR)]
    HousekeepingScheduler(tasks, schedule, RecordingObserver(), log, lambda: over[0]).run_due()
    assert work.done == []


def test_a_clock_that_was_ahead_does_not_delay_a_housekeeping_task(
    schedule: Schedule, log: FailureLog
) -> None:
    work, clock = RecordedTasks(), ManualClock()
    clock.now += 30 * DAY
    times = HousekeepingScheduler(
        [work.task("hourly", HOUR)], schedule, RecordingObserver(), log, clock=clock
    )
    times.run_due()
    clock.now -= 30 * DAY
    times.run_due()
    assert len(work.done) == 2


def test_what_is_under_embargo_goes_to_the_private_store_and_nowhere_else(
    full_demo: DemoArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit_settings = AuditSettings(allowed=("127.0.0.1",), per_second=1000.0)
    monkeypatch.setattr(housekeeping, "audit_settings_of", lambda *_: audit_settings)
    embargo = EmbargoHarness(full_demo, tmp_path / "stores")
    embargo.write_mirror_file()
    private = str(embargo.private)
    printed = embargo.run(
        *("serve", "--once", "--executor", "threads"), NEUROMIRROR_PRIVATE_STORE=private
    )
    assert embargo.embargoed_line(printed) == f"ok {NAME} embargoed: new state in the private store"
    assert embargo.commits(embargo.private)
    with Schedule.open(embargo.public / "neuromirror" / "schedule.sqlite") as opened:
        assert opened.task(NAME) is None
    embargo.assert_no_canary_outside()

    full_demo.unembargo(ID)
    with Schedule.open(embargo.public / "neuromirror" / "schedule.sqlite") as opened:
        row = opened.task("demo")
        assert row is not None
        opened.drop(["demo"])
    embargo.run("serve", "--once", "--executor", "threads", NEUROMIRROR_PRIVATE_STORE=private)
    assert embargo.commits(embargo.public)


def test_without_its_private_store_such_a_mirror_is_not_served(
    full_demo: DemoArchive, tmp_path: Path
) -> None:
    embargo = EmbargoHarness(full_demo, tmp_path / "stores")
    embargo.write_mirror_file()
    result = embargo.run("serve", "--once", code=2)
    assert "with --private-store or NEUROMIRROR_PRIVATE_STORE" in result
    assert not embargo.public.exists()
