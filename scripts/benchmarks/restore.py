"""The benchmark ``restore``: restore a large dataset from the manifest beside its lock file."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel

from benchmarks.common import (
    MOMENT,
    Contender,
    cpu_of_children,
    expect,
    header,
    in_own_process,
    report,
    run_git,
    sizes_option,
    synthetic,
)
from benchmarks.memory import Memory
from benchmarks.servers import sync_once
from neuromirror.config.mirror_files import MirrorFile
from neuromirror.crawl import Mirror
from neuromirror.lab import load_lock
from neuromirror.model import DatasetFacts, DatasetHint, DatasetRef, VersionKind, VersionRef
from neuromirror.sources import Listing, ListingEntry, VisitContext
from neuromirror.store import Store

_LOCK = "paper/datasets.lock"
_TASK = "manifest"


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


def make_lock(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Create a store with a version of this many files, and pin it; the sync is timed."""
    made = make_store(folder, count)
    lock = folder.parent / _LOCK
    store = str(folder.parent / "store")
    command = [sys.executable, "-m", "neuromirror", "--store", store, "pin"]
    subprocess.run(
        [*command, header().version.dataset.name, "-o", str(lock)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return made


def neuromirror(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Restore the lock file without the store, from start to exit."""
    lock = folder.parent / _LOCK
    command = [sys.executable, "-m", "neuromirror", "--store", str(folder / "none"), "restore"]
    into = folder / "data"
    figures = _measure([[*command, str(lock), "--into", str(into), "--offline"]])
    (restored,) = into.glob("*--*")
    return _check(restored, lock, count, figures)


def git_checkout(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Check out the commit in a repository that has its objects."""
    clone = folder / "clone"
    commit = _commit(folder.parent / _LOCK)
    run_git("clone", "-q", "--no-checkout", str(_repository(folder)), str(clone))
    figures = _measure([["git", "-C", str(clone), "checkout", "-q", "--detach", commit]])
    return _check(clone, folder.parent / _LOCK, count, figures)


def clone_and_init(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Clone the mirror's repository, check out the commit, and initialize git-annex."""
    clone = folder / "clone"
    commit = _commit(folder.parent / _LOCK)
    git = ["git", "-C", str(clone)]
    figures = _measure(
        [
            ["git", "clone", "-q", "--no-checkout", f"file://{_repository(folder)}", str(clone)],
            [*git, "checkout", "-q", "--detach", commit],
            [*git, "annex", "init", "-q", "--no-autoenable"],
        ]
    )
    return _check(clone, folder.parent / _LOCK, count, figures)


def _repository(folder: Path) -> Path:
    return Store.open(folder.parent / "store").repositories.of(header().version.dataset).path


def _commit(lock: Path) -> str:
    (pin,) = load_lock(lock).datasets
    return pin.commit


def _measure(commands: Sequence[Sequence[str]]) -> tuple[float, dict[str, Any]]:
    os.sync()
    before, begin = cpu_of_children(), time.perf_counter()
    with Memory() as memory:
        for command in commands:
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - begin
    figures = {
        "task": _TASK,
        "cpu_s": round(cpu_of_children() - before, 2),
        "largest_mb": memory.largest_mb,
    }
    return seconds, figures


def _check(
    restored: Path, lock: Path, count: int, figures: tuple[float, dict[str, Any]]
) -> tuple[float, dict[str, Any]]:
    """Check that the work tree has the pinned commit and all its files; return the figures."""
    head, changes = (
        subprocess.run(
            ["git", "-C", str(restored), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()
        for arguments in (("rev-parse", "HEAD"), ("status", "--porcelain"))
    )
    expect(head == _commit(lock), f"restored {head}")
    expect(not changes, f"the work tree differs from its commit: {changes[:500]}")
    links = sum(path.is_symlink() for path in restored.glob("sub-*/*/*"))
    expect(links == count, f"{links} of {count} files were restored")
    return figures


CONTENDERS: dict[str, Contender] = {
    "neuromirror": neuromirror,
    "git-checkout": git_checkout,
    "clone+annex-init": clone_and_init,
}


@click.command("restore")
@sizes_option(1_000_000)
def restore_bench(files: tuple[int, ...], *, as_json: bool) -> None:
    """Restore a pinned version from its manifest, without mirror, upstream and content."""
    report(_lines(files), as_json=as_json)


def _lines(sizes: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            folder = Path(name)
            in_own_process("restore", "made", make_lock, size, folder)
            for what, run in CONTENDERS.items():
                yield in_own_process("restore", what, run, size, folder)
