"""The simulation of the policy: it repeats itself, measures right, and does as the engine."""

from __future__ import annotations

import json
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from simulation.__main__ import main
from simulation.costs import COSTS, measured
from simulation.engine import SimulatedService
from simulation.figures import Measure
from simulation.policies import POLICIES, Policy, ServicePolicy
from simulation.run import Limits, Simulation
from simulation.world import DAY, EPOCH, HOUR, SimulatedDataset, World, draw

from neuromirror.model import DatasetRef

LIMITS = Limits(workers=4, rate=10.0)


def _run(policy: Policy, seed: int) -> dict[str, Any]:
    return Simulation(draw(seed, 200, 30, 0), policy, LIMITS, seed).run().figures()


@lru_cache
def _figures(name: str) -> dict[str, Any]:
    """Those of a policy in one and the same world."""
    (policy,) = (one for one in POLICIES if one.name == name)
    return _run(policy, 1)


def test_the_same_seed_gives_the_same_figures_and_another_one_others() -> None:
    assert _run(ServicePolicy(), 1) == _figures("neuromirror")
    assert _run(ServicePolicy(), 2) != _figures("neuromirror")


def test_ours_keeps_what_changes_fresh_with_fewer_requests_than_a_visit_a_day() -> None:
    names = ("neuromirror", "fixed, 24 h", "exponential")
    ours, fixed, exponential = (_figures(name) for name in names)
    assert ours["fresh_percent"] > 95
    assert ours["fresh_percent"] > exponential["fresh_percent"]
    assert ours["visits_a_day"] < fixed["visits_a_day"]
    for host, count in ours["requests_a_day"].items():
        assert count["per_s"] < LIMITS.rate, host


def test_a_trusted_overview_saves_visits() -> None:
    believing, unaided = _figures("neuromirror"), _figures("neuromirror, no overview")
    assert believing["visits_a_day"] < 0.8 * unaided["visits_a_day"]
    assert believing["fresh_percent"] >= unaided["fresh_percent"]


def test_a_downtime_is_caught_up_with_once() -> None:
    world = draw(1, 200, 30, 10)
    down, up = world.down
    assert (up - down, up - EPOCH) == (10 * DAY, 25 * DAY)
    found = Simulation(world, ServicePolicy(), LIMITS, 1).run().figures()
    assert found["caught_up_hours"] < 24
    assert found["peak_queue_after_downtime"] > found["peak_queue"]
    without = _figures("neuromirror")
    # what fell due meanwhile is done once
    assert found["visits_a_day"] * 20 < without["visits_a_day"] * 30


def test_the_engine_behaves_as_simulated() -> None:
    world = draw(3, 60, 3, 0)
    simulated = Simulation(world, ServicePolicy(), LIMITS, 3).run().figures()
    engine = SimulatedService(world, LIMITS, 3)
    done = engine.run().figures()
    assert engine.ticks.jobs > 200
    assert done["visits_a_day"] == pytest.approx(simulated["visits_a_day"], rel=0.1)
    assert done["fresh_percent"] == pytest.approx(simulated["fresh_percent"], abs=1.5)
    assert done["first_crawl_hours"] == pytest.approx(
        simulated["first_crawl_hours"], rel=0.1, abs=0.3
    )
    for host, count in done["requests_a_day"].items():
        assert count["mean"] == pytest.approx(simulated["requests_a_day"][host]["mean"], rel=0.15)


def _watched(changes: list[float], down: tuple[float, float] = (0.0, 0.0)) -> tuple[Measure, World]:
    """A world of ten days with one dataset, which changes on the days given."""
    times = [EPOCH + day * DAY for day in changes]
    ref = DatasetRef("dandi", "000001", "s3://dandi/000001")
    outage = (EPOCH + down[0] * DAY, EPOCH + down[1] * DAY)
    world = World(10, [SimulatedDataset(ref, 0, 1, times, times)], outage, {})
    return Measure(world), world


def test_staleness_is_the_age_of_the_oldest_change_that_is_not_mirrored() -> None:
    measure, _ = _watched([0, 1, 2])
    measure.seen(0, 0, 1, EPOCH + HOUR)
    measure.seen(0, 1, 3, EPOCH + 3 * DAY)
    measure.over([3])
    found = measure.figures()
    # stale from day 1 to 3, and for one day of ten by more than a day
    assert found["fresh_percent"] == 90
    assert found["stale_hours"]["p50"] == 0
    assert found["stale_hours"]["p90"] == pytest.approx(24, abs=0.1)
    assert found["stale_hours"]["p95"] == pytest.approx(36, abs=0.1)
    assert found["delay_hours"]["p50"] == pytest.approx(36)
    assert dict(measure.curve())[max(dict(measure.curve()))] == 100


def test_what_is_never_mirrored_is_stale_to_the_end() -> None:
    measure, _ = _watched([0, 4])
    measure.over([1])
    assert measure.figures()["fresh_percent"] == 50


def test_a_downtime_itself_is_not_counted_but_the_backlog_after_it_is() -> None:
    measure, _ = _watched([0, 2], down=(1, 6))
    measure.seen(0, 1, 2, EPOCH + 7 * DAY)
    measure.over([2])
    # five days watched, one of them stale
    assert measure.figures()["fresh_percent"] == 80


def test_costs_in_use_are_those_of_the_demo_archives(demo_files: Path) -> None:
    kinds = set()
    for line in measured(demo_files):
        cost = COSTS[line["source"]]
        kinds.add(line["source"])
        visit, first = cost.visit(1)[0], cost.visit(1, first=True)[0]
        assert 0.5 <= visit / line["unchanged_requests"] <= 2, line
        assert 0.4 <= first / line["first_requests"] <= 2.5, line
        assert 0.5 <= cost.list(line["datasets"]) / line["list_requests"] <= 2, line
    assert kinds == {"dandi", "s3", "boss", "precomputed"}


def test_the_script_prints_a_line_for_each_policy() -> None:
    script = partial(CliRunner().invoke, main)
    done = script(["--json", "--seed", "7", "--datasets", "40", "--days", "6", "--down", "1"])
    assert done.exit_code == 0
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["what"] for one in lines] == [one.name for one in POLICIES]
    for line in lines:
        assert (line["n"], line["days"], line["seed"]) == (40, 6, 7)
        assert {"fresh_percent", "stale_hours", "requests_a_day", "peak_queue"} <= set(line)
    wrong = script(["--json", "--days", "6", "--down", "5"])
    assert wrong.exit_code == 2
    assert "a downtime must end" in wrong.stderr
