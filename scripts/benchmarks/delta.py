"""The benchmark ``delta``: update a large state in which 100 files changed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import click
from msgspec.structs import replace

from benchmarks.common import (
    MOMENT,
    STAMP,
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
from neuromirror.annex import key_for, link_target
from neuromirror.git import ObjectReader
from neuromirror.mint import DeltaBase, MintResult, ParentCommits, Snapshot, mint, mint_delta
from neuromirror.mint.state_writers import patch_manifest
from neuromirror.mint.transaction import CanonicalManifestWriter
from neuromirror.model import Change, Digest, FileRecord, SnapshotEntry
from neuromirror.store import ANNEX_BRANCH, MAIN_BRANCH, Repository

CHANGED = 100
LATER = MOMENT + timedelta(days=1)


def changes(count: int) -> Iterator[Change]:
    """Yield ``CHANGED`` files, spread over the state, with different bytes."""
    step = max(1, count // CHANGED)
    for number, old in enumerate(synthetic(count)):
        if number % step == 0 and number // step < CHANGED:
            digest = old.record.digests[0]
            record = FileRecord(
                path=old.record.path,
                size=old.record.size,
                digests=(Digest("sha256", digest.value[::-1], "bench"),),
                locations=old.record.locations[:1],
                modified=LATER,
            )
            yield old, SnapshotEntry(old.git_path, key_for(record, old.git_path), record)


def changed_files(count: int) -> list[SnapshotEntry]:
    """Return the new states of the changed files."""
    return [new for _, new in changes(count) if new is not None]


def neuromirror(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Time a mint from the previous state and its changes."""
    repository = Repository(folder / "repository")
    repository.create()
    snapshot = Snapshot.from_records(header(), write_records(folder / "records", count))
    before = mint(snapshot, repository.path, ParentCommits(), lambda _: "1", folder)
    _publish(repository, None, before)
    changed = list(changes(count))
    later = replace(header(), version=replace(header().version, time=LATER))
    begin = time.perf_counter()
    after = mint_delta(
        later,
        lambda: iter(changed),
        DeltaBase(before.commit, before.manifest),
        repository.path,
        ParentCommits(before.commit, before.annex_commit),
        lambda _: "2",
        folder,
    )
    _publish(repository, before, after)
    seconds = time.perf_counter() - begin
    return seconds, {
        "objects": sum(pack.objects for pack in after.packs),
        "allowed": 10 * CHANGED + 200,
        "manifest_s": _manifest_seconds(before, after, changed, folder),
    }


def _publish(repository: Repository, before: MintResult | None, after: MintResult) -> None:
    for pack in after.packs:
        repository.add_pack(pack)
    repository.publish(
        {MAIN_BRANCH: before and before.commit, ANNEX_BRANCH: before and before.annex_commit},
        {MAIN_BRANCH: after.commit, ANNEX_BRANCH: after.annex_commit},
    )


def _manifest_seconds(
    before: MintResult, after: MintResult, changed: list[Change], scratch: Path
) -> float:
    """Return the seconds of the manifest and the state digest alone, which other programs lack."""
    begin = time.perf_counter()
    with CanonicalManifestWriter(scratch) as manifest:
        for piece in patch_manifest(before.manifest, before.state, iter(changed)):
            manifest.add(piece)
        expect(manifest.state() == after.state, "the manifest made again is of another state")
        manifest.finish()
    return round(time.perf_counter() - begin, 3)


def git_fast_import(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Time ``git fast-import`` of the changed files into the previous repository."""
    repository = folder / "repository"
    run_git("init", "-q", "--bare", "-b", "main", str(repository))
    stream = folder / "stream"
    fast_import(repository, write_fast_import(stream, partial(synthetic, count), onto=False))
    write_fast_import(stream, partial(changed_files, count), STAMP + 86400, onto=True)
    begin = time.perf_counter()
    fast_import(repository, stream)
    return time.perf_counter() - begin, {}


def fromkey(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Time ``git annex fromkey`` and ``registerurl`` of the changed files."""
    repository = annex_repository(folder / "repository")
    git = ("-C", str(repository))
    register(repository, map(row, synthetic(count)))
    run_git(*git, "commit", "-q", "-m", "before")
    changed = list(map(row, changed_files(count)))
    begin = time.perf_counter()
    run_git(*git, "rm", "-q", *(path for _, path, _ in changed))
    register(repository, changed)
    run_git(*git, "commit", "-q", "-m", "after")
    return time.perf_counter() - begin, {}


def addurls(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Time ``datalad addurls --key`` of the changed files in a state of this size."""
    dataset = create_dataset(folder)
    add_urls(dataset, write_table(folder / "before.csv", synthetic(count)))
    changed = changed_files(count)
    table = write_table(folder / "after.csv", changed)
    begin = time.perf_counter()
    add_urls(dataset, table, "--ifexists", "overwrite")
    seconds = time.perf_counter() - begin
    with ObjectReader(dataset / ".git") as reader:
        for one in changed:
            name = one.git_path.decode()
            link = reader.read(f"HEAD:{name}")
            expect(link == link_target(one.key, one.git_path), f"{name} was not changed")
    return seconds, {}


CONTENDERS: dict[str, Contender] = {
    "neuromirror": neuromirror,
    "fast-import": git_fast_import,
    "fromkey+registerurl": fromkey,
    "addurls": addurls,
}
MOST = {"fromkey+registerurl": 2000, "addurls": 2000}


@click.command("delta")
@sizes_option(1_000_000)
def delta_bench(files: tuple[int, ...], *, as_json: bool) -> None:
    """Update a large state in which 100 files changed."""
    report(run_contenders("delta", CONTENDERS, files, MOST), as_json=as_json)
