"""Superdatasets are written once per round of visits, from the final states."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from neuromirror.store import Store
from support.mirror_harness import MirrorHarness, run_git
from support.service_harness import ManualExecutor, ServiceHarness, open_service_harness
from support.small_archive import small_archive


@pytest.fixture
def several(mirror_harness: MirrorHarness, tmp_path: Path) -> Iterator[MirrorHarness]:
    """An empty place for a store, beside archives of two mirrors."""
    with small_archive(tmp_path / "second") as second:
        shutil.copy(second.mirrors / "demo.toml", mirror_harness.mirrors / "second.toml")
        yield mirror_harness


def commits(mirror_harness: MirrorHarness, alias: str) -> list[str]:
    """The commits of a superdataset, the newest first; none where there is no such dataset."""
    found = dict(Store.open(mirror_harness.folder).aliases()).get(alias)
    return [] if found is None else run_git(found.path, "rev-list", "main").split()


def do_all(harness: ServiceHarness, manual_executor: ManualExecutor, mirror: str) -> None:
    """Do the list and the visits of a mirror, one by one, and no other job."""
    harness.service.tick()
    manual_executor.run(mirror)
    harness.service.tick()
    harness.settle_writing()
    harness.service.tick()
    while mine := [one for one in manual_executor.names if one.startswith(f"{mirror}:")]:
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


def test_superdatasets_wait_an_hour_for_visits_that_do_not_end(
    mirror_harness: MirrorHarness,
) -> None:
    manual_executor = ManualExecutor()
    with open_service_harness(mirror_harness, executor=manual_executor, workers=64) as harness:
        harness.read_list()
        first, *_ = [one for one in manual_executor.names if one.startswith("demo:")]
        manual_executor.run(first)
        harness.service.tick()
        harness.clock.now += 3000
        harness.service.tick()
        assert "superdatasets demo" not in manual_executor.names
        harness.clock.now += 700
        harness.service.tick()
        manual_executor.run("superdatasets demo")
        harness.service.tick()
        assert len(commits(mirror_harness, "demo")) == 1
        harness.clock.now += 3000
        harness.service.tick()
        assert "superdatasets neuromirror" not in manual_executor.names
        harness.clock.now += 700
        harness.service.tick()
        manual_executor.run("superdatasets neuromirror")
        harness.service.tick()
        assert len(commits(mirror_harness, "neuromirror")) == 1


def test_a_list_without_anything_due_brings_superdatasets_on(mirror_harness: MirrorHarness) -> None:
    with open_service_harness(mirror_harness) as harness:
        harness.settle()
        harness.write_superdatasets()
        harness.job_harness.schedule.put([replace(harness.row("demo"), due=harness.clock.now)])
        harness.clock.now += 61
        assert "listing" in harness.settle()
        harness.clock.now += 6
        assert "superdatasets" in harness.settle()
