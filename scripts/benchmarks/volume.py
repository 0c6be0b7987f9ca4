"""The benchmark ``volume``: get, cut out and export blocks of a BOSS, and crawl a large channel.

The BOSS encodes each cut-out on request.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import click

from benchmarks.common import Contender, report, run_contenders
from benchmarks.servers import expect, in_separate_process, server_process, sync_once, timed
from benchmarks.volume_server import BLOCK, LARGE
from neuromirror.crawl import Mirror, load_mirrors

NDPULL = 16
"""Slices per cut-out of ndpull."""

SLICES = BLOCK[2]
LARGE_CHUNK = (512, 512, 16)
_BLOSC = "application/blosc"

Ranges = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


@contextmanager
def boss_server(folder: Path, blocks: int) -> Iterator[str]:
    """Run a BOSS in its own process; yield its address."""
    with server_process("benchmarks.volume_server", str(blocks), str(folder)) as line:
        yield json.loads(line)["api"]


def mirrored(folder: Path, api: str, *settings: str) -> Mirror:
    """Return a mirror of one channel."""
    mirrors = folder / "mirrors"
    mirrors.mkdir()
    lines = ['source = "boss"', "[options]", f'api = "{api}"', *settings]
    (mirrors / "bench.toml").write_text("\n".join([*lines, ""]))
    return load_mirrors(mirrors)["bench"]


def store_of_blocks(folder: Path, api: str) -> Path:
    """Create a store with the channel's blocks and their sha256."""
    mirror = mirrored(folder, api, 'include = ["bench/bench/em"]', 'hash = "fetch"', "workers = 2")
    sync_once(mirror, folder / "store", "bench:bench/bench/em")
    return folder / "store"


def cut_out(api: str, ranges: Ranges, accepted: str) -> bytes:
    """Return the body of a cut-out."""
    import requests

    (x0, x1), (y0, y1), (z0, z1) = ranges
    url = f"{api}/v1/cutout/bench/bench/em/0/{x0}:{x1}/{y0}:{y1}/{z0}:{z1}/"
    reply = requests.get(url, headers={"Accept": accepted}, timeout=600)
    reply.raise_for_status()
    return reply.content


def cpu(run: Callable[[], Any]) -> tuple[float, dict[str, Any]]:
    """Return the seconds of a call, and the CPU seconds of this process and its children."""
    both = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)

    def used() -> float:
        return sum(sum(resource.getrusage(who)[:2]) for who in both)

    before = used()
    seconds = timed(run)
    return seconds, {"cpu_s": round(used() - before, 2)}


# --- export


def export_ours(folder: Path, count: int, *, store: Path) -> tuple[float, dict[str, Any]]:
    """Time ``neuromirror export`` of a version: fetch, check, write, sync to disk."""
    import tifffile  # noqa: F401
    import zarr  # noqa: F401

    from neuromirror.volume import export

    box = ((0, BLOCK[0]), (0, BLOCK[1]), (0, SLICES))
    out = folder / "out"
    figures = cpu(lambda: export("bench:bench/bench/em", out, box=box, store=store))
    expect(len(list(out.glob("*.tif"))) == count, "slices are missing")
    return figures


def export_ndpull(
    folder: Path, count: int, *, api: str, compression: str | None
) -> tuple[float, dict[str, Any]]:
    """Time ndpull's method: 16 slices per cut-out, four threads along x, one TIFF per slice."""
    import blosc
    import numpy as np
    import tifffile

    def cut(xs: tuple[int, int], zs: tuple[int, int]) -> Any:
        body = blosc.decompress(cut_out(api, (xs, (0, BLOCK[1]), zs), _BLOSC))
        return np.frombuffer(body, np.uint8).reshape(zs[1] - zs[0], BLOCK[1], xs[1] - xs[0])

    def pull() -> None:
        for z in range(0, SLICES, NDPULL):
            slices = np.zeros((NDPULL, BLOCK[1], BLOCK[0]), np.uint8)
            with ThreadPool(4) as pool:
                for found in pool.map(partial(cut, zs=(z, z + NDPULL)), [(0, BLOCK[0])]):
                    slices[:, :, :] = found
            for number, plane in enumerate(slices):
                name = f"bench_bench_em_x0-{BLOCK[0]}_y0-{BLOCK[1]}_z{z + number:02d}.tif"
                tifffile.imwrite(
                    folder / name,
                    plane,
                    metadata={"DocumentName": name},
                    compression=compression,
                    compressionargs={"level": 6} if compression else None,
                )

    figures = cpu(pull)
    expect(len(list(folder.glob("*.tif"))) == count, "slices are missing")
    return figures


# --- blocks


def clone_of(store: Path, folder: Path) -> Path:
    """Clone without content."""
    clone = folder / "clone"
    alias = store / "alias" / "bench--bench--bench--em"
    subprocess.run(["git", "clone", "-q", str(alias), str(clone)], check=True)
    allowed = "annex.security.allowed-ip-addresses"
    subprocess.run(["git", "-C", str(clone), "config", allowed, "127.0.0.1"], check=True)
    subprocess.run(["git", "-C", str(clone), "annex", "init", "-q"], check=True)
    return clone


def get_blocks(
    folder: Path, count: int, *, store: Path, command: tuple[str, ...]
) -> tuple[float, dict[str, Any]]:
    """Get blocks of a clone with a command: fetch, check, store in the annex."""
    clone = clone_of(store, folder)
    blocks = [f"0/c/0/0/{x}" for x in range(count)]
    figures = cpu(
        lambda: subprocess.run(
            [*command, *blocks], cwd=clone, check=True, stdout=subprocess.DEVNULL
        )
    )
    here = sum(path.stat().st_size for path in (clone / "0" / "c").rglob("*") if path.is_file())
    expect(here == count * BLOCK[0] * BLOCK[1] * BLOCK[2], "blocks are missing")
    return figures


def export_blocks(folder: Path, count: int, *, store: Path) -> tuple[float, dict[str, Any]]:
    """Time ``neuromirror export`` of as many blocks, as a command."""
    box = f"0:{count * BLOCK[0]},0:{BLOCK[1]},0:{BLOCK[2]}"
    program = [sys.executable, "-m", "neuromirror", "--store", str(store), "export"]
    given = ["bench:bench/bench/em", "--box", box, "-o", str(folder / "out")]
    figures = cpu(lambda: subprocess.run([*program, *given], check=True, stdout=subprocess.DEVNULL))
    expect(len(list((folder / "out").glob("*.tif"))) == BLOCK[2], "slices are missing")
    return figures


def intern_cutout(
    folder: Path,
    count: int,
    *,
    api: str,
    parallel: bool,
    chunk: tuple[int, int, int],
    save: bool = False,
) -> tuple[float, dict[str, Any]]:
    """Time intern's own get_cutout of the same region, block by block, each into an array.

    ``parallel`` starts as many processes as there are CPUs; ``chunk`` is the largest cut-out.
    ``save`` hashes each array with sha256 and writes it to disk, as the other programs do.
    """
    from intern.remote.boss import BossRemote
    from intern.resource.boss.resource import ChannelResource

    host = api.partition("://")[2]
    remote = BossRemote({"protocol": "http", "host": host, "token": "public"})
    channel = ChannelResource("em", "bench", "bench", type="image", datatype="uint8")

    def cut() -> None:
        for number in range(count):
            xs = [number * BLOCK[0], (number + 1) * BLOCK[0]]
            more = {"parallel": parallel, "chunk_size": chunk}
            found = remote.get_cutout(channel, 0, xs, [0, BLOCK[1]], [0, BLOCK[2]], **more)
            expect(found.shape == BLOCK[::-1], "intern gave another region")
            if save:
                hashlib.sha256(found).hexdigest()
                with (folder / f"{number}.raw").open("wb") as file:
                    found.tofile(file)
                    os.fsync(file.fileno())

    return cpu(cut)


_INTERN_PROGRAM = """\
import sys
from intern.remote.boss import BossRemote
from intern.resource.boss.resource import ChannelResource

host, count, wide, high, deep, *chunk = sys.argv[1:]
remote = BossRemote({"protocol": "http", "host": host, "token": "public"})
channel = ChannelResource("em", "bench", "bench", type="image", datatype="uint8")
wide, high, deep = int(wide), int(high), int(deep)
for number in range(int(count)):
    xs = [number * wide, (number + 1) * wide]
    found = remote.get_cutout(
        channel, 0, xs, [0, high], [0, deep], parallel=False, chunk_size=tuple(map(int, chunk))
    )
    assert found.shape == (deep, high, wide)
"""


def intern_program(
    folder: Path, count: int, *, api: str, chunk: tuple[int, int, int]
) -> tuple[float, dict[str, Any]]:
    """Time the same as a program, from start to exit, as neuromirror's commands are timed."""
    host = api.partition("://")[2]
    given = [host, *map(str, (count, *BLOCK, *chunk))]
    program = [sys.executable, "-c", _INTERN_PROGRAM, *given]
    return cpu(lambda: subprocess.run(program, check=True, stdout=subprocess.DEVNULL))


# --- crawl


def crawl(folder: Path, count: int, *, api: str) -> tuple[float, dict[str, Any]]:
    """Time a first visit of a channel of the size of kasthuri11's, without reading blocks."""
    return in_separate_process(_crawl, folder, api, count)


def _crawl(folder: Path, api: str, count: int) -> float:
    mirror = _large(folder, api)
    seconds = timed(partial(sync_once, mirror, folder / "store"), status="ok")
    from neuromirror.index import Index
    from neuromirror.store import Store

    with Index.open_readonly(Store.open(folder / "store").index_path) as index:
        files = index.resolve("bench:bench/large/em").files
    expect(files == count, f"{files} blocks were mirrored, not {count}")
    return seconds


def crawl_unchanged(folder: Path, count: int, *, api: str) -> tuple[float, dict[str, Any]]:
    """Time the next visit, when nothing has changed."""
    mirror = _large(folder, api)
    sync_once(mirror, folder / "store")
    return in_separate_process(_unchanged_seconds, mirror, folder / "store")


def _unchanged_seconds(mirror: Mirror, store: Path) -> float:
    return timed(partial(sync_once, mirror, store), status="notneeded")


def _large(folder: Path, api: str) -> Mirror:
    block = f"block = {list(LARGE_CHUNK)}"
    return mirrored(folder, api, 'include = ["bench/large/em"]', 'hash = "none"', block)


@click.command("volume")
@click.option("--write", is_flag=True, help="Update docs/explanation/benchmarks.md.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.option(
    "--blocks",
    default=4,
    show_default=True,
    type=click.IntRange(1),
    help="Blocks of 256 MiB in the channel that is got and cut out.",
)
def volume_bench(blocks: int, *, as_json: bool, write: bool) -> None:
    """Get, cut out and export blocks of a BOSS; crawl a channel of the size of kasthuri11's."""
    report("volume", _lines(blocks), as_json=as_json, write=write)


def _lines(blocks: int) -> Iterator[dict[str, Any]]:
    folder = Path(tempfile.mkdtemp(prefix="bench-volume-"))
    try:
        with boss_server(folder / "boss", blocks) as api:
            started = time.monotonic()
            store = store_of_blocks(folder, api)
            click.echo(f"ready after {time.monotonic() - started:.0f} s", err=True)
            yield from _group(
                "TIFF stack of 2048 x 2048 x 64",
                SLICES,
                SLICES / 256,
                {
                    "neuromirror": partial(export_ours, store=store),
                    "ndpull": partial(export_ndpull, api=api, compression="zlib"),
                    "ndpull, not compressing": partial(export_ndpull, api=api, compression=None),
                },
            )
            program = (sys.executable, "-m", "neuromirror", "get")
            contenders = {
                "neuromirror": partial(
                    get_blocks, store=store, command=("git", "annex", "get", "-J4", "--quiet")
                ),
                "neuromirror get": partial(get_blocks, store=store, command=program),
                "neuromirror export": partial(export_blocks, store=store),
                "intern, sequential": partial(
                    intern_cutout, api=api, parallel=False, chunk=(512, 512, 64)
                ),
                "intern, sequential, hashed and saved": partial(
                    intern_cutout, api=api, parallel=False, chunk=(512, 512, 64), save=True
                ),
                "intern, whole": partial(intern_cutout, api=api, parallel=False, chunk=BLOCK),
                "intern, sequential, start to exit": partial(
                    intern_program, api=api, chunk=(512, 512, 64)
                ),
                "intern, whole, start to exit": partial(intern_program, api=api, chunk=BLOCK),
                "intern, parallel": partial(
                    intern_cutout, api=api, parallel=True, chunk=(512, 512, 96)
                ),
            }
            for count in sorted({1, blocks}):
                of = "one block of 256 MiB" if count == 1 else f"{count} blocks of 256 MiB"
                yield from _group(of, count, 1 / 256, contenders)
            grid = 1
            for size, chunk in zip(LARGE, LARGE_CHUNK, strict=True):
                grid *= -(-size // chunk)
            yield from _group(
                "crawl without hashing",
                grid,
                None,
                {
                    "neuromirror": partial(crawl, api=api),
                    "neuromirror again": partial(crawl_unchanged, api=api),
                },
            )
    finally:
        shutil.rmtree(folder)


def _group(
    of: str, count: int, each: float | None, contenders: dict[str, Contender]
) -> Iterator[dict[str, Any]]:
    """Return the lines of one task; ``each`` is the number of counted items per MiB of voxels."""
    lines = []
    for line in run_contenders("volume", contenders, [count], {}):
        rate = round(count / line["seconds"], 2)
        more = {} if each is None else {"mib_per_s": round(rate / each)}
        lines.append({**line, "of": of, "per_s": rate, **more})
    for line in lines:
        yield line | _speed_of_intern(line, lines)


def _speed_of_intern(line: dict[str, Any], lines: list[dict[str, Any]]) -> dict[str, float]:
    """Return how many times as fast as intern's fastest way a command of neuromirror is."""
    if not line["what"].startswith("neuromirror"):
        return {}
    fastest: dict[str, float] = {}
    for one in lines:
        if one["what"].startswith("intern") and not one["what"].endswith("saved"):
            name = "of_program" if one["what"].endswith("start to exit") else "of_intern"
            fastest[name] = min(one["seconds"], fastest.get(name, math.inf))
    return {name: round(seconds / line["seconds"], 2) for name, seconds in fastest.items()}
