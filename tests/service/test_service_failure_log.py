"""Troubles of the service itself are on record until they are over."""

from __future__ import annotations

import re
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from ruamel.yaml import YAML

from neuromirror.index import Schedule
from neuromirror.service.metrics import Metrics
from neuromirror_demo import DemoArchive
from support.mirror_harness import MirrorHarness
from support.service_harness import open_service_harness


def failing(mirror_harness: MirrorHarness) -> set[tuple[str, str]]:
    with mirror_harness.index() as index:
        return {(one.task, one.mirror) for one in index.failures()}


class Shut(Executor):
    """Takes no job while it is shut."""

    def __init__(self, pool: Executor) -> None:
        self._pool = pool
        self.shut = True

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self.shut:
            raise RuntimeError("no memory")
        return self._pool.submit(fn, *args, **kwargs)


def test_a_mirror_file_that_is_wrong_fails_until_it_is_right(mirror_harness: MirrorHarness) -> None:
    path = mirror_harness.mirrors / "demo.toml"
    right = path.read_text("utf-8")
    with open_service_harness(mirror_harness) as harness:
        path.write_text(right + "[nothing]\n")
        harness.service.reload_mirror_files()
        assert failing(mirror_harness) == {("configuration", "demo")}
        path.write_text(right)
        harness.service.reload_mirror_files()
        assert failing(mirror_harness) == set()


def test_workers_that_cannot_be_had_fail_until_they_can(
    mirror_harness: MirrorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuromirror.service.engine._CHECK_SECONDS", 0.0)
    with open_service_harness(mirror_harness) as harness:
        shut = Shut(harness.executor)
        monkeypatch.setattr(harness.service, "_executor", shut)
        harness.service.tick()
        assert failing(mirror_harness) == {("workers", "")}
        shut.shut = False
        harness.settle()
        assert failing(mirror_harness) == set()


ALERTS = Path(__file__).parents[2] / "scripts" / "alerts.yml"
_RULE = re.compile(
    r"(?:sum by \([^)]*\) \()?(?P<name>\w+)(?:\{(?P<label>\w+)!=\"(?P<other>\w+)\"\})?\)? > 0\Z"
)


def raised_alerts(mirror_harness: MirrorHarness, schedule: Schedule) -> set[str]:
    """The alerts about failures whose expression is true for the current metrics."""
    store = mirror_harness.store
    page = Metrics(store, store.index_path, schedule, ["demo"]).page().decode()
    samples = [one for family in text_string_to_metric_families(page) for one in family.samples]
    rules = {
        rule["alert"]: rule["expr"]
        for group in YAML(typ="safe").load(ALERTS)["groups"]
        for rule in group["rules"]
    }
    raised = set()
    for alert in ("NeuromirrorDatasetsFail", "NeuromirrorFailing"):
        rule = _RULE.match(rules[alert])
        assert rule is not None, rules[alert]
        found = [one for one in samples if one.name == rule["name"]]
        if rule["label"]:
            found = [one for one in found if one.labels[rule["label"]] != rule["other"]]
        if sum(one.value for one in found) > 0:
            raised.add(alert)
    return raised


def test_alerts_are_raised_until_a_failure_is_over(
    mirror_harness: MirrorHarness, demo: DemoArchive
) -> None:
    with Schedule.open(mirror_harness.store.schedule_path) as schedule:
        for fault, expected in (
            (r"/dandisets/000002/versions/", {"NeuromirrorDatasetsFail"}),
            (r"/dandisets/$", {"NeuromirrorFailing"}),
        ):
            mirror_harness.sync()
            assert raised_alerts(mirror_harness, schedule) == set()
            demo.touch("000002")
            demo.fault("status", path=fault, status=403)
            mirror_harness.sync()
            assert raised_alerts(mirror_harness, schedule) == expected
            demo.clear_faults()
        mirror_harness.sync()
        assert raised_alerts(mirror_harness, schedule) == set()
