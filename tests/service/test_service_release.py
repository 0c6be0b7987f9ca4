"""A release makes its dataset due at once: in the running service, and in one that starts later."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from crawl_place import Place
from service_engine import HOUR, Held, Works, works_of

from neuromirror.cli import main
from neuromirror.crawl import recording, release
from neuromirror_demo import DemoArchive

NAME, ID = "demo:000001", "000001"
GUARDS = "[guards]\nmax_removed_percent = 0\nmax_removed_files = 0\n"


@pytest.fixture
def guarded(place: Place) -> Place:
    """A mirror that holds every state that lost a file."""
    path = place.mirrors / "demo.toml"
    path.write_text(path.read_text("utf-8") + GUARDS)
    return place


def hold(works: Works, demo: DemoArchive) -> str:
    """Has the service meet a listing that lost a file, and list once more; gives the hold's id."""
    works.settle()
    demo.remove_file(ID, demo.paths(ID)[0])
    for _ in range(2):
        works.clock.now += 2 * HOUR
        works.settle()
    assert works.row(NAME).status == "held"
    with works.office.place.index() as index:
        (found,) = index.open_holds()
    return found.hold


def released(place: Place, found: str) -> int:
    arguments = ["--mirrors", str(place.mirrors), "--store", str(place.folder), "release", found]
    return CliRunner().invoke(main, arguments).exit_code


def test_a_running_service_visits_what_was_released_at_once(
    guarded: Place, demo: DemoArchive
) -> None:
    with works_of(guarded) as works:
        found = hold(works, demo)
        works.heard()
        assert released(guarded, found) == 0
        assert works.settle().count("visit") == 1
        assert works.heard()[NAME].versions


def test_what_was_released_without_the_service_is_visited_with_the_next_list(
    guarded: Place, demo: DemoArchive
) -> None:
    with works_of(guarded) as works:
        found = hold(works, demo)
        release(works.office.recorder, found)
        works.clock.now += 2 * HOUR
        works.heard()
        works.settle()
        assert works.heard()[NAME].versions


def test_a_service_that_starts_later_visits_what_was_released_at_once(
    guarded: Place, demo: DemoArchive
) -> None:
    with works_of(guarded) as works:
        found = hold(works, demo)
        clock = works.clock
    with recording(guarded.store, guarded.store.index_path) as recorder:
        release(recorder, found)
    with works_of(guarded, clock=clock) as works:
        works.settle()
        assert works.heard()[NAME].versions


def test_what_is_released_while_it_is_visited_is_visited_once_more(
    guarded: Place, demo: DemoArchive
) -> None:
    with works_of(guarded) as works:
        found = hold(works, demo)
        clock = works.clock
    held = Held()
    with works_of(guarded, executor=held, clock=clock) as works:
        works.office.schedule.make_due(NAME, clock.now)
        works.service.tick()
        future, function, args = held.take(NAME)
        report = function(*args)
        clock.now += 1
        # what the command does, by the service's clock
        release(works.office.recorder, found)
        works.office.schedule.make_due(NAME, clock.now)
        clock.now += 1
        future.set_result(report)
        works.service.tick()
        works.service.tick()
        assert NAME in held.names


def test_an_incident_that_was_released_is_visited_at_once_however_often_it_failed(
    guarded: Place, demo: DemoArchive
) -> None:
    with works_of(guarded) as works:
        works.settle()
        demo.change_file(ID, demo.paths(ID)[0], b"other bytes")
        found = hold(works, demo)
        for _ in range(4):
            works.clock.now += 30 * HOUR
            works.settle()
        works.heard()
        assert released(guarded, found) == 0
        works.settle()
        assert works.heard()[NAME].versions
