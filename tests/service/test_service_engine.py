"""The heart of a service: what is due is done, what fails is known, what changes is found."""

from __future__ import annotations

import sys
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from crawl_place import Place
from service_engine import DAY, HOUR, Held, works_of

from neuromirror.index import TaskRow
from neuromirror.model import NeuromirrorError, VersionMinted, VisitEnded
from neuromirror.service.crew import WorkerLost
from neuromirror.service.desk import DeskGone
from neuromirror_demo import DemoArchive


def published(place: Place) -> dict[str, str]:
    """The refs that are the same whenever they were made."""
    return {name: sha for name, sha in place.refs().items() if "/published" in name}


def states(place: Place) -> dict[str, list[str]]:
    """The states of each dataset, in the order in which they came."""
    found: dict[str, list[str]] = {}
    for one in place.entries(VersionMinted):
        found.setdefault(one.local_id, []).append(one.state)
    return found


def test_a_served_mirror_becomes_the_store_that_a_sync_makes(place: Place) -> None:
    with works_of(place) as works:
        assert works.settle().count("visit") > 3
        # of the mirror, and of all mirrors
        assert works.group() == ["group", "group"]
        heard = works.heard()
        assert {one.exit_code for one in heard.values()} == {0}

    other = Place(place.mirrors, place.folder.with_name("by-sync"))
    synced = other.sync()
    assert published(place) == published(other)
    assert states(place) == states(other)
    assert {name for name in synced if ":" in name} <= set(heard)
    alias = {name for name, _ in place.store.aliases()}
    assert alias == {name for name, _ in other.store.aliases()}
    place.fsck()


def test_nothing_is_asked_again_before_it_is_due(place: Place, demo: DemoArchive) -> None:
    with works_of(place) as works:
        works.settle()
        works.group()
        demo.clear_requests()
        works.clock.now += 40 * 60
        works.service.tick()
        # one file waits for its sha256
        assert works.settle() in ([], ["visit"])
        works.clock.now += 30 * 60
        assert "list" in works.settle()


def test_what_changed_upstream_is_found_with_the_next_list(place: Place, demo: DemoArchive) -> None:
    with works_of(place) as works:
        works.settle()
        works.heard()
        demo.add_file("000001", "sub-9/sub-9_new.nwb", content=b"new")
        works.clock.now += 2 * HOUR
        done = works.settle()
        # super-datasets may be due, too, and be done first
        assert done.index("list") < done.index("visit")
        result = works.heard()["demo:000001"]
        assert result.versions
        assert works.row("demo:000001").status == "changed"


def test_a_list_that_is_overdue_many_times_is_read_once(place: Place, demo: DemoArchive) -> None:
    with works_of(place) as works:
        works.settle()
        works.clock.now += 30 * DAY
        done = works.settle()
        assert done.count("list") == 1


def test_a_failing_dataset_blocks_no_other_is_disabled_and_comes_back_with_a_change(
    place: Place, demo: DemoArchive
) -> None:
    demo.fault("status", path=r"/dandisets/000002/versions/", status=403)
    with works_of(place) as works:
        works.settle()
        heard = works.heard()
        bad = {name for name, one in heard.items() if one.exit_code}
        assert bad == {"demo:000002"}
        for _ in range(2):
            assert not works.row("demo:000002").disabled
            works.clock.now = (works.row("demo:000002").due or 0) + 1
            works.settle()
        row = works.row("demo:000002")
        assert (row.disabled, row.failures, row.status) == (True, 3, "failed")
        assert "403" in row.message
        works.clock.now += 2 * DAY
        works.heard()
        works.settle()
        assert "demo:000002" not in works.heard()

        demo.clear_faults()
        demo.touch("000002")
        works.clock.now += 2 * HOUR
        works.settle()
        assert works.heard()["demo:000002"].exit_code == 0
        assert (works.row("demo:000002").disabled, works.row("demo:000002").failures) == (False, 0)


def test_a_job_that_dies_is_a_failed_visit_and_the_others_go_on(place: Place) -> None:
    held = Held()
    with works_of(place, executor=held, workers=3) as works:
        works.service.tick()
        held.do("demo")
        works.service.tick()
        works.service.tick()
        assert len(held.names) == 3
        one, two, three = held.names
        held.fail(one, WorkerLost("the worker died of a bullet"))
        held.fail(two, ValueError("a bug"))
        held.fail(three, DeskGone("nobody there"))
        works.service.tick()
        heard = works.heard()
        assert heard[one].message == "the worker died of a bullet"
        assert heard[two].message == "unexpected ValueError: a bug; please report this"
        for name in (one, two, three):
            assert (works.row(name).status, works.row(name).failures) == ("failed", 1)
        # and the journal knows
        ended = {f"demo:{one.local_id}": one for one in place.entries(VisitEnded)}
        assert ended[one].status == "failed"
        assert ended[one].message == "the worker died of a bullet"
        # their places are taken at once
        assert len(held.names) == 3
        assert {one, two, three}.isdisjoint(held.names)
        assert not works.office.schedule.lease(one, works.clock.now)


def test_jobs_keep_to_the_limits_of_the_mirror_and_of_all(place: Place) -> None:
    for path in place.mirrors.glob("*.toml"):
        path.write_text(path.read_text("utf-8") + "\n[schedule]\nworkers = 2\n", "utf-8")
    held = Held()
    with works_of(place, executor=held, workers=4) as works:
        works.service.tick()
        held.do("demo")
        for _ in range(3):
            works.service.tick()
        assert len(held.names) == 2
        net = held.jobs[0][2][1].mirror.settings.net
        assert net.connections_per_host == 8
    held = Held()
    with works_of(place, executor=held, workers=1) as works:
        for _ in range(3):
            works.service.tick()
        assert len(held.names) == 1


def test_what_waited_longest_is_done_first(place: Place) -> None:
    held = Held()
    with works_of(place, executor=held, workers=1) as works:
        works.service.tick()
        held.do("demo")
        works.service.tick()
        works.settle_writing()
        schedule, now = works.office.schedule, works.clock.now
        rows = [row for row in schedule.due(now, 100) if row.local_id]
        assert len(rows) > 3
        held.do(held.names[0])
        wanted = [row.name for row in reversed(rows)]
        schedule.put(replace(row, due=now - 1000 + wanted.index(row.name)) for row in rows)
        done = []
        for _ in wanted:
            works.service.tick()
            done += held.names
            held.do(held.names[0])
        assert done == wanted


def test_deep_visits_are_a_share_of_the_jobs_and_are_deep(place: Place) -> None:
    with works_of(place) as works:
        works.settle()
        works.group()
    held = Held()
    with works_of(place, executor=held, workers=8) as works:
        schedule, now = works.office.schedule, works.clock.now
        rows = [row for row in schedule.tasks("demo") if row.local_id]
        schedule.put(replace(row, due=None, deep_due=now - 60) for row in rows)
        # some of them are due anyway: that is done, and the deep visit still to come
        due = [row.name for row in rows[:3]]
        schedule.put(replace(row, due=now - 5, deep_due=now - 60) for row in rows[:3])
        for _ in range(3):
            works.service.tick()
        deep = [args[1].lease.name for _, _, args in held.jobs if args[1].deep]
        assert len(deep) == 2
        plain = set(held.names) - set(deep)
        assert plain <= set(due)
        asked = {}
        for name in list(held.names):
            held.do(name)
            works.service.tick()
            asked[name] = works.row(name)
        for name in deep:
            assert (asked[name].deep_due or 0) > now + DAY
        for name in plain:
            assert asked[name].deep_due == now - 60


def test_super_datasets_follow_their_datasets_once_a_minute(
    place: Place, demo: DemoArchive
) -> None:
    with works_of(place) as works:
        works.settle()
        works.group()
        before = place.refs()["demo refs/heads/main"]
        demo.add_file("000001", "sub-9/sub-9_new.nwb", content=b"new")
        works.clock.now += 2 * HOUR
        assert "group" not in works.settle()
        works.clock.now += 6
        assert works.settle() == ["group"]
        after = place.refs()["demo refs/heads/main"]
        assert after != before
        # and not again within the minute, whatever comes
        works.office.schedule.put([replace(works.row("demo"), due=works.clock.now)])
        demo.add_file("000001", "sub-9/sub-9_newer.nwb", content=b"newer")
        assert works.settle()[:2] == ["list", "visit"]
        works.clock.now += 50
        assert "group" not in works.settle()
        works.clock.now += 11
        assert "group" in works.settle()
        assert place.refs()["demo refs/heads/main"] != after


def test_what_changes_while_super_datasets_are_made_is_not_forgotten(place: Place) -> None:
    held = Held()
    with works_of(place, executor=held, workers=8) as works:
        works.service.tick()
        held.do("demo")
        works.service.tick()
        works.settle_writing()
        works.service.tick()
        while held.names:
            held.do(held.names[0])
            works.service.tick()
        works.clock.now += 6
        works.service.tick()
        assert "group demo" in held.names
        works.office.schedule.put([replace(works.row("demo"), due=works.clock.now)])
        works.service.tick()
        held.do("demo")
        works.service.tick()
        works.settle_writing()
        held.do("group demo")
        works.service.tick()
        assert works.row("group demo").due is not None
        works.clock.now += 61
        works.service.tick()
        held.do("group demo")
        works.service.tick()
        assert works.row("group demo").due is None


def test_a_list_that_cannot_be_read_is_tried_again_and_nothing_is_lost(
    place: Place, demo: DemoArchive
) -> None:
    fault = demo.fault("status", path=r"^/api/dandisets/$", status=403)
    with works_of(place) as works:
        assert works.settle() == ["list"]
        assert works.heard()["demo"].exit_code == 1
        row = works.row("demo")
        assert (row.failures, row.status, row.disabled) == (1, "failed", False)
        assert "403" in row.message
        works.clock.now += DAY
        works.settle()
        assert works.row("demo").failures == 2
        fault.clear()
        works.clock.now += DAY
        works.settle()
        assert works.row("demo").failures == 0
        assert works.heard()["demo:000001"].versions


def test_a_change_that_the_list_tells_of_while_it_is_visited_is_visited_again(
    place: Place, demo: DemoArchive
) -> None:
    with works_of(place) as works:
        works.settle()
    demo.touch("000001")
    held = Held()
    with works_of(place, executor=held, workers=4) as works:
        works.clock.now += 2 * HOUR
        works.service.tick()
        held.do("demo")
        works.service.tick()
        assert "demo:000001" in held.names
        demo.add_file("000001", "sub-9/sub-9_new.nwb", content=b"new")
        works.clock.now += 2 * HOUR
        works.service.tick()
        held.do("demo")
        works.service.tick()
        assert works.row("demo:000001").due == works.clock.now
        held.do("demo:000001")
        works.service.tick()
        assert "demo:000001" in held.names


def test_a_visit_that_is_under_way_is_not_due_again_for_the_same_news(place: Place) -> None:
    held = Held()
    with works_of(place, executor=held, workers=20) as works:
        works.service.tick()
        held.do("demo")
        works.service.tick()
        name = held.names[0]
        works.clock.now += 2 * HOUR
        works.service.tick()
        held.do("demo")
        held.do(name)
        works.service.tick()
        assert works.row(name).due is None


def test_what_somebody_else_has_taken_over_is_not_written_twice(place: Place) -> None:
    held = Held()
    with works_of(place, executor=held, workers=1) as works:
        works.service.tick()
        held.do("demo")
        works.service.tick()
        (name,) = held.names
        # this machine slept, and somebody came to help
        far = works.clock.now + 1000
        token = works.office.schedule.claim(name, "a sync", far, 60)
        assert token is not None
        before = works.row(name)
        held.do(name)
        works.service.tick()
        assert works.row(name) == before
        lease = works.office.schedule.lease(name, far)
        assert lease is not None
        assert lease.token == token


def test_a_service_without_workers_blames_no_dataset(place: Place) -> None:
    class Broken(Held):
        broken = True

        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            if self.broken:
                raise NeuromirrorError("the cluster is away")
            return super().submit(fn, *args, **kwargs)

    broken = Broken()
    with works_of(place, executor=broken, workers=2) as works:
        for _ in range(3):
            assert works.service.tick() == 0
        assert works.service.broken == "no worker can be had: the cluster is away"
        assert (works.row("demo").failures, works.row("demo").ended) == (0, None)
        assert works.office.schedule.leases(works.clock.now) == []
        broken.broken = False
        works.service._paused = 0.0
        works.service.tick()
        assert broken.names == ["demo"]


def test_what_is_abandoned_stays_due_and_is_free_for_others(place: Place) -> None:
    held = Held()
    with works_of(place, executor=held, workers=2) as works:
        works.service.tick()
        held.do("demo")
        works.service.tick()
        works.settle_writing()
        names = sorted(held.names)
        works.service.close()
        assert works.service.tick() == 0
        assert works.service.abandon() == names
        assert works.office.schedule.leases(works.clock.now) == []
        assert works.service.idle
        due = {row.name for row in works.office.schedule.due(works.clock.now, 100)}
        assert set(names) <= due


def test_a_tick_over_ten_thousand_tasks(place: Place) -> None:
    held = Held()
    with works_of(place, executor=held, workers=4) as works:
        now = works.clock.now
        works.office.schedule.put(
            TaskRow(
                f"demo:{number:06}",
                "demo",
                f"{number:06}",
                f"https://archive.example/{number}/",
                "a fingerprint",
                "a title",
                due=now - number if number % 2 else None,
                deep_due=now + number,
            )
            for number in range(10_000)
        )
        works.settle_writing()
        works.service.tick()
        assert held.names == ["demo", "demo:009999", "demo:009997", "demo:009995"]
        for name in held.names[1:]:
            held.fail(name, WorkerLost("gone"))
        works.service.tick()
        assert len(held.names) == 4
        sys.stderr.write(f"ticks: {[round(1000 * one) for one in works.counted.ticks]} ms\n")
