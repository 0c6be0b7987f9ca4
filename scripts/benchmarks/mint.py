"""The benchmark ``mint``: create a repository from a listing."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from benchmarks.common import (
    Contender,
    fast_import_stream,
    header,
    report,
    run_contenders,
    run_git,
    sizes_option,
    synthetic,
    write_records,
)
from neuromirror.git import ObjectReader
from neuromirror.mint import ParentCommits, Snapshot, mint
from neuromirror.model import SnapshotEntry
from neuromirror.store import ANNEX_BRANCH, MAIN_BRANCH, Repository

MOST = {"fromkey+registerurl": 2000, "addurls": 2000, "fast-import": 1_000_000}
"""Programs that are too slow for more files."""


def mint_neuromirror(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Time a mint into a new repository of a store, including refs."""
    records = write_records(folder / "records", count)
    repository = Repository(folder / "repository")
    begin = time.perf_counter()
    repository.create()
    snapshot = Snapshot.from_records(header(), records)
    minted = mint(snapshot, repository.path, ParentCommits(), lambda state: "bench", folder)
    for pack in minted.packs:
        repository.add_pack(pack)
    repository.publish(
        {MAIN_BRANCH: None, ANNEX_BRANCH: None},
        {MAIN_BRANCH: minted.commit, ANNEX_BRANCH: minted.annex_commit},
    )
    seconds = time.perf_counter() - begin
    return seconds, {"annex_tree": _annex_tree(repository.path)}


def mint_fast_import(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Time ``git fast-import`` of the same files and log files; its input is prepared before."""
    stream = fast_import_stream(folder / "stream", count)
    repository = folder / "repository"
    begin = time.perf_counter()
    run_git("init", "-q", "--bare", "-b", "main", str(repository))
    with stream.open("rb") as file:
        run_git("-C", str(repository), "fast-import", "--quiet", stdin=file)
    seconds = time.perf_counter() - begin
    return seconds, {"annex_tree": _annex_tree(repository)}


def _annex_tree(repository: Path) -> str:
    with ObjectReader(repository) as reader:
        return reader.read_commit_tree(ANNEX_BRANCH).hex()


def mint_fromkey(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Time ``git annex fromkey --batch`` and ``registerurl --batch``, as used by other crawlers."""
    repository = _annex_repository(folder)
    files = list(synthetic(count))
    keys = "".join(f"{one.key} {one.git_path.decode()}\n" for one in files)
    urls = "".join(f"{one.key} {at.url}\n" for one in files for at in one.record.locations)
    begin = time.perf_counter()
    run_git("-C", str(repository), "annex", "fromkey", "--force", "--batch", text=keys)
    run_git("-C", str(repository), "annex", "registerurl", "--batch", text=urls)
    return time.perf_counter() - begin, {}


def mint_addurls(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Time ``datalad addurls --key`` with a table of the same files (one URL per file)."""
    dataset = create_dataset(folder)
    table = write_table(folder / "table.csv", synthetic(count))
    begin = time.perf_counter()
    add_urls(dataset, table)
    return time.perf_counter() - begin, {}


def create_dataset(folder: Path) -> Path:
    """Create a DataLad dataset in the folder."""
    dataset = folder / "dataset"
    _datalad("create", str(dataset))
    return dataset


def write_table(table: Path, files: Iterable[SnapshotEntry]) -> Path:
    """Write the table for ``datalad addurls``: URL, path and key."""
    with table.open("w") as file:
        file.write("url,path,key\n")
        for one in files:
            url = one.record.locations[0].url
            file.write(f"{url},{one.git_path.decode()},{one.key}\n")
    return table


def add_urls(dataset: Path, table: Path, *options: str) -> None:
    """Run ``datalad addurls --key`` and save; exit if it fails."""
    given = ["-d", str(dataset), "-x", "*", "--key", "{key}", *options]
    _datalad("addurls", *given, str(table), "{url}", "{path}")


def _datalad(*arguments: str) -> None:
    done = subprocess.run(["datalad", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"bench: datalad {arguments[0]} failed: {done.stderr[-2000:]}")


def _annex_repository(folder: Path) -> Path:
    repository = folder / "repository"
    run_git("init", "-q", str(repository))
    run_git("-C", str(repository), "annex", "init", "-q", "bench")
    return repository


CONTENDERS: dict[str, Contender] = {
    "neuromirror": mint_neuromirror,
    "fast-import": mint_fast_import,
    "fromkey+registerurl": mint_fromkey,
    "addurls": mint_addurls,
}


@click.command("mint")
@sizes_option(200_000)
@click.option(
    "--only", multiple=True, type=click.Choice(list(CONTENDERS)), help="Leave out the others."
)
def mint_bench(
    files: tuple[int, ...], *, as_json: bool, write: bool, only: tuple[str, ...]
) -> None:
    """Create a repository from a listing; also with git fast-import, git-annex and datalad."""
    contenders = {what: run for what, run in CONTENDERS.items() if not only or what in only}
    report("mint", _lines(contenders, files), as_json=as_json, write=write)


def _lines(contenders: dict[str, Contender], files: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    trees: dict[int, str] = {}
    for line in run_contenders("mint", contenders, files, MOST):
        # every program must write the same tree of the git-annex branch
        tree = line.pop("annex_tree", None)
        if tree is not None and trees.setdefault(line["n"], tree) != tree:
            sys.exit(f"bench: {line['what']} made another git-annex tree than the one before")
        yield line
