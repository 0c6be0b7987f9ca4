"""Figures: what is counted, and how things stand, as a Prometheus would read them."""

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from neuromirror.crawl import open_recorder
from neuromirror.index import Schedule, TaskRow
from neuromirror.model import EventRaised, HoldPlaced, LocationsChecked, VisitEnded
from neuromirror.service.metrics import Metrics
from neuromirror.store import Store
from neuromirror_demo import DemoArchive
from support.mirror_harness import MirrorHarness

NOW = 1_790_000_000.0
SERVED = ("demo", "other")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store.open(tmp_path / "store", create=True)
    with open_recorder(made, made.index_path):
        pass
    return made


@pytest.fixture
def schedule(store: Store) -> Iterator[Schedule]:
    with Schedule.open(store.schedule_path) as opened:
        yield opened


@pytest.fixture
def metrics(store: Store, schedule: Schedule) -> Metrics:
    return Metrics(store, store.index_path, schedule, SERVED, clock=lambda: NOW)


def read(metrics: Metrics) -> dict[str, float]:
    """``name{label=value,…}`` and the value of each sample."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(metrics.page().decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_jobs_are_counted_by_kind_mirror_and_outcome(metrics: Metrics) -> None:
    metrics.job_finished("visit", "demo", "changed", 2.5)
    metrics.job_finished("visit", "demo", "changed", 0.5)
    metrics.job_finished("visit", "demo", "failed", 1.0)
    metrics.job_finished("listing", "other", "unchanged", 0.25)
    found = read(metrics)
    assert found["neuromirror_jobs_total{kind=visit,mirror=demo,outcome=changed}"] == 2
    assert found["neuromirror_jobs_total{kind=visit,mirror=demo,outcome=failed}"] == 1
    assert found["neuromirror_jobs_total{kind=listing,mirror=other,outcome=unchanged}"] == 1
    assert found["neuromirror_job_duration_seconds_sum{kind=visit,mirror=demo}"] == 4.0
    assert found["neuromirror_job_duration_seconds_count{kind=visit,mirror=demo}"] == 3
    assert found["neuromirror_job_duration_seconds_bucket{kind=visit,le=1.0,mirror=demo}"] == 2


def test_how_far_behind_a_mirror_is_comes_from_the_schedule(
    metrics: Metrics, schedule: Schedule
) -> None:
    def row(number: int, **more: object) -> TaskRow:
        fields = {"ended": NOW - 100, "spacing": 500.0, **more}
        return TaskRow(f"demo:{number}", "demo", str(number), **fields)  # type: ignore[arg-type]

    schedule.put(
        [
            TaskRow("demo", "demo", due=NOW - 7, ended=NOW - 3600, failures=2),
            row(1, due=None, fingerprint="f"),  # the list has its fingerprint
            row(2, due=NOW + 400),
            row(3, due=NOW - 50),
            row(4, due=NOW - 90),  # being visited
            row(5, due=NOW - 20, ended=None),
            row(6, due=NOW + 400, failures=1),
            row(7, due=NOW - 9999, disabled=True, failures=3),
            TaskRow("other", "other", due=NOW + 60),
            TaskRow("gone", "gone", due=NOW - 999),  # its file was removed
            TaskRow("housekeeping backup", due=NOW - 5, ended=NOW - 86400, failures=1),
            TaskRow("housekeeping housekeeping", due=NOW + 5),
            TaskRow("superdatasets demo", failures=2),
        ]
    )
    assert schedule.leases.claim("demo:4", "worker", NOW, 60) == 1
    assert schedule.leases.claim("demo:2", "exited", NOW - 100, 60) == 1
    found = read(metrics)
    assert found["neuromirror_queue_length{mirror=demo}"] == 3
    assert found["neuromirror_oldest_due_age_seconds{mirror=demo}"] == 50
    assert found["neuromirror_current_datasets_ratio{mirror=demo}"] == pytest.approx(2 / 7)
    assert found["neuromirror_disabled_datasets{mirror=demo}"] == 1
    assert found["neuromirror_failing_listings{mirror=demo}"] == 2
    assert found["neuromirror_leases"] == 1
    assert found["neuromirror_queue_length{mirror=other}"] == 0
    assert found["neuromirror_oldest_due_age_seconds{mirror=other}"] == 0
    assert not any("gone" in name for name in found)
    # nothing can be said of a mirror without datasets
    assert "neuromirror_current_datasets_ratio{mirror=other}" not in found
    assert found["neuromirror_failing_housekeeping_tasks{task=backup}"] == 1
    finished = "neuromirror_housekeeping_last_finish_timestamp_seconds"
    assert found[f"{finished}{{task=backup}}"] == NOW - 86400
    assert found["neuromirror_failing_housekeeping_tasks{task=housekeeping}"] == 0
    assert found["neuromirror_failing_superdatasets{mirror=demo}"] == 2
    assert not any("task=superdatasets" in name for name in found)
    assert f"{finished}{{task=housekeeping}}" not in found
    assert found["neuromirror_schedule_readable"] == 1


def test_how_mirrors_stand_comes_from_the_index(full_demo: DemoArchive, tmp_path: Path) -> None:
    began = time.time()
    mirror_harness = MirrorHarness(full_demo.mirrors, tmp_path / "store")
    mirror_harness.sync("demo")
    store = mirror_harness.store
    gone, other = (one.url for one in mirror_harness.index().locations.due(2, "9999"))
    with open_recorder(store, store.index_path) as recorder:
        recorder.record(
            LocationsChecked(
                "demo", "000001", {"not-found": [gone], "unreachable": [other]}, _at(NOW)
            ),
            HoldPlaced("h1", "demo", "000001", "draft", "sha256:0", "fewer", 9, 10, _at(NOW)),
            EventRaised("demo", "000001", "incident", "an incident", _at(NOW)),
            EventRaised("demo", "000001", "unavailable", "no incident", _at(NOW)),
            _failed("000002"),
        )
    with Schedule.open(store.schedule_path) as schedule:
        found = read(Metrics(store, store.index_path, schedule, ["demo", "new"]))
    (status,) = mirror_harness.index().crawl.mirrors()
    for name, value in {
        "datasets": status.datasets,
        "mirrored_datasets": status.mirrored,
        "versions": status.versions,
        "files": status.files,
        "content_bytes": status.bytes,
        "failing_datasets": 1,
        "settling_datasets": status.settling,
        "open_holds": 1,
        "incidents": 1,
    }.items():
        assert found[f"neuromirror_{name}{{mirror=demo}}"] == value, name
    assert found["neuromirror_unavailable_locations{mirror=demo,result=not-found}"] >= 1
    assert found["neuromirror_unavailable_locations{mirror=demo,result=unreachable}"] >= 1
    assert status.versions > 3 < status.files < status.bytes
    for what in ("listing", "visit"):
        name = f"neuromirror_{what}_last_success_timestamp_seconds"
        assert began - 2 <= found[f"{name}{{mirror=demo}}"] <= time.time()
        assert found[f"{name}{{mirror=new}}"] == 0
    assert found["neuromirror_index_readable"] == 1


def _at(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _failed(local_id: str) -> VisitEnded:
    at = _at(NOW)
    return VisitEnded("demo", local_id, "", "v", "", at, at, "failed", "", 0, "no luck")


def test_a_damaged_schedule_is_reported_as_unreadable(store: Store) -> None:
    Schedule.open(store.schedule_path).close()
    with store.schedule_path.open("r+b") as file:
        file.seek(4096)
        file.write(b"x" * (store.schedule_path.stat().st_size - 4096))
    with Schedule.open(store.schedule_path) as schedule:
        found = read(Metrics(store, store.index_path, schedule, SERVED))
    assert found["neuromirror_schedule_readable"] == 0
    assert "neuromirror_leases" not in found
    assert found["neuromirror_index_readable"] == 1


def test_names_are_as_prometheus_has_them(metrics: Metrics) -> None:
    metrics.job_finished("visit", "demo", "changed", 1)
    metrics.housekeeping_finished("backup", True, 1)
    families = {one.name: one for one in text_string_to_metric_families(metrics.page().decode())}
    ours = {name: one for name, one in families.items() if not name.startswith("process_")}
    assert len(ours) > 30
    for name, family in ours.items():
        assert re.fullmatch(r"neuromirror(_[a-z]+)+", name), name
        assert family.documentation.endswith("."), name
        unit = re.search(r"seconds|bytes|ratio|timestamp", name)
        assert unit is None or re.search(r"(_seconds|_bytes|_ratio|_created)$", name), name
        if family.type == "counter":
            assert all(one.name.endswith(("_total", "_created")) for one in family.samples), name
        else:
            assert not name.endswith("_total"), name
