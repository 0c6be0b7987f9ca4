"""Compare the service's scheduling policy with others, on a simulated clock and random archives.

The assumptions about archives are in simulation.world, the costs of visits in simulation.costs, and
the measurements in simulation.figures.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import click
from benchmarks.common import commit, machine

from simulation.costs import COSTS, measured
from simulation.engine import tick_line
from simulation.output import plot, write_section
from simulation.plan import plan
from simulation.plan import table as plan_table
from simulation.policies import POLICIES
from simulation.run import Limits, Simulation
from simulation.world import World, draw

PAGE = "explanation/scale.md"
_NAMES = [one.name for one in POLICIES]


@click.command()
@click.option("--datasets", default=10_000, show_default=True, type=click.IntRange(20))
@click.option("--days", default=365.0, show_default=True, type=click.FloatRange(0.1, 365))
@click.option("--down", default=30.0, show_default=True, help="Days without a service, half-way.")
@click.option("--seed", default=1, show_default=True, help="Seed of the random numbers.")
@click.option("--rate", default=10.0, show_default=True, help="Requests per second and host.")
@click.option("--workers", default=4, show_default=True, help="Jobs at a time.")
@click.option("--policy", "names", multiple=True, type=click.Choice(_NAMES), help="All, if none.")
@click.option("--ticks", is_flag=True, help="Instead: how long ticks of the real engine take.")
@click.option("--costs", is_flag=True, help="Instead: crawl the demo archives for their costs.")
@click.option("--plan", "planned", is_flag=True, help="Instead: what a first crawl takes.")
@click.option("--custody", is_flag=True, help="Instead: what a year does to a lab's vaults.")
@click.option("--copies", default=3, show_default=True, help="Copies of each content, as above.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.option("--write", is_flag=True, help="Update docs/explanation/scale.md and its plot.")
def main(
    *,
    datasets: int,
    days: float,
    down: float,
    seed: int,
    rate: float,
    workers: int,
    names: tuple[str, ...],
    ticks: bool,
    costs: bool,
    planned: bool,
    custody: bool,
    copies: int,
    as_json: bool,
    write: bool,
) -> None:
    """Print staleness and requests of a year, by policy."""
    limits = Limits(workers, rate)
    name = "simulate"
    table: Callable[[list[dict[str, Any]]], str] = _table
    lines: Iterable[dict[str, Any]]
    if costs:
        name, table, lines = "simulate-costs", _costs_table, measured()
    elif ticks:
        name, table = "simulate-ticks", _ticks_table
        lines = _ticks(draw(seed, datasets, days, 0), limits, seed)
    elif custody:
        name, table = "simulate-custody", _custody_table
        lines = _custody(draw(seed, datasets, days, 0), seed, copies, down)
    elif planned:
        name, table = "simulate-plan", partial(plan_table, rate=rate, jobs=workers)
        lines = plan(draw(seed, datasets, days, 0), rate, workers)
    else:
        if down >= days / 2:
            raise click.UsageError("--down: a downtime must end before the simulation does")
        world = draw(seed, datasets, days, down)
        lines = policies(world, limits, seed, names or _NAMES)
    _report(name, lines, table, as_json=as_json, write=write)


def policies(
    world: World, limits: Limits, seed: int, names: Iterable[str]
) -> Iterator[dict[str, Any]]:
    """Yield one line per policy."""
    selected = set(names)
    for policy in POLICIES:
        if policy.name in selected:
            click.echo(f"{policy.name}: {world.days:g} days …", err=True)
            found = Simulation(world, policy, limits, seed).run()
            yield {
                **{"what": policy.name, "n": len(world.subjects), "days": world.days, "seed": seed},
                **{"workers": limits.workers, "rate": limits.rate},
                **found.figures(),
                "curve": found.curve(),
                "commit": commit(),
            }


def _ticks(world: World, limits: Limits, seed: int) -> Iterator[dict[str, Any]]:
    found = tick_line(world, limits, seed)
    load = round(os.getloadavg()[0], 1)
    yield {**found, "days": world.days, "load": load, "commit": commit(), "machine": machine()}


def _custody(world: World, seed: int, copies: int, down: float) -> Iterator[dict[str, Any]]:
    from simulation.custody import CustodySimulation, remove

    folder = Path(tempfile.mkdtemp(prefix="simulate-custody-"))
    try:
        found = CustodySimulation(world, folder, seed, copies, down).run()
    finally:
        remove(folder)
    yield {
        **{"what": "custody", "n": len(world.subjects), "days": world.days, "seed": seed},
        **{"copies": copies, "down_days": down, **asdict(found), "commit": commit()},
    }


def _custody_table(lines: list[dict[str, Any]]) -> str:
    (one,) = lines
    return (
        f"{one['days']:g} days, {one['copies']} copies, one vault down for {one['down_days']:g} "
        f"days, seed {one['seed']}: {one['pinned']:,} pinned contents, of which upstream deleted "
        f"{one['deleted_upstream']:,}; {one['flips']:,} flipped bits, {one['repaired']:,} repaired "
        f"copies; {one['lost']} contents lost; {one['short']} with fewer copies than wanted when "
        f"upstream deleted them, {one['late']} of them not announced 7 days before."
    )


def _report(
    name: str,
    lines: Iterable[dict[str, Any]],
    table: Callable[[list[dict[str, Any]]], str],
    *,
    as_json: bool,
    write: bool,
) -> None:
    gathered = []
    for line in lines:
        gathered.append(line)
        if as_json:
            click.echo(json.dumps(line))
            sys.stdout.flush()
    text = table(gathered)
    if not as_json:
        click.echo(text)
    if write:
        if name == "simulate":
            _draw(gathered)
            text += "\n\n![simulate](simulate.svg)"
        write_section(name, text, PAGE)


def _draw(lines: list[dict[str, Any]]) -> None:
    with plot("simulate") as axes:
        for line in lines:
            axes.plot(*zip(*line["curve"], strict=True), label=line["what"])
        axes.axvline(24, color="grey", linewidth=0.8)
        axes.set(
            xscale="log",
            ylim=(85, 100.2),
            xlabel="hours stale at the most",
            ylabel="% of active datasets, at any time",
        )


def _table(lines: list[dict[str, Any]]) -> str:
    heads = " | ".join(one["what"] for one in lines)
    text = [f"| | {heads} |", "|---|" + "---:|" * len(lines)]

    def row(what: str, values: Iterable[object]) -> None:
        cells = [f"{one:,}" if isinstance(one, int) else str(one) for one in values]
        text.append(f"| {what} | {' | '.join(cells)} |")

    row("active datasets fresher than 24 h, %", (one["fresh_percent"] for one in lines))
    for name in lines[0]["fresh_by_mirror"]:
        row(f"… of {name}, %", (one["fresh_by_mirror"][name] for one in lines))
    row("… of those that changed in the last 30 days, %", _each(lines, "fresh_of_recent_percent"))
    for which in lines[0]["stale_hours"]:
        row(f"staleness {which}, h", (one["stale_hours"][which] for one in lines))
    for which in lines[0]["delay_hours"]:
        row(f"delay of a change, {which}, h", (one["delay_hours"][which] for one in lines))
    row("visits per day", _each(lines, "visits_a_day"))
    row("… of them deep", _each(lines, "deep_a_day"))
    for host in lines[0]["requests_a_day"]:
        requests = [one["requests_a_day"][host] for one in lines]
        row(f"requests per day, {host}", (one["mean"] for one in requests))
        row("… on the busiest day", (one["peak"] for one in requests))
    row("longest queue", _each(lines, "peak_queue"))
    row("… after the downtime", _each(lines, "peak_queue_after_downtime"))
    row("hours to 95 % fresh after the downtime", _each(lines, "caught_up_hours"))
    row("hours of the first crawl (99 % of it)", _each(lines, "first_crawl_hours"))
    first = lines[0]
    text += [
        "",
        f"{first['n']:,} datasets ({first['active']:,} active) for {first['days']:g} days, "
        f"{first['workers']} concurrent jobs, {first['rate']:g} requests per second and host, seed "
        f"{first['seed']}; simulated {_today()} at commit {first['commit']}.",
    ]
    return "\n".join(text)


def _each(lines: list[dict[str, Any]], name: str) -> Iterator[object]:
    return (one[name] for one in lines)


def _ticks_table(lines: list[dict[str, Any]]) -> str:
    (one,) = lines
    return (
        f"{one['datasets']:,} datasets, {one['days']:g} days from the first crawl on, "
        f"{one['jobs']:,} jobs, {one['ticks']:,} ticks: median {one['median_ms']} ms, p99 "
        f"{one['p99_ms']} ms, longest {one['max_ms']} ms of wall time and "
        f"{one['max_cpu_ms']} ms of CPU time; "
        f"{one['over_200_ms']} took more than 200 ms. Measured {_today()} at commit "
        f"{one['commit']} on {one['machine']}, load average {one['load']}."
    )


def _costs_table(lines: list[dict[str, Any]]) -> str:
    text = [
        "| demo archive | datasets | requests: first visit | visit | list "
        "| simulated: visit | list |",
        "|---|" + "---:|" * 6,
    ]
    for one in lines:
        cost = COSTS[one["source"]]
        first, revisit = cost.visit(1, first=True)[0], cost.visit(1)[0]
        text.append(
            f"| {one['mirror']} | {one['datasets']} | {one['first_requests']} | "
            f"{one['unchanged_requests']} | {one['list_requests']} | {first}, then {revisit} | "
            f"{cost.list(one['datasets'])} |"
        )
    return "\n".join([*text, "", f"Measured {_today()} at commit {commit()}."])


def _today() -> str:
    return datetime.now(UTC).date().isoformat()


if __name__ == "__main__":
    main(prog_name="scripts/simulate")
