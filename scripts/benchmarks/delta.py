"""The benchmark ``delta``: update a large state in which 100 files changed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
from msgspec.structs import replace

from benchmarks.common import (
    MOMENT,
    STAMP,
    Contender,
    header,
    report,
    run_contenders,
    run_git,
    sizes_option,
    synthetic,
    write_fast_import,
    write_records,
)
from benchmarks.mint import add_urls, create_dataset, write_table
from neuromirror.annex import key_for, link_target, location_log, log_path, url_log
from neuromirror.git import ObjectReader
from neuromirror.mint import DeltaBase, MintResult, ParentCommits, Snapshot, mint, mint_delta
from neuromirror.mint.delta_writer import patch_manifest
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


def delta_neuromirror(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Time a mint from the previous state and its changes."""
    repository = Repository(folder / "repository")
    repository.create()
    records = write_records(folder / "records", count)
    before = mint(
        Snapshot.from_records(header(), records),
        repository.path,
        ParentCommits(),
        lambda _: "1",
        folder,
    )
    for pack in before.packs:
        repository.add_pack(pack)
    repository.publish(
        {MAIN_BRANCH: None, ANNEX_BRANCH: None},
        {MAIN_BRANCH: before.commit, ANNEX_BRANCH: before.annex_commit},
    )
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
    for pack in after.packs:
        repository.add_pack(pack)
    repository.publish(
        {MAIN_BRANCH: before.commit, ANNEX_BRANCH: before.annex_commit},
        {MAIN_BRANCH: after.commit, ANNEX_BRANCH: after.annex_commit},
    )
    seconds = time.perf_counter() - begin
    written = sum(pack.objects for pack in after.packs)
    return seconds, {
        "objects": written,
        "allowed": 10 * CHANGED + 200,
        "manifest_s": _manifest_seconds(before, after, changed, folder),
    }


def _manifest_seconds(
    before: MintResult, after: MintResult, changed: list[Change], scratch: Path
) -> float:
    """Return the seconds of the manifest and the state digest alone, which other programs lack."""
    begin = time.perf_counter()
    with CanonicalManifestWriter(scratch) as manifest:
        for piece in patch_manifest(before.manifest, before.state, iter(changed)):
            manifest.add(piece)
        if manifest.state() != after.state:
            sys.exit("bench: the manifest made again is of another state")
        manifest.finish()
    return round(time.perf_counter() - begin, 3)


def delta_fast_import(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Time ``git fast-import`` of the changed files into the previous repository."""
    repository = folder / "repository"
    run_git("init", "-q", "--bare", "-b", "main", str(repository))
    write_fast_import(repository, folder / "stream", count)
    stream = folder / "changes"
    with stream.open("wb") as file:
        _changes_stream(file.write, count)
    begin = time.perf_counter()
    with stream.open("rb") as file:
        run_git("-C", str(repository), "fast-import", "--quiet", stdin=file)
    return time.perf_counter() - begin, {}


def _changes_stream(write: Callable[[bytes], Any], count: int) -> None:
    who = b"bench <bench@example.org> %d +0000" % (STAMP + 86400)

    def data(content: bytes) -> None:
        write(b"data %d\n%s\n" % (len(content), content))

    def begin(branch: bytes) -> None:
        write(b"commit refs/heads/%s\ncommitter %s\n" % (branch, who))
        data(b"bench")
        write(b"from refs/heads/%s^0\n" % branch)

    changed = [new for _, new in changes(count) if new is not None]
    begin(b"main")
    for new in changed:
        write(b"M 120000 inline %s\n" % new.git_path)
        data(link_target(new.key, new.git_path))
    begin(b"git-annex")
    for new in changed:
        write(b"M 100644 inline %s\n" % log_path(new.key))
        data(location_log(STAMP + 86400))
        write(b"M 100644 inline %s.web\n" % log_path(new.key))
        data(url_log([location.url for location in new.record.locations], STAMP + 86400))
    write(b"done\n")


def delta_fromkey(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Time ``git annex fromkey`` and ``registerurl`` of the changed files."""
    repository = folder / "repository"
    run_git("init", "-q", str(repository))
    run_git("-C", str(repository), "annex", "init", "-q", "bench")
    _register(repository, list(synthetic(count)))
    run_git("-C", str(repository), "commit", "-q", "-m", "before")
    changed = [new for _, new in changes(count) if new is not None]
    begin = time.perf_counter()
    run_git("-C", str(repository), "rm", "-q", *(one.git_path.decode() for one in changed))
    _register(repository, changed)
    run_git("-C", str(repository), "commit", "-q", "-m", "after")
    return time.perf_counter() - begin, {}


def _register(repository: Path, files: list[SnapshotEntry]) -> None:
    keys = "".join(f"{one.key} {one.git_path.decode()}\n" for one in files)
    urls = "".join(f"{one.key} {at.url}\n" for one in files for at in one.record.locations)
    run_git("-C", str(repository), "annex", "fromkey", "--force", "--batch", text=keys)
    run_git("-C", str(repository), "annex", "registerurl", "--batch", text=urls)


def delta_addurls(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Time ``datalad addurls --key`` of the changed files in a state of this size."""
    repository = create_dataset(folder)
    add_urls(repository, write_table(folder / "before.csv", synthetic(count)))
    changed = [new for _, new in changes(count) if new is not None]
    table = write_table(folder / "after.csv", changed)
    begin = time.perf_counter()
    add_urls(repository, table, "--ifexists", "overwrite")
    seconds = time.perf_counter() - begin
    _check_links(repository, changed)
    return seconds, {}


def _check_links(repository: Path, files: list[SnapshotEntry]) -> None:
    """Check that the last commit has the changed files."""
    with ObjectReader(repository / ".git") as reader:
        for one in files:
            name = one.git_path.decode()
            if reader.read(f"HEAD:{name}") != link_target(one.key, one.git_path):
                sys.exit(f"bench: {repository.name}: {name} was not changed")


DELTA: dict[str, Contender] = {
    "neuromirror": delta_neuromirror,
    "fast-import": delta_fast_import,
    "fromkey+registerurl": delta_fromkey,
    "addurls": delta_addurls,
}
MOST = {"fromkey+registerurl": 2000, "addurls": 2000}


@click.command("delta")
@sizes_option(1_000_000)
def delta_bench(files: tuple[int, ...], *, as_json: bool, write: bool) -> None:
    """Update a large state in which 100 files changed."""
    lines = run_contenders("delta", DELTA, files, MOST)
    report("delta", lines, as_json=as_json, write=write)
