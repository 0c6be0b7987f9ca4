"""Superdatasets are written once per round of visits, from the final states."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from crawl_place import Place, git
from service_engine import Held, Works, works_of

from neuromirror.store import Store
from neuromirror_demo import DemoArchive


@pytest.fixture
def several(tmp_path: Path, demo_files: Path) -> Iterator[Place]:
    """An empty place for a store, beside archives of several mirrors."""
    with DemoArchive(tmp_path / "demo", cache=demo_files, buckets=True) as demo:
        names = {path.stem for path in demo.mirrors.glob("*.toml")}
        for name in sorted(names - {"demo"})[1:]:
            (demo.mirrors / f"{name}.toml").unlink()
        yield Place(demo.mirrors, tmp_path / "store")


def commits(place: Place, alias: str) -> list[str]:
    """The commits of a superdataset, the newest first; none where there is no such dataset."""
    found = dict(Store.open(place.folder).aliases()).get(alias)
    return [] if found is None else git(found.path, "rev-list", "main").split()


def do_all(works: Works, held: Held, mirror: str) -> None:
    """Do the list and the visits of a mirror, one by one, and no other job."""
    works.service.tick()
    held.do(mirror)
    works.service.tick()
    works.settle_writing()
    works.service.tick()
    while mine := [one for one in held.names if one.startswith(f"{mirror}:")]:
        held.do(mine[0])
        # late enough for any group task
        works.clock.now += 6
        works.service.tick()


def test_superdatasets_wait_for_the_visits_of_the_round(several: Place) -> None:
    held = Held()
    first, second = sorted(path.stem for path in several.mirrors.glob("*.toml"))
    with works_of(several, executor=held, workers=64) as works:
        do_all(works, held, first)
        assert commits(several, first) == []
        works.service.tick()
        held.do(f"group {first}")
        works.clock.now += 6
        works.service.tick()
        # another mirror is not yet listed
        assert held.names == [second]
        assert commits(several, "neuromirror") == []
        do_all(works, held, second)
        held.do(f"group {second}")
        works.service.tick()
        works.clock.now += 6
        works.service.tick()
        assert held.names == ["group neuromirror"]
        held.do("group neuromirror")
        works.service.tick()
        assert works.service.idle

    other = Place(several.mirrors, several.folder.with_name("by-sync"))
    other.sync()
    for alias in (first, second, "neuromirror"):
        assert len(commits(several, alias)) == 1
        assert commits(several, alias) == commits(other, alias)


def test_superdatasets_wait_an_hour_for_visits_that_do_not_end(place: Place) -> None:
    held = Held()
    with works_of(place, executor=held, workers=64) as works:
        works.service.tick()
        held.do("demo")
        works.service.tick()
        works.settle_writing()
        works.service.tick()
        first, *_ = [one for one in held.names if one.startswith("demo:")]
        held.do(first)
        works.service.tick()
        works.clock.now += 3000
        works.service.tick()
        assert "group demo" not in held.names
        works.clock.now += 700
        works.service.tick()
        held.do("group demo")
        works.service.tick()
        assert len(commits(place, "demo")) == 1
        works.clock.now += 3000
        works.service.tick()
        assert "group neuromirror" not in held.names
        works.clock.now += 700
        works.service.tick()
        held.do("group neuromirror")
        works.service.tick()
        assert len(commits(place, "neuromirror")) == 1


def test_a_list_without_anything_due_brings_superdatasets_on(place: Place) -> None:
    with works_of(place) as works:
        works.settle()
        works.group()
        works.office.schedule.put([replace(works.row("demo"), due=works.clock.now)])
        works.clock.now += 61
        assert "list" in works.settle()
        works.clock.now += 6
        assert "group" in works.settle()
