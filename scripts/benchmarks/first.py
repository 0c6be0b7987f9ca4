"""The bench ``first``: a dandiset that is new to this machine, cloned with all its files."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from benchmarks.common import ROOT, in_own_process, report
from benchmarks.first_server import DANDISET, SMALL
from benchmarks.servers import server_process

_GIT_CONFIG: Final = '[annex "security"]\n\tallowed-ip-addresses = 127.0.0.1\n'
_FIRST_FILE: Final = "sub-000/file-00000.nwb"


@dataclass(frozen=True, slots=True)
class FirstCase:
    """Task of a contender: a published version, and a store that has it for those that need one."""

    api: str
    mirrors: Path
    version: str
    store: Path

    @property
    def name(self) -> str:
        """The name of the version."""
        return f"demo:{DANDISET}@{self.version}"


@click.command("first")
@click.option("--write", is_flag=True, help="Update docs/explanation/benchmarks.md.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.option("--files", default=1000, show_default=True, help="Number of files, of 64 KiB each.")
@click.option(
    "--install",
    is_flag=True,
    help="Also install this checkout with pip into an empty environment, with pip's cache, and get "
    "one file.",
)
def first_bench(files: int, *, install: bool, as_json: bool, write: bool) -> None:
    """From an address to the verified files of a dandiset that is new to this machine."""
    report("first", _lines(files, install), as_json=as_json, write=write)


def _lines(files: int, install: bool) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with _served(folder / "archive", files) as case:
            for of, contenders in CONTENDERS.items():
                for what, run in contenders.items():
                    line = in_own_process("first", what, partial(_timed, run, case), files, folder)
                    yield {**line, "of": f"{files:,} files of {SMALL >> 10} KiB, {of}"}
            if install:
                line = in_own_process("first", "neuromirror", partial(_installed, case), 1, folder)
                yield {**line, "of": "pip install, and one file"}
        subprocess.run(["chmod", "-R", "u+w", name], check=True)


@contextmanager
def _served(folder: Path, files: int) -> Iterator[FirstCase]:
    """Serve the dandiset, which is also mirrored into a store."""
    with server_process("benchmarks.first_server", str(folder), str(files)) as line:
        about: Mapping[str, Any] = json.loads(line)
        case = FirstCase(
            about["dandi"]["api"], Path(about["mirrors"]), about["version"], folder / "store"
        )
        _run(*_neuromirror_command(case, case.store), "sync", f"demo:{DANDISET}")
        yield case


def _timed(
    run: Callable[[FirstCase, Path], Path], case: FirstCase, folder: Path, count: int
) -> tuple[float, dict[str, Any]]:
    """Have a contender get everything; hash what it got afterwards."""
    (folder / ".gitconfig").write_text(_GIT_CONFIG)
    os.sync()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.perf_counter()
    got = run(case, folder)
    seconds = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # a file that was not downloaded is a link to nothing
    digests = {
        hashlib.sha256(path.read_bytes()).hexdigest()
        for path in got.glob("sub-*/*")
        if path.exists()
    }
    if len(digests) != count:
        raise SystemExit(f"bench: {folder.name} got {len(digests)} of the {count} files")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, {"cpu_s": round(cpu, 2)}


def _neuromirror_command(case: FirstCase, store: Path, program: str = "") -> list[str]:
    chosen = program or str(Path(sys.executable).with_name("neuromirror"))
    return [chosen, "--mirrors", str(case.mirrors), "--store", str(store)]


def _neuromirror(case: FirstCase, folder: Path, store: Path | None = None) -> Path:
    """Mirrors the dandiset into a new store, too, unless a store is given."""
    target = folder / "clone"
    command = _neuromirror_command(case, store or folder / "store")
    _run(*command, "clone", case.name, str(target), "--get", "sub-*")
    return target


def _stored(case: FirstCase, folder: Path) -> Path:
    """Clones from a store that has the dandiset."""
    return _neuromirror(case, folder, case.store)


def _datalad(case: FirstCase, folder: Path) -> Path:
    """Clones from a store that has the dandiset."""
    target = folder / "clone"
    url = f"ria+file://{case.store}#~demo--{DANDISET}@{case.version}"
    _run("datalad", "-l", "error", "clone", url, str(target))
    _run("datalad", "-l", "error", "get", "-J8", ".", folder=target)
    return target


def _dandi(case: FirstCase, folder: Path) -> Path:
    """Downloads from the archive; dandi verifies sizes and checksums."""
    url = f"{case.api}/dandisets/{DANDISET}/versions/{case.version}/"
    _run("dandi", "download", "-J", "8", "-o", str(folder), url)
    return folder / DANDISET


def _installed(case: FirstCase, folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Two commands in an empty environment: install this checkout, and get one verified file."""
    (folder / ".gitconfig").write_text(_GIT_CONFIG)
    environment = folder / "environment"
    _run(sys.executable, "-m", "venv", str(environment))
    programs = environment / "bin"
    cache = subprocess.run(["pip", "cache", "dir"], capture_output=True, text=True, check=True)
    begin = time.perf_counter()
    _run(str(programs / "pip"), "--cache-dir", cache.stdout.strip(), "install", str(ROOT))
    installed = time.perf_counter()
    command = _neuromirror_command(case, folder / "store", str(programs / "neuromirror"))
    address = f"{case.api}/dandisets/{DANDISET}/versions/{case.version}/assets/?path={_FIRST_FILE}"
    _run(*command, "get", address, "--into", str(folder / "got"))
    end = time.perf_counter()
    if (folder / "got" / _FIRST_FILE).stat().st_size != SMALL:
        raise SystemExit("bench: the first file has another size")
    return end - begin, {"install_s": round(installed - begin, 2)}


def _run(*command: str, folder: Path | None = None) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"bench: {command[0]} failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")


CONTENDERS: Final = {
    "of a dandiset in the store": {"neuromirror": _stored, "datalad-get": _datalad},
    "of a new dandiset": {"neuromirror": _neuromirror, "dandi-download": _dandi},
}
