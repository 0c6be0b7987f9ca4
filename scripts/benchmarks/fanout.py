"""The benchmark ``fanout``: worker processes, local or of a Dask cluster, visit many datasets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click

from benchmarks.common import commit, machine, own_environment, report
from benchmarks.servers import expect, in_separate_process, run_server

_TICK = os.sysconf("SC_CLK_TCK")
_MEMORY = 4 << 30
_SECONDS = 3600.0


@click.command("fanout")
@click.option("--datasets", default=50, show_default=True, type=click.IntRange(2), help="Visited.")
@click.option("--files", default=5000, show_default=True, type=click.IntRange(1), help="Of each.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.option("--write", is_flag=True, help="Update docs/explanation/benchmarks.md.")
def fanout_bench(datasets: int, files: int, *, as_json: bool, write: bool) -> None:
    """Visit datasets for the first time with one and two workers, local or of a Dask cluster."""
    report("fanout", _lines(datasets, files), as_json=as_json, write=write, table=_table)


def _lines(datasets: int, files: int) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        arguments = map(str, (folder / "mirrors", datasets, files))
        with run_server("benchmarks.fanout_server", *arguments) as server:
            click.echo("the archive's answers are made …", err=True)
            in_separate_process(_visit_all, folder, "made", "processes", 2, datasets)
            one_worker: dict[str, float] = {}
            for kind in ("processes", "dask"):
                for workers in (1, 2):
                    what = f"{kind}, {workers}"
                    click.echo(f"{what}: {datasets} datasets of {files} files …", err=True)
                    server.clear()
                    before = server.requests()["cpu_s"]
                    result_path = folder / f"{kind}-{workers}.json"
                    took, _ = in_separate_process(
                        _visit_all, folder, result_path.stem, kind, workers, datasets
                    )
                    worker_mb, cpu = json.loads(result_path.read_text())
                    cpu["server"] = round(server.requests()["cpu_s"] - before, 2)
                    yield {
                        "bench": "fanout",
                        "what": what,
                        "datasets": datasets,
                        "n": datasets * files,
                        "seconds": round(took, 2),
                        "per_s": round(datasets * files / took),
                        "times": round(one_worker.setdefault(kind, took) / took, 2),
                        "worker_mb": worker_mb,
                        "cpu_s": cpu,
                        "commit": commit(),
                        "machine": machine(),
                    }


def _visit_all(folder: Path, name: str, kind: str, workers: int, datasets: int) -> float:
    """List the mirror and visit all datasets with a new store; return the seconds of the visits.

    ``<name>.json`` gets the peak memory of a worker (MB) and the CPU seconds of the workers, of
    this process with the writer, and of Dask.
    """
    own_environment(folder)
    os.environ |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    from neuromirror.crawl import load_mirrors, open_recorder
    from neuromirror.crawl.leases import Lease
    from neuromirror.index import Schedule
    from neuromirror.service.executors import (
        dask_executor,
        job_context,
        process_executor,
    )
    from neuromirror.service.jobs import Job, run_job
    from neuromirror.service.writer import Writer
    from neuromirror.store import Store

    mirror = load_mirrors(folder / "mirrors")["big"]
    store = Store.open(folder / name, create=True)
    with ExitStack() as stack:
        recorder = stack.enter_context(open_recorder(store, store.index_path))
        schedule = stack.enter_context(Schedule.open(store.schedule_path))
        writer, programs = Writer(recorder, schedule), list[int]()
        if kind == "dask":
            scheduler, programs = stack.enter_context(_cluster(folder / f"{name}-dask", workers))
            executor = stack.enter_context(dask_executor(scheduler, writer, _SECONDS, _MEMORY))
        else:
            executor = stack.enter_context(process_executor(workers, writer, _SECONDS, _MEMORY))
        context = job_context(store, store.index_path, None, remote=kind == "dask")

        def job(kind: str, name: str, **more: Any) -> Job:
            token = schedule.leases.claim(name, "bench", time.time(), _SECONDS)
            assert token is not None
            return Job(kind, Lease(name, token), mirror, **more)

        due = executor.submit(run_job, context, job("listing", "big")).result().due
        expect(len(due) == datasets, f"{len(due)} datasets are due instead of {datasets}")
        jobs = [
            job(
                "visit", task.hint.dataset.name, local_id=task.hint.dataset.local_id, hint=task.hint
            )
            for task in due
        ]
        before = _processors(programs)
        begin = time.perf_counter()
        running = [executor.submit(run_job, context, one) for one in jobs]
        results = [one for report in running for one in report.result().results]
        seconds = time.perf_counter() - begin
        after = _processors(programs)
        peak = max(map(_peak, _workers(programs)))
        wrong = [one for one in results if one.status != "ok"]
        expect(not wrong, f"{len(wrong)} visits failed, the first: {wrong[:1]}")
        expect(len(results) == datasets, f"{len(results)} results instead of {datasets}")
    cpu = {what: round(after[what] - before[what], 2) for what in after}
    (folder / f"{name}.json").write_text(json.dumps([round(peak / 1e6), cpu]))
    return seconds


@contextmanager
def _cluster(folder: Path, workers: int) -> Iterator[tuple[str, list[int]]]:
    """Start a Dask scheduler and workers; yield its address and their process ids."""
    folder.mkdir()
    scheduler_file = folder / "scheduler.json"
    with ExitStack() as stack:

        def start(what: str, *arguments: str) -> int:
            log = stack.enter_context((folder / f"{what}.log").open("ab"))
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", f"distributed.cli.dask_{what}", *arguments),
                    *("--host", "127.0.0.1", "--no-dashboard"),
                ],
                stderr=log,
                env={**os.environ, "DASK_TEMPORARY_DIRECTORY": str(folder)},
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
            return process.pid

        programs = [start("scheduler", "--port", "0", "--scheduler-file", str(scheduler_file))]
        while not (scheduler_file.exists() and scheduler_file.read_text()):
            time.sleep(0.05)
        address = str(json.loads(scheduler_file.read_text())["address"])
        programs += [start("worker", address, "--no-nanny", "--nthreads=1") for _ in range(workers)]
        import distributed

        client: Any = distributed.Client
        with client(address, set_as_default=False) as waiting:
            waiting.wait_for_workers(workers, timeout=60)
        yield address, programs


def _processors(programs: list[int]) -> dict[str, float]:
    """Return CPU seconds so far: of worker processes, of this process, and of Dask's programs."""
    return {
        "workers": sum(map(_seconds, _workers(programs))),
        "writer": time.process_time(),
        "dask": sum(map(_seconds, programs)),
    }


def _workers(programs: list[int]) -> Iterator[int]:
    """Return the worker processes of this process and of Dask."""
    for process in [os.getpid(), *programs]:
        for task in Path(f"/proc/{process}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                if b"service.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                    yield child


def _peak(process: int) -> int:
    """Return the peak memory of a process in bytes."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _seconds(process: int) -> float:
    """Return the CPU seconds of a process and of its finished children."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICK


def _table(lines: list[dict[str, Any]]) -> str:
    heads = ["what", "files", "seconds", "files/s", "times one", "a worker's peak MB"]
    cpu = list(lines[0]["cpu_s"])
    rows = [f"| {' | '.join([*heads, *(f'CPU s, {one}' for one in cpu)])} |"]
    rows.append(f"|---{'|---:' * (len(heads) + len(cpu) - 1)}|")
    for line in lines:
        cells = [
            line["what"],
            f"{line['n']:,}",
            str(line["seconds"]),
            f"{line['per_s']:,}",
            f"{line['times']}×",
            str(line["worker_mb"]),
            *(str(line["cpu_s"][one]) for one in cpu),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    first = lines[0]
    rows += [
        "",
        f"{first['datasets']} datasets, each visited for the first time. Measured at commit "
        f"{first['commit']} on {first['machine']}.",
    ]
    return "\n".join(rows)
