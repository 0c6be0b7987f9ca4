"""The benchmark ``volume``: get, cut out and export blocks of a BOSS, and crawl a large channel."""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import click

from benchmarks.common import (
    Contender,
    expect,
    in_separate_process,
    json_option,
    report,
    run_contenders,
    timed,
    with_cpu,
)
from benchmarks.servers import count_files, in_server_process, mirror_of, sync_once
from benchmarks.volume_server import BLOCK, EDGE_BLOCK, EDGES, LARGE, VolumeBoss
from neuromirror.crawl import Mirror

_CHANNEL = "bench:bench/bench/em"
_EDGES = "bench:bench/edges/em"
_NDPULL_SLICES = 16
"""Slices per cut-out of ndpull."""
_LARGE_CHUNK = (512, 512, 16)

Triple = tuple[int, int, int]


def mirrored(folder: Path, api: str, *settings: str) -> Mirror:
    """Return a mirror with these settings."""
    lines = ['source = "boss"', "[options]", f'api = "{api}"', *settings, ""]
    return mirror_of(folder / "mirrors", "\n".join(lines))


# --- export


def export_ours(folder: Path, count: int, *, store: Path) -> tuple[float, dict[str, Any]]:
    """Time ``neuromirror export`` of a version: fetch, check, write, sync to disk."""
    import tifffile  # noqa: F401
    import zarr  # noqa: F401

    from neuromirror.volume import export

    box = ((0, BLOCK[0]), (0, BLOCK[1]), (0, BLOCK[2]))
    out = folder / "out"
    figures = with_cpu(lambda: export(_CHANNEL, out, box=box, store=store))
    expect(len(list(out.glob("*.tif"))) == count, "slices are missing")
    return figures


def export_ndpull(
    folder: Path, count: int, *, api: str, compression: str | None
) -> tuple[float, dict[str, Any]]:
    """Time ndpull's method: 16 slices per cut-out, four threads along x, one TIFF per slice."""
    import blosc
    import numpy as np
    import requests
    import tifffile

    def cut(xs: tuple[int, int], zs: tuple[int, int]) -> Any:
        ranges = f"{xs[0]}:{xs[1]}/0:{BLOCK[1]}/{zs[0]}:{zs[1]}"
        url = f"{api}/v1/cutout/bench/bench/em/0/{ranges}/"
        headers = {"Accept": "application/blosc"}
        body = blosc.decompress(requests.get(url, headers=headers, timeout=600).content)
        return np.frombuffer(body, np.uint8).reshape(zs[1] - zs[0], BLOCK[1], xs[1] - xs[0])

    def pull() -> None:
        for z in range(0, BLOCK[2], _NDPULL_SLICES):
            slices = np.zeros((_NDPULL_SLICES, BLOCK[1], BLOCK[0]), np.uint8)
            with ThreadPool(4) as pool:
                for found in pool.map(partial(cut, zs=(z, z + _NDPULL_SLICES)), [(0, BLOCK[0])]):
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

    figures = with_cpu(pull)
    expect(len(list(folder.glob("*.tif"))) == count, "slices are missing")
    return figures


# --- blocks


def clone_of(name: str, folder: Path, store: Path) -> Path:
    """Return a new clone of a channel."""
    clone = folder / "clone"
    alias = name.replace(":", "--").replace("/", "--")
    for prepare in (
        ["git", "clone", "-q", str(store / "alias" / alias), str(clone)],
        ["git", "-C", str(clone), "annex", "init", "-q"],
    ):
        subprocess.run(prepare, check=True)
    return clone


def get_blocks(
    folder: Path, count: int, *, store: Path, command: tuple[str, ...]
) -> tuple[float, dict[str, Any]]:
    """Get blocks of a clone with a command: fetch, check, store in the annex."""
    clone = clone_of(_CHANNEL, folder, store)
    blocks = [f"0/c/0/0/{x}" for x in range(count)]
    run = partial(subprocess.run, [*command, *blocks], cwd=clone, check=True)
    figures = with_cpu(lambda: run(stdout=subprocess.DEVNULL))
    here = sum(path.stat().st_size for path in (clone / "0" / "c").rglob("*") if path.is_file())
    expect(here == count * math.prod(BLOCK), "blocks are missing")
    return figures


def get_edges(
    folder: Path, count: int, *, store: Path, command: tuple[str, ...]
) -> tuple[float, dict[str, Any]]:
    """Get all blocks of a channel whose blocks at the edge are padded."""
    clone = clone_of(_EDGES, folder, store)
    figures = with_cpu(
        lambda: subprocess.run([*command, "0"], cwd=clone, check=True, stdout=subprocess.DEVNULL)
    )
    here = [path.stat() for path in (clone / "0" / "c").rglob("*") if path.is_file()]
    expect(len(here) == count, "blocks are missing")
    seconds, extra = figures
    return seconds, extra | {"disk_mb": sum(one.st_blocks for one in here) * 512 // 1_000_000}


def export_blocks(folder: Path, count: int, *, store: Path) -> tuple[float, dict[str, Any]]:
    """Time ``neuromirror export`` of as many blocks, as a command."""
    box = f"0:{count * BLOCK[0]},0:{BLOCK[1]},0:{BLOCK[2]}"
    command = [sys.executable, "-m", "neuromirror", "--store", str(store), "export"]
    command += [_CHANNEL, "--box", box, "-o", str(folder / "out")]
    figures = with_cpu(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))
    expect(len(list((folder / "out").glob("*.tif"))) == BLOCK[2], "slices are missing")
    return figures


_INTERN_PROGRAM = """\
import sys
from intern.remote.boss import BossRemote
from intern.resource.boss.resource import ChannelResource

host, experiment, parallel, *numbers = sys.argv[1:]
count, wide, high, deep, *chunk = map(int, numbers)
remote = BossRemote({"protocol": "http", "host": host, "token": "public"})
channel = ChannelResource("em", "bench", experiment, type="image", datatype="uint8")
for number in range(count):
    xs = [number * wide, (number + 1) * wide]
    how = {"parallel": parallel == "True", "chunk_size": tuple(chunk)}
    found = remote.get_cutout(channel, 0, xs, [0, high], [0, deep], **how)
    assert found.shape == (deep, high, wide)
"""


def intern(
    folder: Path, count: int, *, api: str, chunk: Triple, parallel: bool = False
) -> tuple[float, dict[str, Any]]:
    """Time intern's get_cutout of the same blocks, each into an array, from start to exit.

    ``parallel`` starts as many processes as there are CPUs; ``chunk`` is the largest cut-out.
    """
    return _run_intern(api, "bench", parallel, (count, *BLOCK, *chunk))


def intern_edges(
    folder: Path, count: int, *, api: str, chunk: Triple, parallel: bool = False
) -> tuple[float, dict[str, Any]]:
    """Time intern's get_cutout of the whole channel into one array."""
    return _run_intern(api, "edges", parallel, (1, *EDGES, *chunk))


def _run_intern(
    api: str, experiment: str, parallel: bool, numbers: tuple[int, ...]
) -> tuple[float, dict[str, Any]]:
    given = [api.partition("://")[2], experiment, str(parallel), *map(str, numbers)]
    program = [sys.executable, "-c", _INTERN_PROGRAM, *given]
    return with_cpu(lambda: subprocess.run(program, check=True, stdout=subprocess.DEVNULL))


# --- crawl


def crawl(
    folder: Path, count: int, *, api: str, again: bool = False
) -> tuple[float, dict[str, Any]]:
    """Time a first visit of a channel of the size of kasthuri11's, or the next one.

    Blocks are not read.
    """
    block = f"block = {list(_LARGE_CHUNK)}"
    mirror = mirrored(folder, api, 'include = ["bench/large/em"]', 'hash = "none"', block)
    if again:
        sync_once(mirror, folder / "store")
    seconds, peak = in_separate_process(_visit, mirror, folder / "store", again)
    files = count_files(folder / "store")
    expect(files == count, f"{files} blocks were mirrored, not {count}")
    return seconds, {"peak_mb": peak}


def _visit(mirror: Mirror, store: Path, again: bool) -> float:
    return timed(partial(sync_once, mirror, store), status="notneeded" if again else "ok")


_OURS = (sys.executable, "-m", "neuromirror", "get")
_ANNEX = ("git", "annex", "get", "-J4", "--quiet")


def edge_lines(folder: Path, api: str) -> Iterator[dict[str, Any]]:
    """Yield the lines of a channel whose blocks at the edge are padded."""
    store = folder / "edges"
    block = f"block = {list(EDGE_BLOCK)}"
    mirror = mirrored(folder, api, 'include = ["bench/edges/em"]', 'hash = "fetch"', block)
    sync_once(mirror, store, _EDGES)
    get: dict[str, Contender] = {
        "neuromirror": partial(get_edges, store=store, command=_OURS),
        "neuromirror, by git annex get": partial(get_edges, store=store, command=_ANNEX),
        "intern": partial(intern_edges, api=api, chunk=EDGES),
        "intern, sequential": partial(intern_edges, api=api, chunk=EDGE_BLOCK),
        "intern, parallel": partial(intern_edges, api=api, chunk=EDGE_BLOCK, parallel=True),
    }
    count = math.prod(-(-size // by) for size, by in zip(EDGES, EDGE_BLOCK, strict=True))
    mib = math.prod(EDGES) / (1 << 20)
    of = f"{count} blocks of {round(mib)} MiB of voxels, half padding"
    for line in run_contenders("volume", get, [count], {}):
        yield line | {"of": of, "mib_per_s": round(mib / line["seconds"])}


@click.command("volume")
@json_option
@click.option(
    "--blocks",
    default=4,
    show_default=True,
    type=click.IntRange(1),
    help="Blocks of 256 MiB in the channel that is got and cut out.",
)
def volume_bench(blocks: int, *, as_json: bool) -> None:
    """Get, cut out and export blocks of a BOSS; crawl a channel of the size of kasthuri11's."""
    report(_lines(blocks), as_json=as_json)


def _lines(blocks: int) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="bench-volume-") as name:
        folder = Path(name)
        store = folder / "store"
        with in_server_process(VolumeBoss, folder / "boss", blocks) as ask:
            api = ask("api")
            settings = 'include = ["bench/bench/em"]', 'hash = "fetch"', "workers = 2"
            sync_once(mirrored(folder, api, *settings), store, _CHANNEL)
            export: dict[str, Contender] = {
                "neuromirror": partial(export_ours, store=store),
                "ndpull": partial(export_ndpull, api=api, compression="zlib"),
                "ndpull, not compressing": partial(export_ndpull, api=api, compression=None),
            }
            of = "TIFF stack of 2048 x 2048 x 64"
            for line in run_contenders("volume", export, [BLOCK[2]], {}):
                yield line | {"of": of, "mib_per_s": round(256 / line["seconds"])}
            get: dict[str, Contender] = {
                "neuromirror": partial(get_blocks, store=store, command=_OURS),
                "neuromirror, by git annex get": partial(get_blocks, store=store, command=_ANNEX),
                "neuromirror export": partial(export_blocks, store=store),
                "intern": partial(intern, api=api, chunk=BLOCK),
                "intern, sequential": partial(intern, api=api, chunk=EDGE_BLOCK),
                "intern, parallel": partial(intern, api=api, chunk=EDGE_BLOCK, parallel=True),
            }
            for line in run_contenders("volume", get, sorted({1, blocks}), {}):
                of = f"{line['n']} x 256 MiB"
                yield line | {"of": of, "mib_per_s": round(256 * line["n"] / line["seconds"])}
            yield from edge_lines(folder, api)
            grid = math.prod(-(-size // by) for size, by in zip(LARGE, _LARGE_CHUNK, strict=True))
            visits: dict[str, Contender] = {
                "neuromirror": partial(crawl, api=api),
                "neuromirror again": partial(crawl, api=api, again=True),
            }
            for line in run_contenders("volume", visits, [grid], {}):
                yield line | {"of": "crawl without hashing"}
