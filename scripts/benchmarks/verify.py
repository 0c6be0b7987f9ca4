"""The benchmark ``verify``: hash and compare local content, small and large files."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click

from benchmarks.common import (
    annex_repository,
    in_own_process,
    json_option,
    median,
    report,
    run_git,
    timed,
)

_BLOCK = 1 << 20
_JOBS = 2
"""Jobs for git-annex and sha256sum; neuromirror uses one thread per processor by default."""


def make_dataset(folder: Path, count: int, *, size: int) -> tuple[float, dict[str, Any]]:
    """Create a dataset with local files of random bytes with git-annex; adding them is timed."""
    dataset = annex_repository(folder.parent / "dataset")
    for number in range(count):
        path = dataset / f"sub-{number // 100:03d}" / f"file-{number:06d}.bin"
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as file:
            for _ in range(max(size // _BLOCK, 1)):
                file.write(os.urandom(min(size, _BLOCK)))
    git = ("-C", str(dataset))
    seconds = timed(lambda: run_git(*git, "annex", "add", "-q", "-J", str(_JOBS), "."))
    run_git(*git, "commit", "-qm", "all")
    return seconds, {}


def _sha256sum(dataset: Path, count: int) -> list[str]:
    """Return the command; each process gets a tenth of the files, at least one."""
    files = f"find {dataset}/sub-* -name '*.bin' -print0"
    return ["sh", "-c", f"{files} | xargs -0 -P{_JOBS} -n{max(count // 10, 1)} sha256sum"]


CONTENDERS: dict[str, Callable[[Path, int], list[str]]] = {
    "neuromirror": lambda dataset, _: [sys.executable, "-m", "neuromirror", "verify", str(dataset)],
    "annex-fsck": lambda dataset, _: [
        *("git", "-C", str(dataset), "annex", "fsck", "-q", f"-J{_JOBS}")
    ],
    "sha256sum": _sha256sum,
}


def verify(folder: Path, count: int, *, what: str) -> tuple[float, dict[str, Any]]:
    """Return the median of whole commands; all files were read before."""
    dataset = folder.parent / "dataset"
    command = CONTENDERS[what](dataset, count)
    total = 0
    for path in dataset.glob("sub-*/*"):
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                total += len(block)

    def run() -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"bench: {what} failed: {done.stdout[-500:]}{done.stderr[-500:]}")

    seconds = median(lambda: timed(run))
    return seconds, {"mb_s": round(total / seconds / 1e6)}


@click.command("verify")
@json_option
@click.option("--files", type=int, default=5000, show_default=True, help="Small files.")
@click.option("--kib", type=int, default=64, show_default=True, help="KiB in each of those.")
@click.option("--large", type=int, default=20, show_default=True, help="Large files.")
@click.option("--mib", type=int, default=256, show_default=True, help="MiB in each of those.")
def verify_bench(files: int, kib: int, large: int, mib: int, *, as_json: bool) -> None:
    """Verify local content: neuromirror, git annex fsck, sha256sum."""
    sizes = [(files, kib << 10, f"files of {kib} KiB"), (large, mib << 20, f"files of {mib} MiB")]
    report(_lines(sizes), as_json=as_json)


def _lines(sizes: list[tuple[int, int, str]]) -> Iterator[dict[str, Any]]:
    for count, size, of in sizes:
        if not count:
            continue
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            folder = Path(name)
            in_own_process("verify", "made", partial(make_dataset, size=size), count, folder)
            for what in CONTENDERS:
                run = partial(verify, what=what)
                yield in_own_process("verify", what, run, count, folder) | {"of": of}
            # git-annex keeps its objects from being removed by chance
            subprocess.run(["chmod", "-R", "u+w", str(folder / "dataset")], check=True)
