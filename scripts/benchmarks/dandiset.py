"""The benchmark ``dandiset``: mirror a dandiset and a Zarr, first and unchanged."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from benchmarks.common import in_own_process, report, run_git
from benchmarks.mint import add_urls, create_dataset, write_table
from benchmarks.servers import REPEATS, big_archive, expect, sync_once, timed
from neuromirror.model import SnapshotEntry

OF = {"000001": "one dandiset", "000002": "one Zarr"}
"""Purposes of the two dandisets of the archive."""


def fresh(mirrors: Path, name: str, folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Time the command ``neuromirror sync`` with a new store."""
    times = []
    for number in range(REPEATS):
        store = folder / f"store-{number}"
        times.append(timed(partial(_command, mirrors, store, name, "ok")))
        expect(_files(store) == count, f"{_files(store)} files were mirrored instead of {count}")
    return statistics.median(times), {"in_a_run_s": round(_in_a_run(mirrors, folder, name), 3)}


def unchanged(mirrors: Path, name: str, folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Time the same command when nothing has changed."""
    store = folder / "store"
    _command(mirrors, store, name, "ok")
    run = partial(_command, mirrors, store, name, "notneeded")
    return statistics.median(timed(run) for _ in range(REPEATS)), {}


def _command(mirrors: Path, store: Path, name: str, status: str) -> None:
    command = [sys.executable, "-m", "neuromirror", "--mirrors", str(mirrors), "--store"]
    done = subprocess.run(
        [*command, str(store), "sync", f"big:{name}"], capture_output=True, text=True, check=False
    )
    fine = not done.returncode and done.stdout.startswith(f"{status} ")
    expect(fine, f"the sync should have been {status}: {done.stdout}{done.stderr}")


def _in_a_run(mirrors: Path, folder: Path, name: str) -> float:
    """Return the median of first visits by a process that visited another dandiset before."""
    from neuromirror.crawl import load_mirrors

    mirror = load_mirrors(mirrors)["big"]
    (other,) = OF.keys() - {name}
    times = []
    for number in range(REPEATS):
        store = folder / f"run-{number}"
        sync_once(mirror, store, f"big:{other}")
        times.append(timed(partial(sync_once, mirror, store, f"big:{name}"), status="ok"))
    return statistics.median(times)


def _files(store: Path) -> int:
    """Return the number of files in all datasets of a store, including Zarrs."""
    from neuromirror.index import Index

    with Index.open_readonly(store / "neuromirror" / "index.sqlite") as index:
        (status,) = index.mirror_status()
        return status.files


def fromkey(mirrors: Path, name: str, folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Time ``git annex fromkey`` and ``registerurl`` with the archive's listing, and the commit."""
    repository = folder / "repository"
    here = ("-C", str(repository))
    begin = time.perf_counter()
    run_git("init", "-q", str(repository))
    run_git(*here, "annex", "init", "-q", "bench")
    files = _listed(mirrors, folder, name, count)
    keys = "".join(f"{one.key} {one.git_path.decode()}\n" for one in files)
    urls = "".join(f"{one.key} {at.url}\n" for one in files for at in one.record.locations)
    run_git(*here, "annex", "fromkey", "--force", "--batch", text=keys)
    run_git(*here, "annex", "registerurl", "--batch", text=urls)
    run_git(*here, "commit", "-q", "-m", "bench")
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


def _listed(mirrors: Path, folder: Path, name: str, count: int) -> list[SnapshotEntry]:
    """Return the files, with keys, of a dandiset or of its only Zarr."""
    from neuromirror.annex import git_path, key_for
    from neuromirror.crawl import load_mirrors
    from neuromirror.model import FileRecord
    from neuromirror.sources import ComponentEntry

    workspace = folder / "pages"
    workspace.mkdir()
    source = load_mirrors(mirrors)["big"].open()
    (draft,) = source.versions(source.dataset(name))
    entries = list(source.listing(draft, _NothingKnown(workspace)).entries())
    if isinstance(entries[0], ComponentEntry):
        entries = list(entries[0].listing(_NothingKnown(workspace)).entries())
    records = [one for one in entries if isinstance(one, FileRecord)]
    expect(len(records) == count, f"{len(records)} files were listed instead of {count}")
    paths = [git_path(one.path) for one in records]
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
@click.option("--write", is_flag=True, help="Update docs/explanation/benchmarks.md.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.option("--files", default=2104, show_default=True, help="Assets of the dandiset.")
@click.option("--entries", default=1213, show_default=True, help="Entries of the Zarr, 4 or more.")
def dandiset_bench(files: int, entries: int, *, as_json: bool, write: bool) -> None:
    """Mirror a dandiset and a Zarr, first and unchanged; with git-annex and datalad too."""
    report("dandiset", _lines(files, entries), as_json=as_json, write=write)


def _lines(files: int, entries: int) -> Iterator[dict[str, Any]]:
    os.environ |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    with tempfile.TemporaryDirectory(prefix="bench-") as kept:
        mirrors = Path(kept) / "mirrors"
        with big_archive(mirrors, "--zarrs", "--two", str(files), str(entries)):
            for name, count in zip(OF, (files, entries), strict=True):
                for what, run in RUNS.items():
                    measure = partial(run, mirrors, name)
                    line = in_own_process("dandiset", what, measure, count, Path(kept))
                    yield {**line, "of": OF[name]}
