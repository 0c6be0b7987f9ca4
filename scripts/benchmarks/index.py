"""Benchmark of the index: record versions and look up checksums. No other program is compared."""

from __future__ import annotations

import io
import json
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import zstandard

from benchmarks.common import (
    commit,
    machine,
    synthetic,
    synthetic_file,
    synthetic_sha256,
    write_section,
)
from neuromirror.index import Index
from neuromirror.model import Change, JournalEntry, VersionMinted, dump_snapshot_entry

CHANGED = 100
LOOKUPS = 1000


class BenchJournal:
    """Versions of N synthetic files; their records are read from a file, as in a store."""

    def __init__(self, records: Path, count: int) -> None:
        self._records = records
        self._count = count
        self._entries: list[JournalEntry] = []
        self._changes: dict[str, tuple[str, list[Change]]] = {}

    def write_records(self) -> None:
        """Write the file that :meth:`records` reads."""
        with zstandard.open(self._records, "wb") as out:
            for placed in synthetic(self._count):
                out.write(dump_snapshot_entry(placed) + b"\n")

    def mint(self, changes: list[Change] | None = None) -> None:
        """Add a version, stored whole or as changes from the previous one."""
        number = len(self._entries) + 1
        if changes is not None:
            self._changes[_id(number)] = (_id(number - 1), changes)
        self._entries.append(
            VersionMinted(
                mirror="bench",
                local_id="000001",
                source_uri="https://api.example.org/api/dandisets/000001/",
                label=f"v{number}",
                upstream="draft",
                kind="observed",
                state=f"sha256:{number:064x}",
                commit=_id(number),
                tree=_id(number),
                annex_commit=_id(number),
                time="2024-03-01T00:00:00+00:00",
                files=self._count,
                bytes=0,
                exceptions=[],
                evidence={"sha256": self._count},
                title="Bench",
                license=[],
                doi=None,
                metadata_only=False,
                at="2024-03-01T00:00:00+00:00",
            )
        )

    def read_entries(self, position: int) -> Iterator[tuple[int, JournalEntry]]:
        """Yield the entries; positions count them."""
        yield from enumerate(self._entries[position:], position + 1)

    def record_lines(self, dataset_id: str, commit: str) -> Iterator[bytes]:
        """Yield the lines of the synthetic files, for any version."""
        with zstandard.open(self._records, "rb") as file:
            yield from map(bytes.rstrip, io.BufferedReader(file, 1 << 18))

    def describing_documents(self, dataset_id: str, commit: str) -> dict[str, bytes]:
        """None."""
        return {}

    def record_changes(self, dataset_id: str, commit: str) -> tuple[str, Iterator[Change]] | None:
        """Return the base and the changes of a version that was minted with changes."""
        found = self._changes.get(commit)
        return None if found is None else (found[0], iter(found[1]))


def _id(number: int) -> str:
    return f"{number:040x}"


def measure(folder: Path, count: int, pipe: Any) -> None:
    """Measure one size in a separate process, so that the peak memory is its own."""
    journal = BenchJournal(folder / "records.zst", count)
    journal.write_records()
    path = folder / "index.sqlite"
    with Index.open(path) as index:
        seconds = _applied(index, journal, None)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        rerecord = _applied(index, journal, None)
        changed = range(0, count, max(1, count // CHANGED))
        delta = _applied(
            index,
            journal,
            [(synthetic_file(n, n), synthetic_file(n, count + n)) for n in changed],
        )
    size = path.stat().st_size
    warm, cold = _look_ups(path, count)
    pipe.send(
        {
            "seconds": round(seconds, 3),
            "per_s": round(count / seconds),
            "peak_mb": round(peak / 1024 / (1024 if sys.platform == "darwin" else 1)),
            "mb_per_million": round(size / count),
            "rerecord_seconds": round(rerecord, 3),
            "delta_seconds": round(delta, 4),
            "lookup_ms": _spread(warm),
            "lookup_reopened_ms": _spread(cold),
        }
    )


def _applied(index: Index, journal: BenchJournal, changes: list[Change] | None) -> float:
    journal.mint(changes)
    begin = time.perf_counter()
    assert index.catch_up(journal) == 1
    return time.perf_counter() - begin


def _look_ups(path: Path, count: int) -> tuple[list[float], list[float]]:
    """Return milliseconds of random look-ups with one open index, and with a new one for each."""
    chosen = random.Random(count)
    warm, cold = [], []
    with Index.open_readonly(path) as index:
        for _ in range(LOOKUPS):
            warm.append(_look_up(index, chosen.randrange(count)))
    for _ in range(LOOKUPS // 5):
        with Index.open_readonly(path) as index:
            cold.append(_look_up(index, chosen.randrange(count)))
    return warm, cold


def _look_up(index: Index, content: int) -> float:
    query = f"sha256:{synthetic_sha256(content)}"
    begin = time.perf_counter()
    found = list(index.find(query))
    took = (time.perf_counter() - begin) * 1000
    assert len(found) == 1, query
    return took


def _spread(times: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(times), 3),
        "p95": round(statistics.quantiles(times, n=20)[-1], 3),
    }


def as_table(line: dict[str, Any]) -> str:
    """Return the Markdown table of a line."""
    warm, cold = line["lookup_ms"], line["lookup_reopened_ms"]
    rows = [
        f"| neuromirror, {line['n']:,} files | |",
        "|---|---:|",
        f"| recording them | {line['seconds']} s ({line['per_s']:,} files/s) |",
        f"| recording the same state again, as a whole | {line['rerecord_seconds']} s |",
        f"| recording a version that changes {CHANGED} of them | {line['delta_seconds']} s |",
        f"| peak memory | {line['peak_mb']} MB |",
        f"| size for a million files | {line['mb_per_million']} MB |",
        f"| look-up of a sha256, median / p95 | {warm['median']} / {warm['p95']} ms |",
        f"| the same, the index just opened | {cold['median']} / {cold['p95']} ms |",
        "",
        f"Measured {datetime.now(UTC).date().isoformat()} at commit {line['commit']} on "
        f"{line['machine']}; load average {line['load']} at the start.",
    ]
    return "\n".join(rows)


@click.command("index")
@click.option("--files", default=200_000, show_default=True, type=click.IntRange(CHANGED))
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line on stdout.")
@click.option("--write", is_flag=True, help="Update docs/explanation/benchmarks.md.")
def index_bench(files: int, *, as_json: bool, write: bool) -> None:
    """Record versions in the index, and look up checksums."""
    load = round(os.getloadavg()[0], 1)
    click.echo(f"neuromirror: {files} files …", err=True)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        context = get_context("spawn")
        parent, child = context.Pipe()
        process = context.Process(target=measure, args=(Path(name), files, child))
        process.start()
        child.close()
        try:
            measured = parent.recv()
        except EOFError:
            sys.exit("bench: index failed; see above")
        process.join()
    line = {
        "bench": "index",
        "what": "neuromirror",
        "n": files,
        **measured,
        "commit": commit(),
        "machine": machine(),
        "load": load,
    }
    if as_json:
        click.echo(json.dumps(line))
    else:
        click.echo(as_table(line))
    if write:
        write_section("index", as_table(line))


if __name__ == "__main__":
    index_bench()
