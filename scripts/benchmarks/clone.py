"""The benchmark ``clone``: clone over HTTP, as minted, after housekeeping, and as packed by git."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click

from benchmarks.common import (
    Contender,
    header,
    in_own_process,
    report,
    run_git,
    sizes_option,
    write_fast_import,
)
from benchmarks.mint import mint_neuromirror
from neuromirror.model import DatasetRef
from neuromirror.store import HousekeepingPolicy, Repository, Store, run_housekeeping

REPEATS = 3
MINTED = "neuromirror, as minted"


def _dataset() -> DatasetRef:
    return header().version.dataset


def make_neuromirror(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Mint a repository, and a copy after housekeeping; housekeeping is timed."""
    made = folder.parent / "made"
    work = folder / "mint"
    work.mkdir()
    mint_neuromirror(work, count)
    shutil.move(work / "repository", made / MINTED)
    store = Store.open(folder / "store", create=True)
    repository = store.repository(_dataset())
    repository.path.parent.mkdir(parents=True)
    shutil.copytree(made / MINTED, repository.path)
    store.alias(_dataset())
    begin = time.perf_counter()
    (kept,) = run_housekeeping(store, policy=HousekeepingPolicy(max_bytes=1))
    seconds = time.perf_counter() - begin
    if kept.status != "ok":
        raise SystemExit(f"bench: housekeeping did nothing: {kept.message}")
    shutil.move(repository.path, made / "neuromirror")
    return seconds, {"mb": round(kept.bytes_after / 1e6, 1)}


def make_fast_import(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Import the same content with ``git fast-import`` and ``git gc``; the gc is timed."""
    repository = folder.parent / "made" / "fast-import+gc"
    run_git("init", "-q", "--bare", "-b", "main", str(repository))
    write_fast_import(repository, folder / "stream", count)
    begin = time.perf_counter()
    run_git("-C", str(repository), "gc", "-q")
    seconds = time.perf_counter() - begin
    run_git("-C", str(repository), "update-server-info")
    return seconds, {}


def clone(folder: Path, count: int) -> tuple[float, dict[str, Any]]:
    """Clone the repository in the folder; return seconds and transferred MB."""
    source = folder.parent / "made" / folder.name
    environment = {**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    times = []
    with served(source) as (url, sent):
        for number in range(REPEATS):
            target = folder / f"clone-{number}"
            before = sent.value
            begin = time.perf_counter()
            subprocess.run(
                ["git", "clone", "-q", "--bare", url, str(target)], check=True, env=environment
            )
            times.append(time.perf_counter() - begin)
            wire = sent.value - before
            if Repository(target).refs() != Repository(source).refs():
                raise SystemExit(f"bench: the clone of {folder.name} has other refs")
            shutil.rmtree(target)
    return statistics.median(times), {"mb": round(wire / 1e6, 1), "best": round(min(times), 3)}


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, Any]]:
    """Serve a folder in a separate process; yield the address and the bytes sent so far."""
    context = get_context("spawn")
    sent = context.Value("Q", 0)
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(folder, sent, theirs), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}/", sent
    finally:
        process.terminate()
        process.join()


def _serve(folder: Path, sent: Any, pipe: Any) -> None:
    os.setsid()  # a separate session, which is not counted: see benchmarks.memory
    handler = partial(_Static, sent, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        pipe.send(server.server_address[1])
        server.serve_forever()


class _Static(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, sent: Any, *args: Any, **options: Any) -> None:
        self._sent = sent
        super().__init__(*args, **options)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def copyfile(self, source: Any, outputfile: Any) -> None:
        while block := source.read(1 << 20):
            outputfile.write(block)
            with self._sent.get_lock():
                self._sent.value += len(block)


CONTENDERS = ("neuromirror", MINTED, "fast-import+gc")
MAKERS = {"neuromirror": "housekeeping", "fast-import+gc": "gc"}


@click.command("clone")
@sizes_option(200_000)
def clone_bench(files: tuple[int, ...], *, as_json: bool, write: bool) -> None:
    """Clone bare repositories over HTTP: minted, after housekeeping, and packed by git."""
    report("clone", _lines(files), as_json=as_json, write=write)


def _lines(sizes: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """Yield the lines of all programs; ``packed_s`` is the time of housekeeping or gc before."""
    makers: dict[str, Contender] = {"housekeeping": make_neuromirror, "gc": make_fast_import}
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            folder = Path(name)
            (folder / "made").mkdir()
            packed = {
                what: in_own_process("clone", what, make, size, folder)["seconds"]
                for what, make in makers.items()
            }
            for what in CONTENDERS:
                line = in_own_process("clone", what, clone, size, folder)
                yield {**line, "packed_s": packed.get(MAKERS.get(what, ""), 0)}
