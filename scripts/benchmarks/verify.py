"""The benchmark ``verify``: hash and compare local content, small and large files."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click

from benchmarks.common import in_own_process, missing, report, run_git

REPEATS = 3
_BLOCK = 1 << 20
_JOBS = 2
"""Jobs for git-annex and sha256sum; neuromirror uses one thread per processor by default."""


def make_dataset(folder: Path, count: int, size: int) -> tuple[float, dict[str, Any]]:
    """Create a dataset with local files of random bytes with git-annex; adding them is timed."""
    dataset = folder.parent / "dataset"
    dataset.mkdir()
    run_git("init", "-q", "-b", "main", str(dataset))
    run_git("-C", str(dataset), "annex", "init", "-q")
    for number in range(count):
        path = dataset / f"sub-{number // 100:03d}" / f"file-{number:06d}.bin"
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as file:
            for _ in range(max(size // _BLOCK, 1)):
                file.write(os.urandom(min(size, _BLOCK)))
    begin = time.perf_counter()
    run_git("-C", str(dataset), "annex", "add", "-q", "-J", str(_JOBS), ".")
    seconds = time.perf_counter() - begin
    run_git("-C", str(dataset), "commit", "-qm", "all")
    return seconds, {}


def neuromirror(dataset: Path, count: int) -> list[str]:
    return [sys.executable, "-m", "neuromirror", "verify", str(dataset)]


def annex_fsck(dataset: Path, count: int) -> list[str]:
    return ["git", "-C", str(dataset), "annex", "fsck", "-q", f"-J{_JOBS}"]


def sha256sum(dataset: Path, count: int) -> list[str]:
    """Return the command; each process gets a tenth of the files, at least one."""
    files = f"find {dataset}/sub-* -name '*.bin' -print0"
    return ["sh", "-c", f"{files} | xargs -0 -P{_JOBS} -n{max(count // 10, 1)} sha256sum"]


CONTENDERS: dict[str, Callable[[Path, int], list[str]]] = {
    "neuromirror": neuromirror,
    "annex-fsck": annex_fsck,
    "sha256sum": sha256sum,
}


def timed(
    command: Callable[[Path, int], list[str]], folder: Path, count: int
) -> tuple[float, dict[str, Any]]:
    """Return the median of whole commands; all files were read before."""
    dataset = folder.parent / "dataset"
    command_line = command(dataset, count)
    bytes_ = _warm(dataset)
    times = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        done = subprocess.run(command_line, capture_output=True, text=True, check=False)
        times.append(time.perf_counter() - begin)
        if done.returncode:
            raise SystemExit(
                f"bench: {command_line[0]} failed: {done.stdout[-500:]}{done.stderr[-500:]}"
            )
    seconds = statistics.median(times)
    return seconds, {"best": round(min(times), 3), "mb_s": round(bytes_ / seconds / 1e6)}


def _warm(dataset: Path) -> int:
    """Read all content into the page cache; return its bytes."""
    total = 0
    for path in dataset.glob("sub-*/*"):
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                total += len(block)
    return total


@click.command("verify")
@click.option("--files", type=int, default=5000, show_default=True, help="Small files.")
@click.option("--kib", type=int, default=64, show_default=True, help="KiB in each of those.")
@click.option("--large", type=int, default=20, show_default=True, help="Large files.")
@click.option("--mib", type=int, default=256, show_default=True, help="MiB in each of those.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.option("--write", is_flag=True, help="Update docs/explanation/benchmarks.md and its plot.")
def verify_bench(files: int, kib: int, large: int, mib: int, *, as_json: bool, write: bool) -> None:
    """Verify local content: neuromirror, git annex fsck, sha256sum."""
    sizes = [(files, kib << 10, f"files of {kib} KiB"), (large, mib << 20, f"files of {mib} MiB")]
    report("verify", _lines(sizes), as_json=as_json, write=write)


def _lines(sizes: list[tuple[int, int, str]]) -> Iterator[dict[str, Any]]:
    for count, size, of in sizes:
        if not count:
            continue
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            folder = Path(name)
            in_own_process("verify", "made", partial(make_dataset, size=size), count, folder)
            for what, command in CONTENDERS.items():
                if what == "sha256sum" and shutil.which("sha256sum") is None:
                    line = missing("verify", what, count, "is not here")
                else:
                    line = in_own_process("verify", what, partial(timed, command), count, folder)
                yield {**line, "of": of}
            # git-annex keeps its objects from being removed by chance
            subprocess.run(["chmod", "-R", "u+w", str(folder / "dataset")], check=True)
