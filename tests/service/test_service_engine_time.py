"""Time and death: clocks that jump, months without a service, leases of those who are no more."""

import pytest
from msgspec.structs import replace

from neuromirror_demo import DemoArchive
from support.mirror_harness import MirrorHarness
from support.service_harness import DAY, HOUR, ManualClock, ManualExecutor, open_service_harness


def test_a_new_service_goes_on_where_the_last_one_was(
    mirror_harness: MirrorHarness, demo: DemoArchive
) -> None:
    with open_service_harness(mirror_harness) as harness:
        harness.settle()
        harness.write_superdatasets()
        clock = harness.clock
    demo.clear_requests()
    with open_service_harness(mirror_harness, clock=clock) as harness:
        assert harness.settle() == []
        assert demo.requests == []
        clock.now += 2 * HOUR
        assert harness.settle()[0] == "listing"


@pytest.mark.parametrize("dandisets", [7])
def test_a_first_service_on_a_store_of_syncs_visits_nothing_that_is_current(
    mirror_harness: MirrorHarness, demo: DemoArchive
) -> None:
    mirror_harness.sync()
    with open_service_harness(mirror_harness) as harness:
        assert "visit" not in harness.settle()
        rows = [row for row in harness.job_harness.schedule.tasks("demo") if row.local_id]
        assert {row.name for row in rows} == {
            f"demo:{one.local_id}" for one in mirror_harness.index().datasets.select("demo")
        }
        assert all(row.source_uri and row.deep_due for row in rows)
        # deep visits of them are not all on one day
        days = {int(((row.deep_due or 0) - harness.clock.now) / DAY) for row in rows}
        assert len(days) > 3
        # and what changes is found
        demo.add_file("000001", "sub-9/sub-9_new.nwb", content=b"new")
        harness.clock.now += 2 * HOUR
        harness.settle()
        assert harness.take_results()["demo:000001"].versions


def test_what_another_program_has_visited_is_not_due_any_more(
    mirror_harness: MirrorHarness, demo: DemoArchive
) -> None:
    with open_service_harness(mirror_harness) as harness:
        harness.settle()
        demo.add_file("000001", "sub-9/sub-9_new.nwb", content=b"new")
        schedule, row = harness.job_harness.schedule, harness.row("demo:000001")
        harness.clock.now += 2 * HOUR
        schedule.put([replace(row, due=harness.clock.now + HOUR, failures=2)])
        mirror_harness.sync()
        harness.settle()
        row = harness.row("demo:000001")
        assert (row.due, row.failures) == (None, 0)
        demo.touch("000001")
        harness.clock.now += 2 * HOUR
        assert "visit" in harness.settle()


@pytest.mark.parametrize("restarts", [False, True], ids=["running", "restarted"])
def test_updates_continue_after_the_clock_is_set_back(
    mirror_harness: MirrorHarness, demo: DemoArchive, restarts: bool
) -> None:
    clock = ManualClock()
    clock.now += 365 * DAY
    with open_service_harness(mirror_harness, clock=clock) as harness:
        harness.settle()
        harness.write_superdatasets()
        if not restarts:
            clock.now -= 365 * DAY
            harness.settle()
            harness.take_results()
            demo.add_file("000001", "sub-9/sub-9_new.nwb", content=b"new")
            clock.now += 2 * HOUR
            harness.settle()
            assert harness.take_results()["demo:000001"].versions
            return
    clock.now -= 365 * DAY
    demo.add_file("000001", "sub-9/sub-9_new.nwb", content=b"new")
    with open_service_harness(mirror_harness, clock=clock) as harness:
        harness.settle()
        # a list is never put off for longer
        clock.now += 5 * HOUR
        harness.settle()
        assert harness.take_results()["demo:000001"].versions


def test_leases_of_a_service_that_was_killed_end_after_a_minute(
    mirror_harness: MirrorHarness,
) -> None:
    manual_executor = ManualExecutor()
    with open_service_harness(mirror_harness, executor=manual_executor, workers=2) as harness:
        harness.read_list()
        names, schedule = list(manual_executor.names), harness.job_harness.schedule
        tokens = {one.name: one.token for one in schedule.leases.in_force(harness.clock.now)}
        assert sorted(tokens) == sorted(names)
        for name in names:
            schedule.leases.release(name, tokens[name])
            assert schedule.leases.claim(name, "a service", harness.clock.now, 60)
    with open_service_harness(mirror_harness) as harness:
        harness.settle()
        assert set(names).isdisjoint(harness.take_results())
        harness.clock.now += 61
        harness.settle()
        assert set(names) <= set(harness.take_results())


def test_a_lease_that_a_wrong_clock_made_too_long_ends(mirror_harness: MirrorHarness) -> None:
    with open_service_harness(mirror_harness) as harness:
        schedule, now = harness.job_harness.schedule, harness.clock.now
        schedule.leases.claim("demo:000001", "a sync that died", now + DAY, 60)
        alive = schedule.leases.claim("demo:000002", "a sync that lives", now + DAY, 60)
        assert alive is not None
        harness.service.start()
        schedule.leases.renew([("demo:000002", alive)], now + 30, 60)
        left = [one.name for one in schedule.leases.in_force(now + 61)]
        assert left == ["demo:000002"]


@pytest.mark.parametrize(
    "jump", [-DAY, DAY, -365 * DAY, 365 * DAY], ids=["back", "on", "a-year-back", "a-year-on"]
)
def test_a_running_job_survives_a_clock_jump(mirror_harness: MirrorHarness, jump: float) -> None:
    manual_executor = ManualExecutor()
    with open_service_harness(mirror_harness, executor=manual_executor, workers=20) as harness:
        harness.service.tick()
        harness.clock.now += jump
        harness.service.tick()
        (lease,) = harness.job_harness.schedule.leases.in_force(0)
        assert jump > 0 or lease.until <= harness.clock.now + 60
        manual_executor.run("demo")
        harness.service.tick()
        harness.settle_writing()
        row = harness.row("demo")
        assert (row.status, row.failures) == ("unchanged", 0)
        assert harness.clock.now < (row.due or 0) < harness.clock.now + 2 * HOUR
        assert 0 <= row.seconds <= max(jump, 0) + HOUR
