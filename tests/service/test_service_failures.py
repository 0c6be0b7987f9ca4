"""Troubles of the service itself are on record until they are over."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from typing import Any

import pytest
from crawl_place import Place
from service_engine import HOUR, Held, works_of

from neuromirror.crawl import FailureLog, recording
from neuromirror.index import Schedule
from neuromirror.service.crew import WorkerLost
from neuromirror.service.executors import threads
from neuromirror.service.metrics import Metrics


def failing(place: Place) -> set[tuple[str, str]]:
    with place.index() as index:
        return {(one.task, one.mirror) for one in index.failures()}


class Shut(Executor):
    """Takes no job while it is shut."""

    def __init__(self, pool: Executor) -> None:
        self._pool = pool
        self.shut = True

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self.shut:
            raise RuntimeError("no room")
        return self._pool.submit(fn, *args, **kwargs)


def test_a_mirror_file_that_is_wrong_fails_until_it_is_right(place: Place) -> None:
    path = place.mirrors / "demo.toml"
    right = path.read_text("utf-8")
    with works_of(place) as works:
        path.write_text(right + "[nothing]\n")
        works.service.reread()
        assert failing(place) == {("configuration", "demo")}
        path.write_text(right)
        works.service.reread()
        assert failing(place) == set()


def test_a_list_whose_worker_died_fails_until_it_is_read(place: Place) -> None:
    held = Held()
    with works_of(place, executor=held) as works:
        works.service.tick()
        held.fail("demo", WorkerLost("the worker died"))
        works.service.tick()
        works.settle_writing()
        assert failing(place) == {("list", "demo")}
        works.clock.now += 5 * HOUR
        works.service.tick()
        held.do("demo")
        works.service.tick()
        works.settle_writing()
        assert failing(place) == set()


def test_workers_that_cannot_be_had_fail_until_they_can(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuromirror.service.engine._PAUSE", 0.0)
    with threads(2, grace=5) as pool:
        shut = Shut(pool)
        with works_of(place, executor=shut) as works:
            works.service.tick()
            assert failing(place) == {("workers", "")}
            shut.shut = False
            works.settle()
            assert failing(place) == set()


def test_a_new_service_starts_without_the_troubles_of_the_last_one(place: Place) -> None:
    with recording(place.store, place.store.index_path) as recorder:
        log = FailureLog(recorder)
        log.failed("workers", "none could be had")
        log.failed("backup", "the disk is full")
    with works_of(place):
        assert failing(place) == {("backup", "")}


def test_failures_are_counted_by_mirror_and_task(place: Place) -> None:
    store = place.store
    with (
        recording(store, store.index_path) as recorder,
        Schedule.open(store.schedule_path) as schedule,
    ):
        FailureLog(recorder).failed("list", "refused", "demo")
        page = Metrics(store, store.index_path, schedule, ["demo"]).page().decode()
        assert 'neuromirror_failures{mirror="demo",task="list"} 1.0' in page
        FailureLog(recorder).succeeded("list", "demo")
        page = Metrics(store, store.index_path, schedule, ["demo"]).page().decode()
        assert "neuromirror_failures{" not in page
