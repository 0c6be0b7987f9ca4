"""The benchmark ``get``: download content from a loopback server, with several programs."""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from benchmarks.common import STAMP, in_own_process, report, run_git
from benchmarks.get_server import SMALL, block, digest_of
from benchmarks.servers import server_process
from neuromirror.annex import (
    link_target,
    location_log,
    log_path,
    sha256e_key,
    url_log,
    url_log_path,
)

_DATASET: Final = b'[datalad "dataset"]\n\tid = 5a1e2b6c-3c1f-4d3e-9a57-64d3c1c0b1e7\n'
_CONNECTIONS: Final = 32
_LARGE: Final = 8
"""Connections of curl: our default, and the best number for large files."""


@dataclass(frozen=True, slots=True)
class GetCase:
    """The task of a program: a dataset to get, whose files are ``<url>/<number>``.

    ``sums`` has their digests. Downloaded small files are kept to the end, because deleting many
    files would slow down the next program.
    """

    repository: Path
    url: str
    sums: Path
    small: bool


@click.command("get")
@click.option("--write", is_flag=True, help="Update docs/explanation/benchmarks.md and its plot.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
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
    files: int, large: int, mib: int, latencies: tuple[int, ...], *, as_json: bool, write: bool
) -> None:
    """Download and verify small and large files in a clone."""
    lines = _lines(files, large, mib, latencies)
    report("get", lines, as_json=as_json, write=write)


def _lines(
    files: int, large: int, mib: int, latencies: tuple[int, ...]
) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        common = folder / "large"
        with common.open("wb") as file:
            noise = random.Random(mib)
            file.writelines(noise.randbytes(1 << 20) for _ in range(mib))
        for latency in latencies:
            with _served(latency / 1000, common) as address:
                for kind, count, size in (("small", files, SMALL), ("large", large, mib << 20)):
                    if count:
                        yield from _contest(folder, address, latency, kind, count, size)
        subprocess.run(["chmod", "-R", "u+w", name], check=True)


def _contest(
    folder: Path, address: str, latency: int, kind: str, count: int, size: int
) -> Iterator[dict[str, Any]]:
    case_folder = folder / f"{kind}-{latency}"
    case_folder.mkdir()
    content: bytes | Path = block() if kind == "small" else folder / "large"
    click.echo(f"{count} {kind} files, {latency} ms away …", err=True)
    job = _make(case_folder, f"{address}/{kind}", kind, count, size, content)
    for what, run in CONTENDERS.items():
        line = in_own_process("get", what, partial(_timed, run, job), count, case_folder)
        unit = f"{size >> 10} KiB" if size < 1 << 20 else f"{size >> 20} MiB"
        yield {
            **line,
            "of": f"{count:,} files of {unit}, {latency} ms",
            "mb_per_s": round(count * size / 1e6 / line["seconds"]),
        }


def _make(
    case_folder: Path, url: str, kind: str, count: int, size: int, content: bytes | Path
) -> GetCase:
    """Create a dataset with this many files; ``sums`` gets their digests."""
    stream, sums, repository = case_folder / "stream", case_folder / "sums", case_folder / "dataset"
    who = b"bench <bench@example.org> %d +0000" % STAMP
    digests = [digest_of(number, content) for number in range(count)]
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
    with stream.open("rb") as file:
        run_git("-C", str(repository), "fast-import", "--quiet", stdin=file)
    return GetCase(repository, url, sums, kind == "small")


def _timed(
    run: Callable[[GetCase, Path, int], list[str] | None], job: GetCase, folder: Path, count: int
) -> tuple[float, dict[str, Any]]:
    """Time a program that downloads everything; its results are checked afterwards."""
    clone = folder / "clone"
    (folder / ".gitconfig").write_text('[annex "security"]\n\tallowed-ip-addresses = 127.0.0.1\n')
    os.environ |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    run_git("clone", "-q", str(job.repository), str(clone))
    run_git("-C", str(clone), "annex", "init", "-q", "bench")
    os.sync()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.perf_counter()
    sums = run(job, clone, count)
    seconds = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if sums is None:
        found = subprocess.run(
            ["git", "-C", str(clone), "annex", "find", "--in=here"],
            capture_output=True,
            text=True,
            check=True,
        )
        good = len(found.stdout.splitlines()) == count
    else:
        good = sorted(sums) == sorted(job.sums.read_text().splitlines())
    if not good:
        raise SystemExit(f"bench: {folder.name} did not get all of the {count} files")
    if job.small:
        clone.rename(folder.parent / f"{folder.name}-clone")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, {"cpu_s": round(cpu, 2)}


def _neuromirror(job: GetCase, clone: Path, count: int) -> None:
    _quietly([str(Path(sys.executable).with_name("neuromirror")), "get"], clone)


def _datalad(job: GetCase, clone: Path, count: int) -> None:
    _quietly(["datalad", "-l", "error", "get", "-J8", "."], clone)


def _annex(job: GetCase, clone: Path, count: int) -> None:
    _quietly(["git", "annex", "get", "-J8", "."], clone)


def _curl(job: GetCase, clone: Path, count: int) -> list[str]:
    """Download the files to a folder with curl, and hash them."""
    config = clone.parent / "curl"
    config.write_text(
        "".join(f'url = "{job.url}/{number}"\noutput = "got/{number}"\n' for number in range(count))
    )
    (clone / "got").mkdir()
    most = str(_CONNECTIONS if job.small else _LARGE)
    _quietly(["curl", "-s", "-Z", "--parallel-max", most, "-K", str(config)], clone)
    names = "\0".join(map(str, range(count)))
    done = subprocess.run(
        ["xargs", "-0", f"-P{os.cpu_count()}", "-n", str(max(count // 64, 1)), "sha256sum"],
        cwd=clone / "got",
        input=names,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def _quietly(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)


CONTENDERS: Final = {
    "neuromirror": _neuromirror,
    "datalad-get": _datalad,
    "annex-get": _annex,
    "curl": _curl,
}


@contextmanager
def _served(delay: float, file: Path) -> Iterator[str]:
    with server_process("benchmarks.get_server", str(delay), str(file)) as line:
        yield f"http://127.0.0.1:{line.strip()}"
