"""The engine of a service: jobs, their results and superdatasets."""

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from neuromirror.model import NeuromirrorError, VersionMinted, VisitEnded
from neuromirror.service.worker_pool import WorkerLostError
from neuromirror.service.writer import WriterLostError
from neuromirror.store import Store
from neuromirror_demo import DemoArchive
from support.mirror_harness import MirrorHarness, run_git
from support.service_harness import DAY, HOUR, ManualExecutor, ServiceHarness, open_service_harness
from support.small_archive import small_archive
from support.store_states import comparable_states


def states(mirror_harness: MirrorHarness) -> dict[str, list[str]]:
    """The states of each dataset, in the order in which they came."""
    found: dict[str, list[str]] = {}
    for entry in mirror_harness.entries(VersionMinted):
        found.setdefault(entry.local_id, []).append(entry.state)
    return found


def test_a_served_mirror_becomes_the_store_that_a_sync_makes(
    shared_demo: DemoArchive, demo_harness: MirrorHarness, tmp_path: Path
) -> None:
    mirror_harness = MirrorHarness(shared_demo.mirrors, tmp_path / "store")
    with open_service_harness(mirror_harness) as harness:
        assert harness.settle().count("visit") > 3
        # of the mirror, and of all mirrors
        assert harness.write_superdatasets() == ["superdatasets", "superdatasets"]
        heard = harness.take_results()
        assert {one.exit_code for one in heard.values()} == {0}

    other = demo_harness
    assert comparable_states(mirror_harness) == comparable_states(other)
    assert states(mirror_harness) == states(other)
    with other.index() as index:
        assert {one.name for one in index.datasets.select("demo") if not one.within} <= set(heard)
    alias = {name for name, _ in mirror_harness.store.repositories.aliases()}
    assert alias == {name for name, _ in other.store.repositories.aliases()}
    mirror_harness.fsck()


def test_what_changed_upstream_is_found_with_the_next_list(
    mirror_harness: MirrorHarness, demo: DemoArchive
) -> None:
    with open_service_harness(mirror_harness) as harness:
        harness.settle()
        harness.take_results()
        demo.add_file("000001", "sub-9/sub-9_new.nwb", content=b"new")
        harness.clock.now += 2 * HOUR
        done = harness.settle()
        # superdatasets may be due as well, and run first
        assert done.index("listing") < done.index("visit")
        result = harness.take_results()["demo:000001"]
        assert result.versions
        assert harness.row("demo:000001").status == "changed"


def test_a_failing_dataset_blocks_no_other_is_disabled_and_comes_back_with_a_change(
    mirror_harness: MirrorHarness, demo: DemoArchive
) -> None:
    demo.fault("status", path=r"/dandisets/000002/versions/", status=403)
    with open_service_harness(mirror_harness) as harness:
        harness.settle()
        heard = harness.take_results()
        bad = {name for name, one in heard.items() if one.exit_code}
        assert bad == {"demo:000002"}
        for _ in range(2):
            assert not harness.row("demo:000002").disabled
            harness.clock.now = (harness.row("demo:000002").due or 0) + 1
            harness.settle()
        row = harness.row("demo:000002")
        assert (row.disabled, row.failures, row.status) == (True, 3, "failed")
        assert "403" in row.message
        harness.clock.now += DAY / 2
        harness.take_results()
        harness.settle()
        assert "demo:000002" not in harness.take_results()

        demo.clear_faults()
        demo.touch("000002")
        harness.clock.now += 2 * HOUR
        harness.settle()
        assert harness.take_results()["demo:000002"].exit_code == 0
        assert (harness.row("demo:000002").disabled, harness.row("demo:000002").failures) == (
            False,
            0,
        )


@pytest.mark.parametrize("dandisets", [7])
def test_a_job_that_fails_by_itself_or_loses_two_workers_is_a_failed_visit(
    mirror_harness: MirrorHarness,
) -> None:
    manual_executor = ManualExecutor()
    with open_service_harness(mirror_harness, executor=manual_executor, workers=3) as harness:
        harness.read_list()
        assert len(manual_executor.names) == 3
        one, two, three = manual_executor.names
        manual_executor.fail(one, WorkerLostError("killed"))
        manual_executor.fail(three, WriterLostError("lost"))
        harness.service.tick()
        # the fault of the worker, not of the dataset: they stay due and run again at once
        for name in (one, three):
            assert (harness.row(name).status, harness.row(name).failures) == ("", 0)
        assert set(manual_executor.names) == {one, two, three}
        manual_executor.fail(one, WorkerLostError("the worker died of a bullet"))
        manual_executor.fail(two, ValueError("a bug"))
        manual_executor.fail(three, WriterLostError("lost"))
        harness.service.tick()
        heard = harness.take_results()
        assert heard[one].message == "the worker died of a bullet"
        assert heard[two].message == "unexpected ValueError: a bug; please report this"
        for name in (one, two, three):
            assert (harness.row(name).status, harness.row(name).failures) == ("failed", 1)
        # and the journal knows
        ended = {f"demo:{entry.local_id}": entry for entry in mirror_harness.entries(VisitEnded)}
        assert ended[one].status == "failed"
        assert ended[one].message == "the worker died of a bullet"
        # their places are taken at once
        assert len(manual_executor.names) == 3
        assert {one, two, three}.isdisjoint(manual_executor.names)
        assert not harness.job_harness.schedule.leases.find(one, harness.clock.now)


def test_jobs_keep_to_the_limits_of_the_mirror_and_of_all(mirror_harness: MirrorHarness) -> None:
    for path in mirror_harness.mirrors.glob("*.toml"):
        path.write_text(path.read_text("utf-8") + "\n[schedule]\nworkers = 2\n", "utf-8")
    manual_executor = ManualExecutor()
    with open_service_harness(mirror_harness, executor=manual_executor, workers=4) as harness:
        harness.service.tick()
        manual_executor.run("demo")
        for _ in range(3):
            harness.service.tick()
        assert len(manual_executor.names) == 2
        net = manual_executor.jobs[0][2][1].mirror.settings.net
        assert net.connections_per_host == 8
    manual_executor = ManualExecutor()
    with open_service_harness(mirror_harness, executor=manual_executor, workers=1) as harness:
        for _ in range(3):
            harness.service.tick()
        assert len(manual_executor.names) == 1


@pytest.mark.parametrize("dandisets", [7])
def test_deep_visits_are_a_share_of_the_jobs_and_are_deep(mirror_harness: MirrorHarness) -> None:
    with open_service_harness(mirror_harness) as harness:
        harness.settle()
        harness.write_superdatasets()
    manual_executor = ManualExecutor()
    with open_service_harness(mirror_harness, executor=manual_executor, workers=8) as harness:
        schedule, now = harness.job_harness.schedule, harness.clock.now
        rows = [row for row in schedule.tasks("demo") if row.local_id]
        schedule.put(replace(row, due=None, deep_due=now - 60) for row in rows)
        # some of them are due anyway: that is done, and the deep visit still to come
        due = [row.name for row in rows[:3]]
        schedule.put(replace(row, due=now - 5, deep_due=now - 60) for row in rows[:3])
        for _ in range(3):
            harness.service.tick()
        deep = [args[1].lease.name for _, _, args in manual_executor.jobs if args[1].deep]
        assert len(deep) == 2
        plain = set(manual_executor.names) - set(deep)
        assert plain <= set(due)
        visited = {}
        for name in list(manual_executor.names):
            manual_executor.run(name)
            harness.service.tick()
            visited[name] = harness.row(name)
        for name in deep:
            assert (visited[name].deep_due or 0) > now + DAY
        for name in plain:
            assert visited[name].deep_due == now - 60


def test_changes_during_an_update_of_superdatasets_are_not_lost(
    mirror_harness: MirrorHarness,
) -> None:
    manual_executor = ManualExecutor()
    with open_service_harness(mirror_harness, executor=manual_executor, workers=8) as harness:
        harness.read_list()
        while manual_executor.names:
            manual_executor.run(manual_executor.names[0])
            harness.service.tick()
        harness.clock.now += 6
        harness.service.tick()
        assert "superdatasets demo" in manual_executor.names
        harness.job_harness.schedule.put([replace(harness.row("demo"), due=harness.clock.now)])
        harness.read_list()
        manual_executor.run("superdatasets demo")
        harness.service.tick()
        assert harness.row("superdatasets demo").due is not None
        harness.clock.now += 61
        harness.service.tick()
        manual_executor.run("superdatasets demo")
        harness.service.tick()
        assert harness.row("superdatasets demo").due is None


def test_a_failed_listing_is_retried_and_nothing_is_lost(
    mirror_harness: MirrorHarness, demo: DemoArchive
) -> None:
    fault = demo.fault("status", path=r"^/api/dandisets/$", status=403)
    with open_service_harness(mirror_harness) as harness:
        assert harness.settle() == ["listing"]
        assert harness.take_results()["demo"].exit_code == 1
        row = harness.row("demo")
        assert (row.failures, row.status, row.disabled) == (1, "failed", False)
        assert "403" in row.message
        harness.clock.now += DAY
        harness.settle()
        assert harness.row("demo").failures == 2
        fault.clear()
        harness.clock.now += DAY
        harness.settle()
        assert harness.row("demo").failures == 0
        assert harness.take_results()["demo:000001"].versions


def test_a_change_listed_during_a_visit_causes_another_visit(
    mirror_harness: MirrorHarness, demo: DemoArchive
) -> None:
    with open_service_harness(mirror_harness) as harness:
        harness.settle()
    demo.touch("000001")
    manual_executor = ManualExecutor()
    with open_service_harness(mirror_harness, executor=manual_executor, workers=4) as harness:
        harness.clock.now += 2 * HOUR
        harness.read_list()
        assert "demo:000001" in manual_executor.names
        demo.add_file("000001", "sub-9/sub-9_new.nwb", content=b"new")
        harness.clock.now += 2 * HOUR
        harness.read_list()
        assert harness.row("demo:000001").due == harness.clock.now
        manual_executor.run("demo:000001")
        harness.service.tick()
        assert "demo:000001" in manual_executor.names


def test_a_list_logs_what_is_to_be_visited_and_nothing_else(
    mirror_harness: MirrorHarness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def logged(text: str) -> list[str]:
        return [one.getMessage() for one in caplog.records if text in one.getMessage()]

    with open_service_harness(mirror_harness) as harness:
        harness.settle()
        assert logged("to be visited") == ["3 to be visited"]
        caplog.clear()
        harness.clock.now += 2 * HOUR
        assert "listing" in harness.settle()
    assert caplog.records
    assert logged("to be visited") == []


def test_a_job_taken_over_by_another_owner_is_not_recorded_twice(
    mirror_harness: MirrorHarness,
) -> None:
    manual_executor = ManualExecutor()
    with open_service_harness(mirror_harness, executor=manual_executor, workers=1) as harness:
        harness.read_list()
        (name,) = manual_executor.names
        # this machine was suspended, and another one took over
        far = harness.clock.now + 1000
        token = harness.job_harness.schedule.leases.claim(name, "a sync", far, 60)
        assert token is not None
        before = harness.row(name)
        manual_executor.run(name)
        harness.service.tick()
        assert harness.row(name) == before
        lease = harness.job_harness.schedule.leases.find(name, far)
        assert lease is not None
        assert lease.token == token


def test_a_service_without_workers_blames_no_dataset(mirror_harness: MirrorHarness) -> None:
    class Broken(ManualExecutor):
        broken = True

        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            if self.broken:
                raise NeuromirrorError("the cluster is away")
            return super().submit(fn, *args, **kwargs)

    broken = Broken()
    with open_service_harness(mirror_harness, executor=broken, workers=2) as harness:
        for _ in range(3):
            assert harness.service.tick() == 0
        assert harness.service.pause_reason == "no worker is available: the cluster is away"
        assert (harness.row("demo").failures, harness.row("demo").ended) == (0, None)
        assert harness.job_harness.schedule.leases.in_force(harness.clock.now) == []
        broken.broken = False
        harness.service._next_check = 0.0
        harness.service.tick()
        assert broken.names == ["demo"]


def test_a_full_disk_is_no_failure_of_a_dataset(
    mirror_harness: MirrorHarness, mount_disk: Callable[[str], Path]
) -> None:
    disk = mount_disk("6m")
    manual_executor = ManualExecutor()
    on_disk = MirrorHarness(mirror_harness.mirrors, disk / "store")
    with open_service_harness(on_disk, executor=manual_executor) as harness:
        harness.read_list()
        visits = sorted(manual_executor.names)
        assert visits
        fill_disk(disk / "ballast")
        for name in visits:
            manual_executor.run(name)
        fill_disk(disk / "ballast")  # what the visits wrote is gone
        tick(harness)
        journal = on_disk.store.journal.path.stat().st_size
        reasons = set()
        for _ in range(5):
            fill_disk(disk / "ballast")
            assert tick(harness) == 0
            reasons.add(harness.service.pause_reason)
        # a file that SQLite removes may leave room for one write
        assert any("no jobs are started: store: cannot be written to" in why for why in reasons)
        assert on_disk.store.journal.path.stat().st_size == journal
        assert [harness.row(name).failures for name in visits] == [0] * len(visits)

        shutil.rmtree(disk / "ballast")
        tick(harness)
        assert sorted(manual_executor.names) == visits
        for name in visits:
            manual_executor.run(name)
        harness.service.tick()
        assert {harness.row(name).status for name in visits} == {"changed"}
        with on_disk.index() as index:
            assert index.crawl.failures() == []


def fill_disk(folder: Path) -> None:
    """Use all bytes or inodes of a small disk."""
    folder.mkdir(exist_ok=True)
    with suppress(OSError), (folder / "bytes").open("ab", buffering=0) as file:
        while os.statvfs(folder).f_favail and file.write(bytes(4096)):
            (folder / str(file.tell())).touch()


def tick(harness: ServiceHarness) -> int:
    """Tick as the process does, which logs errors."""
    harness.service._next_check = 0.0
    with suppress(NeuromirrorError, OSError):
        return harness.service.tick()
    return 0


def test_what_is_abandoned_stays_due_and_is_free_for_others(mirror_harness: MirrorHarness) -> None:
    manual_executor = ManualExecutor()
    with open_service_harness(mirror_harness, executor=manual_executor, workers=2) as harness:
        harness.read_list()
        names = sorted(manual_executor.names)
        harness.service.close()
        assert harness.service.tick() == 0
        assert harness.service.abandon() == names
        assert harness.job_harness.schedule.leases.in_force(harness.clock.now) == []
        assert harness.service.is_idle
        due = {row.name for row in harness.job_harness.schedule.due(harness.clock.now, 100)}
        assert set(names) <= due


# --- superdatasets


@pytest.fixture
def several(mirror_harness: MirrorHarness, tmp_path: Path) -> Iterator[MirrorHarness]:
    """An empty place for a store, beside archives of two mirrors."""
    with small_archive(tmp_path / "second") as second:
        shutil.copy(second.mirrors / "demo.toml", mirror_harness.mirrors / "second.toml")
        yield mirror_harness


def commits(mirror_harness: MirrorHarness, alias: str) -> list[str]:
    """The commits of a superdataset, the newest first; none where there is no such dataset."""
    found = dict(Store.open(mirror_harness.folder).repositories.aliases()).get(alias)
    return [] if found is None else run_git(found.path, "rev-list", "main").split()


def do_all(harness: ServiceHarness, manual_executor: ManualExecutor, mirror: str) -> None:
    """Do the list and the visits of a mirror, one by one, and no other job."""
    harness.service.tick()
    manual_executor.run(mirror)
    harness.service.tick()
    harness.settle_writing()
    harness.service.tick()
    while mine := [name for name in manual_executor.names if name.startswith(f"{mirror}:")]:
        manual_executor.run(mine[0])
        # late enough for any group task
        harness.clock.now += 6
        harness.service.tick()


def test_superdatasets_wait_for_the_visits_of_the_round(several: MirrorHarness) -> None:
    manual_executor = ManualExecutor()
    first, second = sorted(path.stem for path in several.mirrors.glob("*.toml"))
    with open_service_harness(several, executor=manual_executor, workers=64) as harness:
        do_all(harness, manual_executor, first)
        assert commits(several, first) == []
        harness.service.tick()
        manual_executor.run(f"superdatasets {first}")
        harness.clock.now += 6
        harness.service.tick()
        # another mirror is not yet listed
        assert manual_executor.names == [second]
        assert commits(several, "neuromirror") == []
        do_all(harness, manual_executor, second)
        manual_executor.run(f"superdatasets {second}")
        harness.service.tick()
        harness.clock.now += 6
        harness.service.tick()
        assert manual_executor.names == ["superdatasets neuromirror"]
        manual_executor.run("superdatasets neuromirror")
        harness.service.tick()
        assert harness.service.is_idle

    other = MirrorHarness(several.mirrors, several.folder.with_name("by-sync"))
    other.sync()
    for alias in (first, second, "neuromirror"):
        assert len(commits(several, alias)) == 1
        assert commits(several, alias) == commits(other, alias)
