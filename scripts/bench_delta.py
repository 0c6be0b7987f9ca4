"""Benches of change: ``delta`` (100 files of a large state) and ``recrawl`` (nothing at all)."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
from bench_common import (
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

from neuromirror.annex import key_for, link_target, location_log, log_path, url_log
from neuromirror.mint import Base, Parents, Snapshot, mint, mint_delta
from neuromirror.model import Change, Digest, FileRecord, PlacedFile
from neuromirror.store import ANNEX, MAIN, Repository

CHANGED = 100
LATER = MOMENT + timedelta(days=1)


def changes(count: int) -> Iterator[Change]:
    """``CHANGED`` files, spread over the state, with other bytes."""
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
            yield old, PlacedFile(old.git_path, key_for(record, old.git_path), record)


def delta_neuromirror(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """A state minted from the one before and its changes."""
    repository = Repository(folder / "repository")
    repository.create()
    records = write_records(folder / "records", count)
    before = mint(
        Snapshot.of_records(header(), records), repository.path, Parents(), lambda _: "1", folder
    )
    for pack in before.packs:
        repository.place(pack)
    repository.publish({MAIN: None, ANNEX: None}, {MAIN: before.commit, ANNEX: before.annex_commit})
    changed = list(changes(count))
    later = replace(header(), version=replace(header().version, time=LATER))
    begin = time.perf_counter()
    after = mint_delta(
        later,
        lambda: iter(changed),
        Base(before.commit, before.manifest),
        repository.path,
        Parents(before.commit, before.annex_commit),
        lambda _: "2",
        folder,
    )
    for pack in after.packs:
        repository.place(pack)
    repository.publish(
        {MAIN: before.commit, ANNEX: before.annex_commit},
        {MAIN: after.commit, ANNEX: after.annex_commit},
    )
    seconds = time.perf_counter() - begin
    written = sum(pack.objects for pack in after.packs)
    return seconds, {"objects": written, "allowed": 10 * CHANGED + 200}


def delta_fast_import(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """``git fast-import`` of the changed files onto what it imported before."""
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
        data(url_log([place.url for place in new.record.locations], STAMP + 86400))
    write(b"done\n")


def delta_fromkey(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """``git annex fromkey`` and ``registerurl`` of the changed files, in a state of this size."""
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


def _register(repository: Path, files: list[PlacedFile]) -> None:
    keys = "".join(f"{one.key} {one.git_path.decode()}\n" for one in files)
    urls = "".join(f"{one.key} {at.url}\n" for one in files for at in one.record.locations)
    run_git("-C", str(repository), "annex", "fromkey", "--force", "--batch", text=keys)
    run_git("-C", str(repository), "annex", "registerurl", "--batch", text=urls)


DELTA: dict[str, Contender] = {
    "neuromirror": delta_neuromirror,
    "fast-import": delta_fast_import,
    "fromkey+registerurl": delta_fromkey,
}
MOST = {"fromkey+registerurl": 2000}


@click.command("delta")
@sizes_option(1_000_000)
def delta_bench(files: tuple[int, ...], *, as_json: bool, write: bool) -> None:
    """100 changed files of a large state."""
    lines = run_contenders("delta", DELTA, files, MOST)
    report("delta", lines, as_json=as_json, write=write)


def recrawl_listing(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """The listing alone: every page read, every row checked and placed in a record."""
    with _archive(folder, count) as (mirror, _):
        source = mirror.open()
        dataset = source.dataset(_DATASET)
        begin = time.perf_counter()
        (version,) = source.versions(dataset)
        listing = source.listing(version, _Plain())
        for _ in listing.entries:
            pass
        listing.closing()
        return time.perf_counter() - begin, _own_memory()


def _own_memory() -> dict[str, Any]:
    """The peak of this process alone: the archive server is none of ours."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"peak_mb": round(peak / 1024 / (1024 if sys.platform == "darwin" else 1))}


def recrawl_neuromirror(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """A deep visit of the dataset, which finds nothing new."""
    from neuromirror.crawl import Sync, parse_requests
    from neuromirror.store import Store

    with _archive(folder, count) as (mirror, name):
        store = Store.open(folder / "store", create=True)
        requests = parse_requests([name], {mirror.name: mirror})
        list(Sync(store, store.index_path, jobs=1).results(requests))
        begin = time.perf_counter()
        (result,) = Sync(store, store.index_path, deep=True, jobs=1).results(requests)
        seconds = time.perf_counter() - begin
        if result.status != "notneeded":
            sys.exit(f"bench: the second visit was not uneventful: {result}")
        return seconds, _own_memory()


_DATASET = "000009"


class _Plain:
    """Every object is known, as on a second visit: nothing is asked of the bucket."""

    memo = None
    workspace = Path()

    def locations(self, urls: Sequence[str]) -> list[Any]:
        from neuromirror.model import Location

        return [Location(f"{url}?versionId=1", "s3", "1") for url in urls]

    def contents(self, etags: Sequence[str]) -> list[Any]:
        return [None for _ in etags]


def _archive(folder: Path, count: int) -> Any:
    """The demo archive in a process of its own, with one dandiset of ``count`` files."""
    import contextlib
    import subprocess

    from neuromirror.crawl import load_mirrors

    @contextlib.contextmanager
    def running() -> Iterator[tuple[Any, str]]:
        arguments = [sys.executable, "-m", "neuromirror.demo", "serve", "--dir"]
        with subprocess.Popen(
            [*arguments, str(folder / "demo")], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            addresses = json.loads(process.stdout.readline())
            import requests

            body = {"dandiset": _DATASET, "n_files": count}
            requests.post(f"{addresses['control']}/make_many", json=body, timeout=600)
            mirror = load_mirrors(Path(addresses["mirrors"]))["demo"]
            try:
                yield mirror, f"demo:{_DATASET}"
            finally:
                process.terminate()

    return running()


RECRAWL: dict[str, Contender] = {
    "neuromirror": recrawl_neuromirror,
    "listing": recrawl_listing,
}


@click.command("recrawl")
@sizes_option(50_000)
def recrawl_bench(files: tuple[int, ...], *, as_json: bool, write: bool) -> None:
    """A deep visit of an unchanged dataset, beside the mere listing of it."""
    lines = run_contenders("recrawl", RECRAWL, files, {})
    report("recrawl", lines, as_json=as_json, write=write)
