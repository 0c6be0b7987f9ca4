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

from benchmarks.common import (
    REPEATS,
    Contender,
    annex_repository,
    expect,
    in_own_process,
    missing,
    report,
    run_git,
    sizes_option,
    timed,
    with_cpu,
)
from benchmarks.recrawl import list_bucket, visit_bucket
from benchmarks.servers import Served, count_files, listing_server, moto_server, sync_once

READY = "listing server that sends ready pages (it renders, sorts and signs nothing)"
ZARRS = 2
"""Zarrs in the bucket of Zarrs: half of the objects each."""
SMALL = 2000
"""Objects for ``git annex import``, which must download them all."""
QUICK = 300_000
"""Maximum number of objects for which the programs run several times."""


def mirror_bucket(folder: Path, count: int, *, zarrs: int = 0) -> tuple[float, dict[str, Any]]:
    """Time a first sync: list, mint, record in the index."""
    with listing_server(count, zarrs) as served:
        mirror, store = served.mirror(folder / "mirrors"), folder / "store"

        def check() -> None:
            expect(count_files(store) == count, f"{count_files(store)} files were mirrored")
            shutil.rmtree(store)

        return _medians(count, lambda: sync_once(mirror, store), check)


def _medians(
    count: int, run: Callable[[], object], after: Callable[[], object] = lambda: None
) -> tuple[float, dict[str, Any]]:
    """Return seconds and CPU seconds: the medians of several runs, or those of one large run.

    ``after`` is called after each run, and is not timed.
    """
    seconds, processors = [], []
    for _ in range(REPEATS if count <= QUICK else 1):
        took, used = with_cpu(run)
        seconds.append(took)
        processors.append(used["cpu_s"])
        after()
    return statistics.median(seconds), {"cpu_s": round(statistics.median(processors), 2)}


def list_by_boto3(folder: Path, count: int, *, zarrs: int = 0) -> tuple[float, dict[str, Any]]:
    """Time boto3's paginator of ListObjectsV2, reading every row."""
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    with listing_server(count, zarrs) as served:
        client = boto3.client(
            "s3",
            endpoint_url=served.endpoint,
            region_name="us-east-1",
            config=Config(signature_version=UNSIGNED, proxies={}),
        )

        def walk() -> None:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=served.name)
            listed = sum(1 for page in pages for _ in page["Contents"])
            expect(listed == count, f"boto3 listed {listed} objects")

        walk()  # its pages differ from ours: after the first pass they are prepared too
        return _medians(count, walk)


def list_by_aws(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Time ``aws s3 ls --recursive``, if it is installed."""
    with listing_server(count) as served:
        os.environ |= {"AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
        command = ["aws", "s3", "ls", "--recursive", f"s3://{served.name}/"]
        command += ["--endpoint-url", served.endpoint, "--no-sign-request"]

        def walk() -> None:
            listed = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.count(b"\n")
            expect(listed == count, f"aws listed {listed} objects")

        walk()
        return _medians(count, walk)


def mirror_small(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Time a first sync of small objects on moto's server; nothing is downloaded."""
    with moto_server(_small_objects(count)) as served:
        mirror = served.mirror(folder / "mirrors")
        seconds = timed(partial(sync_once, mirror, folder / "store"), status="ok")
        expect(count_files(folder / "store") == count, "other files were mirrored")
        return seconds, {}


def import_small(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Time ``git annex import`` of small objects on moto's server, by an S3 special remote."""
    with moto_server(_small_objects(count)) as served:
        repository = _annex_remote(folder / "repository", served)
        git = ("-C", str(repository))
        begin = time.perf_counter()
        run_git(*git, "annex", "import", "main", "--from", "s3")
        seconds = time.perf_counter() - begin
        tree = ["git", *git, "ls-tree", "-r", "--name-only", "s3/main"]
        listed = subprocess.run(tree, check=True, capture_output=True).stdout.count(b"\n")
        expect(listed == count, f"git annex import took in {listed} files")
        return seconds, {}


def _small_objects(count: int) -> dict[str, bytes]:
    return {f"sub-{n // 50:03d}/run-{n:05d}.dat": b"bytes of %d" % n for n in range(count)}


def _annex_remote(repository: Path, served: Served) -> Path:
    """Create a git-annex repository with a bucket of moto's server as the special remote ``s3``."""
    port = served.endpoint.rpartition(":")[2]
    os.environ |= {"AWS_ACCESS_KEY_ID": "bench" * 4, "AWS_SECRET_ACCESS_KEY": "bench" * 8}
    run_git(
        *("-C", str(annex_repository(repository)), "annex", "initremote", "s3", "type=S3"),
        *("importtree=yes", "encryption=none", f"bucket={served.name}", "host=127.0.0.1"),
        *(f"port={port}", "protocol=http", "requeststyle=path", "signature=v4"),
    )
    return repository


CONTENDERS: dict[str, dict[str, Contender]] = {
    READY: {
        "listing": list_bucket,
        "neuromirror": mirror_bucket,
        "neuromirror again": visit_bucket,
        "boto3": list_by_boto3,
        "aws s3 ls --recursive": list_by_aws,
    },
    f"{READY}, Zarrs": {
        "neuromirror": partial(mirror_bucket, zarrs=ZARRS),
        "boto3": partial(list_by_boto3, zarrs=ZARRS),
    },
    "moto's server": {"neuromirror": mirror_small, "annex-import": import_small},
}


@click.command("s3")
@sizes_option(200_000)
def s3_bench(files: tuple[int, ...], *, as_json: bool) -> None:
    """List, mirror and revisit a bucket with neuromirror, boto3, aws and git annex import."""
    report(_lines(files), as_json=as_json)


def _lines(sizes: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """Yield the lines of all programs; ``listings`` is the time in units of one listing."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        for size in sizes:
            listing = 0.0
            for of, contenders in CONTENDERS.items():
                for what, run in contenders.items():
                    if what.startswith("aws ") and shutil.which("aws") is None:
                        yield missing("s3", what, size, "is not on PATH") | {"of": of}
                        continue
                    count = size if of.startswith(READY) else min(SMALL, size)
                    line = in_own_process("s3", what, run, count, Path(name)) | {"of": of}
                    listing = listing or line["seconds"]
                    if count == size:
                        line["listings"] = round(line["seconds"] / listing, 2)
                    yield line
