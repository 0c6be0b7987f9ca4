"""The benchmark ``pin``: pin a large version, with its manifest, and with a bundle."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel

from benchmarks.common import (
    MOMENT,
    Contender,
    header,
    in_own_process,
    report,
    sizes_option,
    synthetic,
)
from benchmarks.servers import expect, sync_once
from neuromirror.crawl import Mirror, MirrorFile
from neuromirror.model import (
    DatasetFacts,
    DatasetHint,
    DatasetRef,
    VersionKind,
    VersionRef,
)
from neuromirror.sources import Listing, ListingEntry, VisitContext

REPEATS = 3


class SyntheticListing(Listing):
    """The files of the synthetic state."""

    def __init__(self, version: VersionRef, count: int) -> None:
        super().__init__(version, DatasetFacts(title="Bench"))
        self._count = count

    def entries(self) -> Iterator[ListingEntry]:
        return (placed.record for placed in synthetic(self._count))

    def confirm_version(self) -> VersionRef:
        return self.version


class SyntheticSource:
    """A source of one dataset with one version: the synthetic state of the other benchmarks."""

    Options = BaseModel
    uri = "https://api.example.org/api/"

    def __init__(self, count: int) -> None:
        self._count = count

    def dataset(self, local_id: str) -> DatasetRef:
        return header().version.dataset

    def datasets(self) -> Iterator[DatasetHint]:
        yield self.hint(header().version.dataset)

    def hint(self, dataset: DatasetRef) -> DatasetHint:
        return DatasetHint(dataset, None, "Bench")

    def versions(self, dataset: DatasetRef) -> list[VersionRef]:
        return [VersionRef(dataset, "v1", VersionKind.PUBLISHED, MOMENT)]

    def listing(self, version: VersionRef, context: VisitContext) -> Listing:
        return SyntheticListing(version, self._count)

    def capabilities(self) -> dict[str, str]:
        return {}

    def estimate(self, dataset: DatasetRef) -> None:
        return None

    def superdataset(self, id_prefix: str) -> None:
        return None


class SyntheticMirror(Mirror):
    """A mirror of the synthetic state, without a server."""

    def open(self) -> Any:
        return SyntheticSource(int(self.settings.title))


def make_store(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Create a store with a version of this many files; the sync is timed."""
    settings = MirrorFile(source="dandi", title=str(count))
    mirror = SyntheticMirror("bench", folder / "bench.toml", settings)
    begin = time.perf_counter()
    done = sync_once(mirror, folder.parent / "store")
    seconds = time.perf_counter() - begin
    expect(len(done.versions) == 1, f"the sync made no version: {done}")
    return seconds, {}


def pinned(folder: Path, count: int, *, options: tuple[str, ...]) -> tuple[float, dict[str, Any]]:
    """Return the median of whole commands, each of which creates a lock file."""
    command = [sys.executable, "-m", "neuromirror", "--store", str(folder.parent / "store"), "pin"]
    times, cpu = [], []
    for number in range(REPEATS):
        before = _cpu()
        lock = folder / f"{number}" / "datasets.lock"
        begin = time.perf_counter()
        done = subprocess.run(
            [*command, header().version.dataset.name, *options, "-o", str(lock)],
            capture_output=True,
            text=True,
            check=False,
        )
        times.append(time.perf_counter() - begin)
        cpu.append(_cpu() - before)
        expect(done.returncode == 0, f"pin failed: {done.stderr}")
        expect(f"files = {count}\n" in lock.read_text(), "the lock counts other files")
    size = sum(path.stat().st_size for path in lock.parent.rglob("*") if path.is_file())
    seconds = statistics.median(times)
    figures = {
        "best": round(min(times), 3),
        "cpu_s": round(min(cpu), 2),
        "mb": round(size / 1e6, 1),
    }
    return seconds, figures


def _cpu() -> float:
    """Return the CPU seconds of all commands so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


CONTENDERS: dict[str, Contender] = {
    "neuromirror": partial(pinned, options=()),
    "neuromirror, a part of it": partial(pinned, options=("--path", "**")),
    "neuromirror --bundle": partial(pinned, options=("--bundle",)),
}


@click.command("pin")
@sizes_option(1_000_000)
def pin_bench(files: tuple[int, ...], *, as_json: bool, write: bool) -> None:
    """Pin one version with many files, with its manifest and bundle."""
    report("pin", _lines(files), as_json=as_json, write=write)


def _lines(sizes: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            folder = Path(name)
            in_own_process("pin", "made", make_store, size, folder)
            for what, run in CONTENDERS.items():
                yield in_own_process("pin", what, run, size, folder)
