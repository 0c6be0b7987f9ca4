"""The benchmark ``get``: download content from a loopback server, with several programs."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from benchmarks.bucket_server import BUCKET, Bucket, digest_of
from benchmarks.common import (
    STAMP,
    fast_import,
    in_own_process,
    json_option,
    report,
    run_git,
    with_cpu,
)
from benchmarks.servers import in_server_process
from neuromirror.annex import (
    link_target,
    location_log,
    log_path,
    sha256e_key,
    url_log,
    url_log_path,
)

_DATASET: Final = b'[datalad "dataset"]\n\tid = 5a1e2b6c-3c1f-4d3e-9a57-64d3c1c0b1e7\n'
_SMALL: Final = 64 << 10
_CONNECTIONS: Final = {"small": 32, "large": 8}
"""Connections of curl: our default, and the best number for large files."""


@dataclass(frozen=True, slots=True)
class GetCase:
    """A dataset to get, whose files are ``<url>/<number>``; ``sums`` has their digests."""

    repository: Path
    url: str
    sums: Path
    kind: str


@click.command("get")
@json_option
@click.option("--files", default=5000, show_default=True, help="Small files, of 64 KiB each.")
@click.option("--large", default=20, show_default=True, help="Large files.")
@click.option("--mib", default=256, show_default=True, help="MiB in each large file.")
@click.option(
    "--latency",
    "latencies",
    multiple=True,
    default=[0, 20],
    show_default=True,
    help="Milliseconds to the server and back; may be given several times.",
)
def get_bench(
    files: int, large: int, mib: int, latencies: tuple[int, ...], *, as_json: bool
) -> None:
    """Download and verify small and large files in a clone."""
    kinds = {"small": (files, _SMALL), "large": (large, mib << 20)}
    report(_lines(kinds, latencies), as_json=as_json)


def _lines(
    kinds: dict[str, tuple[int, int]], latencies: tuple[int, ...]
) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        bucket = folder / "bucket"
        bucket.mkdir()
        for kind, (_, size) in kinds.items():
            noise, piece = random.Random(size), min(size, 1 << 20)
            with (bucket / kind).open("wb") as file:
                file.writelines(noise.randbytes(piece) for _ in range(size // piece))
        for latency in latencies:
            with in_server_process(Bucket, bucket, latency) as ask:
                for kind, (count, size) in kinds.items():
                    if count:
                        url = f"{ask('address')}/{BUCKET}/{kind}"
                        yield from _contest(folder, url, latency, kind, count, size)
        subprocess.run(["chmod", "-R", "u+w", name], check=True)


def _contest(
    folder: Path, url: str, latency: int, kind: str, count: int, size: int
) -> Iterator[dict[str, Any]]:
    case_folder = folder / f"{kind}-{latency}"
    case_folder.mkdir()
    click.echo(f"{count} {kind} files, {latency} ms away …", err=True)
    digests = [digest_of(number, folder / "bucket" / kind) for number in range(count)]
    case = _make(case_folder, url, kind, size, digests)
    for what, run in CONTENDERS.items():
        line = in_own_process("get", what, partial(_timed, run, case), count, case_folder)
        unit = f"{size >> 10} KiB" if size < 1 << 20 else f"{size >> 20} MiB"
        yield {
            **line,
            "of": f"{count:,} files of {unit}, {latency} ms",
            "mb_per_s": round(count * size / 1e6 / line["seconds"]),
        }


def _make(folder: Path, url: str, kind: str, size: int, digests: list[str]) -> GetCase:
    """Create a dataset with these files; ``sums`` gets their digests."""
    stream, sums, repository = folder / "stream", folder / "sums", folder / "dataset"
    who = b"bench <bench@example.org> %d +0000" % STAMP
    sums.write_text("".join(f"{digest}  {number}\n" for number, digest in enumerate(digests)))
    with stream.open("wb") as file:

        def put(mode: bytes, path: bytes, data: bytes) -> None:
            file.write(b"M %s inline %s\ndata %d\n%s\n" % (mode, path, len(data), data))

        file.write(b"commit refs/heads/main\ncommitter %s\ndata 5\nbench\n" % who)
        put(b"100644", b".datalad/config", _DATASET)
        keys = []
        for number, digest in enumerate(digests):
            path = b"sub-%03d/file-%05d.dat" % (number // 100, number)
            keys.append(sha256e_key(size, digest, path))
            put(b"120000", path, link_target(keys[-1], path))
        file.write(b"commit refs/heads/git-annex\ncommitter %s\ndata 5\nbench\n" % who)
        for number, key in enumerate(keys):
            put(b"100644", log_path(key), location_log(STAMP))
            put(b"100644", url_log_path(key), url_log([f"{url}/{number}"], STAMP))
        file.write(b"done\n")
    run_git("init", "-q", "--bare", "-b", "main", str(repository))
    fast_import(repository, stream)
    return GetCase(repository, url, sums, kind)


def _timed(
    run: Callable[[GetCase, Path, int], list[str] | None], case: GetCase, folder: Path, count: int
) -> tuple[float, dict[str, Any]]:
    """Time a program that downloads everything; its results are checked afterwards."""
    clone = folder / "clone"
    (folder / ".gitconfig").write_text('[annex "security"]\n\tallowed-ip-addresses = 127.0.0.1\n')
    run_git("clone", "-q", str(case.repository), str(clone))
    run_git("-C", str(clone), "annex", "init", "-q", "bench")
    os.sync()
    sums: list[str] | None = None

    def download() -> None:
        nonlocal sums
        sums = run(case, clone, count)

    figures = with_cpu(download)
    if sums is None:
        find = ["git", "-C", str(clone), "annex", "find", "--in=here"]
        found = subprocess.run(find, capture_output=True, text=True, check=True).stdout
        good = len(found.splitlines()) == count
    else:
        good = sorted(sums) == sorted(case.sums.read_text().splitlines())
    if not good:
        raise SystemExit(f"bench: {folder.name} did not get all of the {count} files")
    if case.kind == "small":  # deleting many files would slow down the next program
        clone.rename(folder.parent / f"{folder.name}-clone")
    return figures


def _neuromirror(case: GetCase, clone: Path, count: int) -> None:
    _quietly([str(Path(sys.executable).with_name("neuromirror")), "get"], clone)


def _datalad(case: GetCase, clone: Path, count: int) -> None:
    _quietly(["datalad", "-l", "error", "get", "-J8", "."], clone)


def _annex(case: GetCase, clone: Path, count: int) -> None:
    _quietly(["git", "annex", "get", "-J8", "."], clone)


def _curl(case: GetCase, clone: Path, count: int) -> list[str]:
    """Download the files to a folder with curl, and hash them."""
    config, got = clone.parent / "curl", clone / "got"
    numbers = range(count)
    config.write_text(
        "".join(f'url = "{case.url}/{number}"\noutput = "got/{number}"\n' for number in numbers)
    )
    got.mkdir()
    most = str(_CONNECTIONS[case.kind])
    _quietly(["curl", "-sS", "-Z", "--parallel-max", most, "-K", str(config)], clone)
    hashing = ["xargs", "-0", f"-P{os.cpu_count()}", "-n", str(max(count // 64, 1)), "sha256sum"]
    names = "\0".join(map(str, numbers))
    done = subprocess.run(hashing, cwd=got, input=names, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def _quietly(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)


CONTENDERS: Final = {
    "neuromirror": _neuromirror,
    "datalad-get": _datalad,
    "annex-get": _annex,
    "curl": _curl,
}
