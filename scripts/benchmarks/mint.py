"""The benchmark ``mint``: create a repository from a listing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click

from benchmarks.common import (
    Contender,
    add_urls,
    annex_repository,
    create_dataset,
    expect,
    fast_import,
    header,
    register,
    report,
    row,
    run_contenders,
    run_git,
    sizes_option,
    synthetic,
    write_fast_import,
    write_records,
    write_table,
)
from neuromirror.git import ObjectReader
from neuromirror.mint import ParentCommits, Snapshot, mint
from neuromirror.store import ANNEX_BRANCH, MAIN_BRANCH, Repository

MOST = {"fromkey+registerurl": 2000, "addurls": 2000, "fast-import": 1_000_000}
"""Programs that are too slow for more files."""


def neuromirror(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
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


def git_fast_import(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Time ``git fast-import`` of the same files and log files; its input is prepared before."""
    stream = write_fast_import(folder / "stream", partial(synthetic, count), onto=False)
    repository = folder / "repository"
    begin = time.perf_counter()
    run_git("init", "-q", "--bare", "-b", "main", str(repository))
    fast_import(repository, stream)
    seconds = time.perf_counter() - begin
    return seconds, {"annex_tree": _annex_tree(repository)}


def _annex_tree(repository: Path) -> str:
    with ObjectReader(repository) as reader:
        return reader.read_commit_tree(ANNEX_BRANCH).hex()


def fromkey(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Time ``git annex fromkey --batch`` and ``registerurl --batch``, as used by other crawlers."""
    repository = annex_repository(folder / "repository")
    files = list(map(row, synthetic(count)))
    begin = time.perf_counter()
    register(repository, files)
    return time.perf_counter() - begin, {}


def addurls(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Time ``datalad addurls --key`` with a table of the same files (one URL per file)."""
    dataset = create_dataset(folder)
    table = write_table(folder / "table.csv", synthetic(count))
    begin = time.perf_counter()
    add_urls(dataset, table)
    return time.perf_counter() - begin, {}


CONTENDERS: dict[str, Contender] = {
    "neuromirror": neuromirror,
    "fast-import": git_fast_import,
    "fromkey+registerurl": fromkey,
    "addurls": addurls,
}


@click.command("mint")
@sizes_option(200_000)
@click.option(
    "--only", multiple=True, type=click.Choice(list(CONTENDERS)), help="Leave out the others."
)
def mint_bench(files: tuple[int, ...], *, as_json: bool, only: tuple[str, ...]) -> None:
    """Create a repository from a listing; also with git fast-import, git-annex and datalad."""
    contenders = {what: run for what, run in CONTENDERS.items() if not only or what in only}
    report(_lines(contenders, files), as_json=as_json)


def _lines(contenders: dict[str, Contender], files: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    trees: dict[int, str] = {}
    for line in run_contenders("mint", contenders, files, MOST):
        tree = line.pop("annex_tree", None)
        same = tree is None or trees.setdefault(line["n"], tree) == tree
        expect(same, f"{line['what']} made another git-annex tree than the program before it")
        yield line
