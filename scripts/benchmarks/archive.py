"""The benchmark ``archive``: mirror a synthetic DANDI of any size, and visit it again."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from benchmarks.common import commit, machine, own_environment, report
from benchmarks.servers import big_archive, expect, in_separate_process

FIRST = "first crawl"
_MB = 10**6
_GB = 10**9


@click.command("archive")
@click.option(
    "--scale",
    default=0.01,
    show_default=True,
    type=click.FloatRange(0.001, 1),
    help="Size of the archive; 1 is that of DANDI.",
)
@click.option("--zarrs", is_flag=True, help="Mirror the Zarrs, too.")
@click.option("--jobs", default=4, show_default=True, type=click.IntRange(1), help="At once.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.option("--write", is_flag=True, help="Update docs/explanation/benchmarks.md.")
def archive_bench(scale: float, *, zarrs: bool, jobs: int, as_json: bool, write: bool) -> None:
    """Crawl a whole synthetic archive: first, unchanged, and deep."""
    report("archive", _lines(scale, zarrs, jobs), as_json=as_json, write=write, table=_table)


def _lines(scale: float, zarrs: bool, jobs: int) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        click.echo(f"the archive at scale {scale}: its checksums are computed …", err=True)
        options = ["--scale", str(scale), *(["--zarrs"] if zarrs else [])]
        with big_archive(folder / "mirrors", *options) as server:
            about = server.about
            files = about["assets"] - about["zarrs"] + (about["entries"] if zarrs else 0)
            growth = _all_files(zarrs) / files
            common = {
                **{"bench": "archive", "scale": scale, "zarrs": zarrs, "n": files},
                **{name: about[name] for name in ("dandisets", "versions", "listed", "entries")},
            }
            for what, deep in (
                (FIRST, False),
                ("unchanged", False),
                ("unchanged, deep", True),
            ):
                click.echo(f"{what}: {files} files at scale {scale} …", err=True)
                server.clear()
                before = server.requests()["cpu_s"]
                took, extra = in_separate_process(_crawl, folder, deep, jobs, what != FIRST)
                statistics = server.requests()
                sized = _sizes(folder / "store")
                shown = {name: round(size / _MB) for name, size in sized.items()}
                yield {
                    **common,
                    "what": what,
                    "seconds": round(took, 2),
                    "per_s": round(files / took),
                    **extra,
                    "requests": sum(statistics["asked"].values()),
                    "asked": statistics["asked"],
                    "files_a_request": round(files / max(sum(statistics["asked"].values()), 1), 1),
                    "server_cpu_s": round(statistics["cpu_s"] - before, 2),
                    "server_peak_mb": round(statistics["peak_bytes"] / _MB),
                    "index_mb": shown["index"],
                    "store_mb": shown["store"],
                    "whole": _extrapolated(scale, growth, took, statistics["asked"], sized),
                    "commit": commit(),
                    "machine": machine(),
                }


def _all_files(zarrs: bool) -> int:
    """Return the number of files of an archive at scale 1."""
    from benchmarks.big_plan import ArchivePlan

    plan = ArchivePlan.at_scale(1.0)
    return plan.blobs.count + (sum(plan.entries) if zarrs else 0)


def _crawl(folder: Path, deep: bool, jobs: int, is_repeated: bool) -> float:
    """Sync all datasets; return the seconds."""
    own_environment(folder)
    os.environ |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    from neuromirror.crawl import Sync, load_mirrors, parse_sync_requests
    from neuromirror.store import Store

    begin = time.perf_counter()
    mirrors = load_mirrors(folder / "mirrors")
    store = Store.open(folder / "store", create=True)
    sync = Sync(store, store.index_path, deep=deep, jobs=jobs)
    wrong, minted = [], []
    for result in sync.results(parse_sync_requests(["big"], mirrors)):
        if result.status not in ("ok", "notneeded"):
            wrong.append(result)
        elif result.status == "ok":
            minted.append(f"{result.dataset}: {result.message}")
    seconds = time.perf_counter() - begin
    expect(not wrong, f"{len(wrong)} datasets failed, the first: {wrong[:1]}")
    expect(not (is_repeated and minted), f"{len(minted)} were minted again, as {minted[:2]}")
    return seconds


def _sizes(store: Path) -> dict[str, int]:
    """Return the bytes of the index, and of everything else."""
    sizes = {"index": 0, "store": 0}
    for path in store.rglob("*"):
        if path.is_file() and not path.is_symlink():
            part = "index" if path.name.startswith("index.sqlite") else "store"
            sizes[part] += path.stat().st_size
    return sizes


def _extrapolated(
    scale: float,
    growth: float,
    seconds: float,
    request_counts: Mapping[str, int],
    sized: Mapping[str, int],
) -> dict[str, float]:
    """Extrapolate to scale 1, which has ``growth`` times as many files.

    A small archive has less than its share of Zarr entries, because it lacks the largest Zarrs.
    """
    fixed = {"api info": 1, "api dandisets": 2}
    growths = {"s3 versions": growth}
    requests = sum(
        fixed.get(kind, round(count * growths.get(kind, 1 / scale)))
        for kind, count in request_counts.items()
    )
    return {
        "hours": round(seconds * growth / 3600, 2),
        "requests": requests,
        "index_gb": round(sized["index"] * growth / _GB, 2),
        "store_gb": round(sized["store"] * growth / _GB, 2),
    }


def _table(lines: list[dict[str, Any]]) -> str:
    columns = {
        "what": "what",
        "n": "files",
        "seconds": "seconds",
        "per_s": "files/s",
        "peak_mb": "peak MB",
        "requests": "requests",
        "files_a_request": "files per request",
        "server_cpu_s": "server's CPU s",
        "index_mb": "index MB",
        "store_mb": "store MB",
    }
    rows = [f"| {' | '.join([*columns.values(), 'at scale 1'])} |"]
    rows.append(f"|---{'|---:' * len(columns)}|")
    for line in lines:
        cells = [f"{line[name]:,}" if name != "what" else line[name] for name in columns]
        whole = line["whole"]
        cells.append(
            f"{whole['hours']} h, {whole['requests']:,} requests, "
            f"index {whole['index_gb']} GB, store {whole['store_gb']} GB"
        )
        rows.append(f"| {' | '.join(cells)} |")
    first = lines[0]
    kind = "with" if first["zarrs"] else "without"
    rows += [
        "",
        f"Scale {first['scale']}: {first['dandisets']:,} dandisets, {first['versions']:,} versions"
        f" that list {first['listed']:,} assets, {kind} the {first['entries']:,} entries of Zarrs."
        f" Measured at commit {first['commit']} on {first['machine']}.",
    ]
    return "\n".join(rows)
