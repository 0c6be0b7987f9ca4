"""The benchmark ``s3``: list, mirror and revisit a bucket, with several programs."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click

from benchmarks.common import Contender, in_own_process, missing, report, run_git, sizes_option
from benchmarks.recrawl import list_bucket, visit_bucket
from benchmarks.servers import (
    REPEATS,
    Served,
    expect,
    listing_server,
    moto_server,
    processor_seconds,
    sync_once,
    timed,
)

READY = "listing server that sends ready pages (it renders, sorts and signs nothing)"
READY_ZARRS = f"{READY}, Zarrs"

SMALL = 2000
"""Objects for ``git annex import``, which must download them all."""


ZARRS = 2
"""Zarrs in the bucket of Zarrs: half of the objects each."""
QUICK = 300_000
"""Maximum number of objects for which the programs run ``REPEATS`` times."""


def mirror_bucket(folder: Path, count: int, zarrs: int = 0) -> tuple[float, dict[str, Any]]:
    """Time a first sync: list, mint, record in the index."""
    with listing_server(count, zarrs) as served:
        mirror = served.mirror(folder / "mirrors")

        def sync(number: int) -> None:
            store = folder / f"store-{number}"
            result = sync_once(mirror, store)
            expect(result.status == "ok", f"the sync should have been ok: {result}")

        def check(number: int) -> None:
            store = folder / f"store-{number}"
            _check_files(store, count)
            shutil.rmtree(store)

        return _medians(count, sync, check)


def mirror_zarrs(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Time a first sync of a bucket of Zarrs."""
    return mirror_bucket(folder, count, ZARRS)


def _medians(
    count: int, run: Callable[[int], None], after: Callable[[int], None] = lambda _: None
) -> tuple[float, dict[str, Any]]:
    """Return seconds and CPU seconds: the medians of several runs, or those of one large run.

    ``after`` is called after each run, and is not timed.
    """
    seconds, processors = [], []
    for number in range(REPEATS if count <= QUICK else 1):
        before = processor_seconds()
        seconds.append(timed(partial(run, number)))
        processors.append(processor_seconds() - before)
        after(number)
    return statistics.median(seconds), {"cpu_s": round(statistics.median(processors), 2)}


def _check_files(store: Path, count: int) -> None:
    from neuromirror.index import Index

    with Index.open_readonly(store / "neuromirror" / "index.sqlite") as index:
        files = sum(one.files for one in index.datasets(subdatasets=True))
        expect(files == count, f"{files} files were mirrored instead of {count}")


def list_by_boto3(folder: Path, count: int, zarrs: int = 0) -> tuple[float, dict[str, Any]]:
    """Time boto3's paginator of ListObjectsV2, reading every row."""
    with listing_server(count, zarrs) as served:
        client = served.client()

        def walk(_: int) -> None:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=served.name)
            listed = sum(1 for page in pages for _ in page["Contents"])
            expect(listed == count, f"boto3 listed {listed} objects")

        walk(0)  # its pages differ from ours: after the first pass they are prepared too
        return _medians(count, walk)


def list_zarrs_by_boto3(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Time the same for a bucket of Zarrs."""
    return list_by_boto3(folder, count, ZARRS)


def list_by_aws(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Time ``aws s3 ls --recursive``, if it is installed."""
    with listing_server(count) as served:
        out = folder / "listed"
        command = ["aws", "s3", "ls", "--recursive", f"s3://{served.name}/", "--endpoint-url"]
        environment = {
            **os.environ,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

        def walk(_: int) -> None:
            with out.open("wb") as file:
                command_line = [*command, served.endpoint, "--no-sign-request"]
                subprocess.run(command_line, stdout=file, check=True, env=environment)
            with out.open("rb") as file:
                listed = sum(1 for _ in file)
            expect(listed == count, f"aws listed {listed} objects")

        walk(0)
        return _medians(count, walk)


def small_objects(count: int) -> dict[bytes, bytes]:
    """Return small objects, all different."""
    return {
        b"sub-%03d/run-%05d.dat" % (number // 50, number): b"bytes of %d" % number
        for number in range(count)
    }


def mirror_small(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Time a first sync of small objects on moto's server; nothing is downloaded."""
    with moto_server(small_objects(count)) as served:
        mirror = served.mirror(folder / "mirrors")
        seconds = timed(partial(sync_once, mirror, folder / "store"), status="ok")
        _check_files(folder / "store", count)
        return seconds, {}


def import_small(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Time ``git annex import`` of small objects on moto's server, by an S3 special remote."""
    with moto_server(small_objects(count)) as served:
        repository = annex_repository(folder / "repository", served)
        begin = time.perf_counter()
        run_git("-C", str(repository), "annex", "import", "main", "--from", "s3")
        seconds = time.perf_counter() - begin
        listed = tree_of(repository, "s3/main")
        expect(len(listed) == count, f"git annex import took in {len(listed)} files")
        return seconds, {}


def annex_repository(repository: Path, served: Served) -> Path:
    """Create a git-annex repository with a bucket of moto's server as the special remote ``s3``."""
    port = served.endpoint.rpartition(":")[2]
    run_git("init", "-q", "-b", "main", str(repository))
    here = ("-C", str(repository))
    run_git(*here, "annex", "init", "-q", "bench")
    # git-annex refuses loopback addresses otherwise
    run_git(*here, "config", "annex.security.allowed-ip-addresses", "all")
    os.environ |= {"AWS_ACCESS_KEY_ID": "bench" * 4, "AWS_SECRET_ACCESS_KEY": "bench" * 8}
    run_git(
        *(*here, "annex", "initremote", "s3", "type=S3", "importtree=yes", "encryption=none"),
        *(f"bucket={served.name}", "host=127.0.0.1", f"port={port}", "protocol=http"),
        *("requeststyle=path", "signature=v4"),
    )
    return repository


def tree_of(repository: Path, commit: str) -> list[bytes]:
    """Return the paths of a commit's files."""
    done = subprocess.run(
        ["git", "-C", str(repository), "ls-tree", "-r", "-z", "--name-only", commit],
        check=True,
        capture_output=True,
    )
    return [path for path in done.stdout.split(b"\0") if path]


LISTED: dict[str, Contender] = {
    "listing": list_bucket,
    "neuromirror": mirror_bucket,
    "neuromirror again": visit_bucket,
    "boto3": list_by_boto3,
    "aws s3 ls --recursive": list_by_aws,
}
ZARRS_LISTED: dict[str, Contender] = {
    "neuromirror": mirror_zarrs,
    "boto3": list_zarrs_by_boto3,
}
IMPORTED: dict[str, Contender] = {
    "neuromirror": mirror_small,
    "annex-import": import_small,
}


@click.command("s3")
@sizes_option(200_000)
@click.option(
    "--large",
    multiple=True,
    type=click.IntRange(1),
    help="Objects of a bucket that only neuromirror mirrors, once, to show its memory; may be "
    "given several times.",
)
def s3_bench(files: tuple[int, ...], large: tuple[int, ...], *, as_json: bool, write: bool) -> None:
    """List, mirror and revisit a bucket with neuromirror, boto3, aws and git annex import."""
    report("s3", _lines(files, large), as_json=as_json, write=write)


def _lines(sizes: tuple[int, ...], large: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """Yield the lines of all programs; ``listings`` is the time in units of one listing."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        for size in sizes:
            listing = 0.0
            for what, run in LISTED.items():
                if what.startswith("aws ") and shutil.which("aws") is None:
                    yield missing("s3", what, size, "is not on PATH") | {"of": READY}
                    continue
                line = in_own_process("s3", what, run, size, folder)
                listing = listing or line["seconds"]
                listings = round(line["seconds"] / listing, 2)
                yield {**line, "listings": listings, "of": READY}
            for what, run in ZARRS_LISTED.items():
                line = in_own_process("s3", what, run, size, folder)
                yield {**line, "listings": round(line["seconds"] / listing, 2), "of": READY_ZARRS}
        for size in large:
            line = in_own_process("s3", "neuromirror", mirror_bucket, size, folder)
            yield {**line, "of": f"first sync of {size:,} objects"}
        for what, run in IMPORTED.items():
            count = min(SMALL, max(sizes))
            yield {**in_own_process("s3", what, run, count, folder), "of": "moto's server"}
