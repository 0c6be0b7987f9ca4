"""The bench ``stream``: read parts of pinned files over HTTP, with several programs."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from benchmarks import stream_task
from benchmarks.bucket_server import BUCKET, Bucket
from benchmarks.common import MOMENT, commit, expect, json_option, machine, report
from benchmarks.servers import in_server_process

_VERSION: Final = "bench:bench"
_FILE: Final = "recording.nwb"
_ZARR: Final = "image.zarr"
_CHUNKS: Final = 1000
_CHUNK_SHAPE: Final = (128, 256)
_ROWS_PER_CHUNK: Final = 8192
_GIT_CONFIG: Final = '[annex "security"]\n\tallowed-ip-addresses = 127.0.0.1\n'

_ENVIRONMENTS: Final[Mapping[str, Sequence[str]]] = {
    "zarr3": ("remfile", "fsspec", "aiohttp", "h5py", "pynwb", "zarr>=3", "s3fs", "obstore"),
    "lindi": ("lindi", "h5py", "pynwb"),
}
"""Packages of other programs. Their requirements contradict each other and those of neuromirror."""

_CONTENDERS: Final[Mapping[str, Sequence[str]]] = {
    "open": ("neuromirror", "neuromirror, second", "remfile", "fsspec", "lindi", "curl"),
    "sequential": ("neuromirror", "remfile", "fsspec", "curl"),
    "random": ("neuromirror", "remfile", "fsspec"),
    "zarr": ("neuromirror", "s3fs", "obstore"),
}
"""The programs of each task. ``second`` reads again what the one before it has cached."""


@click.command("stream")
@json_option
@click.option("--mib", default=1024, show_default=True, help="MiB in the NWB file.")
@click.option(
    "--latency",
    "latencies",
    multiple=True,
    default=[0, 30],
    show_default=True,
    help="Milliseconds to the server and back; may be given several times.",
)
@click.option(
    "--task",
    "tasks",
    multiple=True,
    type=click.Choice(list(_CONTENDERS)),
    default=list(_CONTENDERS),
    help="Tasks; by default all.",
)
@click.option("--repeats", default=3, show_default=True, help="Runs of each; the best one counts.")
@click.option("--keep", type=click.Path(path_type=Path), help="Folder to keep the bucket in.")
def stream_bench(
    mib: int,
    latencies: tuple[int, ...],
    tasks: tuple[str, ...],
    repeats: int,
    keep: Path | None,
    *,
    as_json: bool,
) -> None:
    """Read parts of a large NWB file and a Zarr over HTTP, without downloading them."""
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as name:
        bench = _Bench(Path(name), keep or Path(name), repeats)
        report(bench.lines(mib, latencies, tasks), as_json=as_json)


class _Bench:
    """The bucket, and the environments of the programs."""

    def __init__(self, folder: Path, kept: Path, repeats: int) -> None:
        self._folder = folder
        self._bucket = kept / "bucket"
        self._repeats = repeats
        self._pythons: dict[str, Path] = {}

    def lines(
        self, mib: int, latencies: Sequence[int], tasks: Sequence[str]
    ) -> Iterator[dict[str, Any]]:
        """Yield the line of each program, task and latency."""
        self._pythons = {name: _environment(name) for name in _ENVIRONMENTS}
        done = self._bucket / "done"
        if not done.exists():
            shutil.rmtree(self._bucket, ignore_errors=True)
            make_bucket(self._bucket / BUCKET, mib)
            done.touch()
        for latency in latencies:
            with in_server_process(Bucket, self._bucket / BUCKET, latency) as ask:
                for task in tasks:
                    yield from self._contest(ask, latency, task)

    def _contest(
        self, ask: Callable[..., Any], latency: int, task: str
    ) -> Iterator[dict[str, Any]]:
        click.echo(f"{task}, {latency} ms away …", err=True)
        folder = self._folder / f"{task}-{latency}"
        folder.mkdir()
        case = self._case(folder, ask("address"), task)
        digests: dict[str, str] = {}
        kept_home = folder / "home"
        for what in _CONTENDERS[task]:
            best: dict[str, Any] | None = None
            for _ in range(self._repeats):
                if what != "neuromirror, second":
                    shutil.rmtree(kept_home, ignore_errors=True)
                    kept_home.mkdir()
                line = self._run(task, what, case, kept_home, ask)
                if best is None or line["seconds"] < best["seconds"]:
                    best = line
            assert best is not None
            digests[what] = best.pop("digest")
            expect(len(set(digests.values())) == 1, f"{what} read other bytes: {digests}")
            yield {
                "bench": "stream",
                "task": task,
                "latency_ms": latency,
                "what": what,
                **best,
                "commit": commit(),
                "machine": machine(),
            }

    def _run(
        self, task: str, what: str, case: Mapping[str, Any], home: Path, ask: Callable[..., Any]
    ) -> dict[str, Any]:
        """Run a task in a process of its own; return what it printed, and what it requested."""
        ask("clear")
        if what.startswith("neuromirror"):
            python = sys.executable
        else:
            python = str(self._pythons["lindi" if what == "lindi" else "zarr3"])
        done = subprocess.run(
            [python, "-P", str(Path(stream_task.__file__)), task, what, json.dumps(case)],
            env=_environment_of(home),
            capture_output=True,
            text=True,
            check=False,
        )
        (home / "downloaded").unlink(missing_ok=True)
        expect(not done.returncode, f"{what} failed in {task}: {done.stderr[-3000:]}")
        # lindi prints a warning at its end
        [printed] = [one for one in done.stdout.splitlines() if one.startswith("{")]
        line: dict[str, Any] = json.loads(printed)
        received = {"requests": ask("requests"), "mb": round(ask("bytes") / 1e6, 1)}
        return {**line, "seconds": round(line["seconds"], 3), **received}

    def _case(self, folder: Path, address: str, task: str) -> dict[str, Any]:
        """Mirror the bucket into a new store, and compute the block digests."""
        mirrors, store = folder / "mirrors", folder / "store"
        mirrors.mkdir()
        (mirrors / "bench.toml").write_text(
            f'source = "s3"\n[options]\nbucket = "{BUCKET}"\nendpoint = "{address}"\ndepth = 0\n'
        )
        home = folder / "maker"
        home.mkdir()
        case = {
            "version": _VERSION,
            "path": _FILE,
            "zarr": _ZARR,
            "zarr_key": _ZARR,
            "store": str(store),
            "mirrors": str(mirrors),
            "folder": str(folder / "home"),
            "url": f"{address}/{BUCKET}/{_FILE}",
            "endpoint": address,
            "bucket": BUCKET,
            "size": (self._bucket / BUCKET / _FILE).stat().st_size,
        }
        _neuromirror(case, home, "sync", "bench")
        if task != "zarr":
            size = ("--piece-size", "64KiB") if task == "random" else ()
            _neuromirror(case, home, "digest", _VERSION, _FILE, *size)
        return case


def make_bucket(folder: Path, mib: int) -> None:
    """Write the NWB file and the Zarr."""
    folder.mkdir(parents=True)
    _write_recording(folder / _FILE, mib)
    _write_image(folder / _ZARR, mib)


def _write_recording(path: Path, mib: int) -> None:
    """Write an NWB file in three steps, as a rig and an analysis do.

    First one large and 40 small series, then the samples of the large one, then another series,
    whose metadata and values are at the end of the file.
    """
    import h5py
    import numpy
    from hdmf.backends.hdf5.h5_utils import H5DataIO
    from pynwb import NWBHDF5IO, NWBFile, TimeSeries

    rng = numpy.random.default_rng(mib)
    channels, rows = 64, (mib << 20) // 128

    def series(name: str, data: Any, rate: float) -> Any:
        return TimeSeries(name=name, data=data, unit="V", rate=rate)

    nwb = NWBFile("bench", "bench-stream", MOMENT)
    chunks = (_ROWS_PER_CHUNK, channels)
    nothing = numpy.empty((0, channels), "<i2")
    nwb.add_acquisition(
        series("raw", H5DataIO(nothing, maxshape=(None, channels), chunks=chunks), 30_000.0)
    )
    for number in range(40):
        samples = rng.integers(0, 4096, 16_384, "<i2")
        nwb.add_acquisition(series(f"channel-{number:02d}", samples, 1000.0))
    with NWBHDF5IO(str(path), "w") as io:
        io.write(nwb)
    with h5py.File(path, "a") as file:
        data = file["acquisition/raw/data"]
        data.resize((rows, channels))
        for start in range(0, rows, _ROWS_PER_CHUNK):
            stop = min(rows, start + _ROWS_PER_CHUNK)
            data[start:stop] = rng.integers(-2048, 2048, (stop - start, channels), "<i2")
    with NWBHDF5IO(str(path), "a") as io:
        nwb = io.read()
        values = H5DataIO(rng.random((65_536, 2)), chunks=(4096, 2))
        nwb.add_acquisition(series(stream_task.SERIES, values, 50.0))
        io.write(nwb)


def _write_image(path: Path, seed: int) -> None:
    import numpy
    import zarr

    rows, columns = _CHUNK_SHAPE
    array = zarr.create_array(
        str(path),
        shape=(rows * _CHUNKS, columns),
        chunks=_CHUNK_SHAPE,
        dtype="<u2",
        compressors=None,
        zarr_format=2,
    )
    noise = random.Random(seed)
    for number in range(_CHUNKS):
        chunk = numpy.frombuffer(noise.randbytes(2 * rows * columns), "<u2")
        array[number * rows : (number + 1) * rows] = chunk.reshape(_CHUNK_SHAPE)


def _neuromirror(case: Mapping[str, Any], home: Path, *arguments: str) -> None:
    command = [str(Path(sys.executable).with_name("neuromirror"))]
    command += ["--mirrors", case["mirrors"], "--store", case["store"], *arguments]
    done = subprocess.run(
        command, env=_environment_of(home), capture_output=True, text=True, check=False
    )
    expect(not done.returncode, f"{' '.join(arguments)} failed: {done.stdout}{done.stderr}")


def _environment_of(home: Path) -> dict[str, str]:
    """Return the environment of a user without any configuration, except for git's addresses."""
    (home / ".gitconfig").write_text(_GIT_CONFIG)
    own = {"HOME": str(home), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    kept = ("PATH", "LANG", "TMPDIR")
    return {**{name: os.environ[name] for name in kept if name in os.environ}, **own}


def _environment(name: str) -> Path:
    """Return the Python of an environment with other programs; it is kept for the next run."""
    packages = _ENVIRONMENTS[name]
    digest = hashlib.sha256(json.dumps(packages).encode()).hexdigest()[:16]
    folder = Path.home() / ".cache" / "neuromirror-bench" / f"peers-{name}-{digest}"
    if not (folder / "done").exists():
        click.echo(f"installing {', '.join(packages)} …", err=True)
        venv.create(folder, clear=True, with_pip=True)
        subprocess.run([folder / "bin" / "pip", "install", "-q", *packages], check=True)
        (folder / "done").touch()
    return folder / "bin" / "python"
