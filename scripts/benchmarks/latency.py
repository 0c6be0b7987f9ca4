"""The benchmark ``latency``: a first sync of the demo archive, with a delay before every reply."""

from __future__ import annotations

import os
import re
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.common import commit, machine, own_environment, report
from benchmarks.servers import DemoServer, demo_server, expect, in_separate_process

REPEATS = 3
FIRST = "first sync"
UNCHANGED = "unchanged sync"
_OF_DANDISET = re.compile(r"/api/dandisets/(?P<id>[0-9]{6})/versions/(?P<rest>.*)")
_OF_VERSION = re.compile(r"(?P<label>[^/?]+)/assets/")
_ZARR_CHAIN = 2
"""Requests for a small Zarr that depend on each other: its listing, then the first object."""


@click.command("latency")
@click.option(
    "--milliseconds",
    default=100,
    show_default=True,
    type=click.IntRange(1),
    help="Wait before each reply.",
)
@click.option("--jobs", default=None, type=click.IntRange(1, 64), help="Datasets at a time.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.option("--write", is_flag=True, help="Update docs/explanation/benchmarks.md.")
def latency_bench(milliseconds: int, jobs: int | None, *, as_json: bool, write: bool) -> None:
    """Sync the demo archive for the first time, with and without a delay before every reply."""
    report("latency", _lines(milliseconds / 1000, jobs), as_json=as_json, write=write, table=_table)


def _lines(latency: float, jobs: int | None) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        with demo_server(folder) as server:
            for what in (FIRST, UNCHANGED):
                if what == UNCHANGED:
                    _add_pending_zarr(server)
                work = 0.0
                for wait in (0.0, latency, 10 * latency):
                    line = _line(folder, server, what, wait, jobs)
                    if wait:
                        with_work = work + line["critical_s"]
                        line["critical_with_work_s"] = round(with_work, 3)
                        line["waits"] = round((line["seconds"] - work) / wait, 1)
                        line["ratio"] = round(line["seconds"] / line["critical_s"], 2)
                        line["ratio_with_work"] = round(line["seconds"] / with_work, 2)
                    else:
                        work = line["seconds"]
                    yield line


def _add_pending_zarr(server: DemoServer) -> None:
    """Add an unfinalized Zarr to the dandiset in which a file lacks its sha256."""
    entries = {".zgroup": "{}", "0": "a chunk"}
    server.do("add_zarr", dandiset="000004", path="late.zarr", entries=entries, finalize=False)


def _line(
    folder: Path, server: DemoServer, what: str, wait: float, jobs: int | None
) -> dict[str, Any]:
    click.echo(f"{what}, {wait * 1000:.0f} ms per reply …", err=True)
    server.do("clear_faults")
    for host in ("api", "s3") if wait else ():
        server.do("fault", name="hang", server=host, seconds=wait)
    times, peaks = [], []
    for number in range(REPEATS):
        store = folder / ("store" if what == UNCHANGED else f"store-{wait}-{number}")
        if what == UNCHANGED and not store.exists():
            in_separate_process(_sync, store, server.mirror, jobs)
        server.do("clear_requests")
        seconds, extra = in_separate_process(_sync, store, server.mirror, jobs)
        times.append(seconds)
        peaks.append(extra["peak_mb"])
    request_counts = server.requests()
    chain = critical_path(request_counts["api"], request_counts["s3"])
    return {
        "bench": "latency",
        "what": what,
        "latency_ms": round(wait * 1000),
        "n": sum(map(len, request_counts.values())),
        "seconds": round(statistics.median(times), 3),
        "peak_mb": max(peaks),
        "chain": chain,
        "critical_s": round(chain * wait, 3),
        "commit": commit(),
        "machine": machine(),
    }


def critical_path(api: Sequence[str], s3: Sequence[str]) -> int:
    """Return the length of the longest chain of dependent requests.

    The list of dandisets, a dandiset's versions, the pages of a version's assets, and then an
    object, the version's summary, or the listing of a Zarr and its first object. Versions of a
    dandiset do not depend on each other.
    """
    lists = sum(one.startswith("GET /api/dandisets/?") for one in api)
    versions: Counter[str] = Counter()
    pages: Counter[tuple[str, str]] = Counter()
    for one in api:
        found = _OF_DANDISET.search(one)
        if found is None:
            continue
        version = _OF_VERSION.match(found["rest"])
        if version is not None:
            pages[found["id"], version["label"]] += 1
        elif found["rest"].startswith("?"):
            versions[found["id"]] += 1
    if not versions:
        # pending items are requested separately
        return lists + (len(api) > lists)
    zarrs = any("prefix=zarr" in one for one in s3)
    longest = max(versions[name] + count for (name, _), count in pages.items())
    return lists + longest + (_ZARR_CHAIN if zarrs else 1)


def _sync(store: Path, mirror: Any, jobs: int | None) -> float:
    """Sync the demo archive once; return the seconds."""
    own_environment(store.parent)
    os.environ |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    from neuromirror.crawl import Sync, parse_sync_requests
    from neuromirror.store import Store

    mirror.open()  # imports the modules of the source
    how: dict[str, Any] = {} if jobs is None else {"jobs": jobs}
    begin = time.perf_counter()
    opened = Store.open(store, create=True)
    requests = parse_sync_requests([mirror.name], {mirror.name: mirror})
    results = list(Sync(opened, opened.index_path, **how).results(requests))
    seconds = time.perf_counter() - begin
    wrong = [one for one in results if one.status not in ("ok", "notneeded")]
    expect(not wrong, f"the sync failed: {wrong[:1]}")
    return seconds


def _table(lines: Sequence[Mapping[str, Any]]) -> str:
    columns = {
        "what": "what",
        "latency_ms": "ms per reply",
        "n": "requests",
        "seconds": "seconds",
        "chain": "longest chain",
        "critical_s": "critical path, s",
        "waits": "waits",
        "ratio": "ratio",
        "critical_with_work_s": "with work, s",
        "ratio_with_work": "ratio with work",
        "peak_mb": "peak MB",
    }
    rows = [f"| {' | '.join(columns.values())} |", f"|---{'|---:' * (len(columns) - 1)}|"]
    rows += [f"| {' | '.join(str(line.get(name, '')) for name in columns)} |" for line in lines]
    first = lines[0]
    rows += ["", f"Measured at commit {first['commit']} on {first['machine']}."]
    return "\n".join(rows)
