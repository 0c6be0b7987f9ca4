"""The benchmark ``dandiset``: mirror a dandiset and a Zarr, first and unchanged."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from benchmarks.common import (
    add_urls,
    annex_repository,
    create_dataset,
    expect,
    in_own_process,
    json_option,
    median,
    register,
    report,
    row,
    run_git,
    timed,
    write_table,
)
from benchmarks.servers import count_files, demo_server
from neuromirror.model import SnapshotEntry

OF = {"000001": "one dandiset", "000002": "one Zarr"}
"""Purposes of the two dandisets of the archive."""


def fresh(mirrors: Path, name: str, folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Time the command ``neuromirror sync`` with a new store."""
    numbers = iter(range(100))

    def run() -> float:
        store = folder / f"store-{next(numbers)}"
        seconds = timed(partial(_sync, mirrors, store, name, "ok"))
        files = count_files(store)
        expect(files == count, f"{files} files were mirrored instead of {count}")
        return seconds

    return median(run), {}


def unchanged(mirrors: Path, name: str, folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Time the same command when nothing has changed."""
    store = folder / "store"
    _sync(mirrors, store, name, "ok")
    return median(lambda: timed(partial(_sync, mirrors, store, name, "notneeded"))), {}


def _sync(mirrors: Path, store: Path, name: str, status: str) -> None:
    command = [sys.executable, "-m", "neuromirror", "--mirrors", str(mirrors), "--store"]
    command += [str(store), "sync", f"demo:{name}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    fine = not done.returncode and done.stdout.startswith(f"{status} ")
    expect(fine, f"the sync should have been {status}: {done.stdout}{done.stderr}")


def fromkey(mirrors: Path, name: str, folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Time ``git annex fromkey`` and ``registerurl`` with the archive's listing, and the commit."""
    begin = time.perf_counter()
    repository = annex_repository(folder / "repository")
    register(repository, map(row, _listed(mirrors, folder, name, count)))
    run_git("-C", str(repository), "commit", "-q", "-m", "bench")
    return time.perf_counter() - begin, {}


def addurls(mirrors: Path, name: str, folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Time ``datalad addurls --key`` with the archive's listing (one URL per file)."""
    begin = time.perf_counter()
    dataset = create_dataset(folder)
    files = _listed(mirrors, folder, name, count)
    add_urls(dataset, write_table(folder / "table.csv", files))
    return time.perf_counter() - begin, {}


class _NothingKnown:
    """The context of a first visit."""

    memo: bytes | None = None
    deep = False

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace

    def locations(self, urls: Sequence[str]) -> list[Any]:
        return [None for _ in urls]

    def contents(self, etags: Sequence[str]) -> list[Any]:
        return [None for _ in etags]

    def record_refusal(self, url: str) -> bool:
        return False


def _listed(mirrors: Path, folder: Path, name: str, count: int) -> list[SnapshotEntry]:
    """Return the files, with keys, of a dandiset or of its only Zarr."""
    from neuromirror.annex import git_path, key_for
    from neuromirror.crawl import load_mirrors
    from neuromirror.model import FileRecord
    from neuromirror.sources import ComponentEntry

    context = _NothingKnown(folder / "pages")
    context.workspace.mkdir()
    source = load_mirrors(mirrors)["demo"].open()
    (draft,) = source.versions(source.dataset(name))
    entries = list(source.listing(draft, context).entries())
    if isinstance(entries[0], ComponentEntry):
        entries = list(entries[0].listing(context).entries())
    records = [entry for entry in entries if isinstance(entry, FileRecord)]
    expect(len(records) == count, f"{len(records)} files were listed instead of {count}")
    paths = [git_path(record.path) for record in records]
    return [
        SnapshotEntry(path, key_for(one, path), one)
        for path, one in zip(paths, records, strict=True)
    ]


RUNS: dict[str, Callable[[Path, str, Path, int], tuple[float, dict[str, Any]]]] = {
    "neuromirror": fresh,
    "neuromirror again": unchanged,
    "fromkey+registerurl": fromkey,
    "addurls": addurls,
}


@click.command("dandiset")
@json_option
@click.option("--files", default=2104, show_default=True, help="Assets of the dandiset.")
@click.option("--entries", default=1213, show_default=True, help="Entries of the Zarr, 2 or more.")
def dandiset_bench(files: int, entries: int, *, as_json: bool) -> None:
    """Mirror a dandiset and a Zarr, first and unchanged; with git-annex and datalad too."""
    report(_lines(files, entries), as_json=as_json)


def _lines(files: int, entries: int) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="bench-") as kept, demo_server(Path(kept)) as ask:
        one, two = OF
        ask("make_many", one, files)
        ask("make_many", two, 0)
        chunks = {
            f"0/{number // 100}/{number % 100}": f"chunk {number}" for number in range(entries)
        }
        chunks[".zgroup"] = chunks.pop("0/0/0")
        ask("add_zarr", two, "image.ome.zarr", chunks)
        for name, count in ((one, files), (two, entries)):
            for what, run in RUNS.items():
                measure = partial(run, ask("mirrors"), name)
                yield in_own_process("dandiset", what, measure, count, Path(kept)) | {
                    "of": OF[name]
                }
