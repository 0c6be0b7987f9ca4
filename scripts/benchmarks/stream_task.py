"""One task of the benchmark ``stream`` with one program: arguments are ``TASK WHAT JSON``.

Run by the Python of the program's environment, of which this file is the only module of ours.
Imports are done before the time starts. Prints one line of JSON: seconds, digest of what was read,
peak memory.
"""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

SERIES: Final = "position"
"""The series that the task ``open`` reads."""

RANDOM_READS: Final = 200
RANDOM_BYTES: Final = 64 << 10
_SEQUENTIAL: Final = 1 << 20

Case = dict[str, Any]


# --- files, as programs open them


def _neuromirror_file(case: Case) -> Any:
    import neuromirror

    return neuromirror.open(case["version"], case["path"], store=case["store"])


def _remfile_file(case: Case) -> Any:
    import remfile

    return remfile.File(case["url"])


def _fsspec_file(case: Case) -> Any:
    import fsspec

    return fsspec.filesystem("http").open(case["url"], "rb")


def _downloaded_file(case: Case) -> Any:
    target = Path(case["folder"]) / "downloaded"
    subprocess.run(["curl", "-sf", "-o", str(target), case["url"]], check=True)
    return target.open("rb")


FILES: Final[dict[str, Callable[[Case], Any]]] = {
    "neuromirror": _neuromirror_file,
    "neuromirror, second": _neuromirror_file,
    "remfile": _remfile_file,
    "fsspec": _fsspec_file,
    "curl": _downloaded_file,
}


# --- tasks


def _open(case: Case, what: str) -> bytes:
    """Open the NWB file with pynwb, and read one series of 1 MB."""
    import h5py
    from pynwb import NWBHDF5IO

    if what == "lindi":
        import lindi

        client = lindi.LindiH5pyFile.from_hdf5_file(case["url"])
        with NWBHDF5IO(file=client, mode="r") as io:
            return io.read().acquisition[SERIES].data[:].tobytes()
    with (
        closing(FILES[what](case)) as file,
        h5py.File(file, "r") as hdf5,
        NWBHDF5IO(file=hdf5, mode="r") as io,
    ):
        return io.read().acquisition[SERIES].data[:].tobytes()


def _sequential(case: Case, what: str) -> bytes:
    """Read the whole file in order."""
    if what == "curl":
        _downloaded_file(case).close()
        return _digest_of_file(Path(case["folder"]) / "downloaded")
    digest = hashlib.sha256()
    with closing(FILES[what](case)) as file:
        for start in range(0, case["size"], _SEQUENTIAL):  # remfile fails at the end
            digest.update(file.read(min(_SEQUENTIAL, case["size"] - start)))
    return digest.digest()


def _digest_of_file(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _random(case: Case, what: str) -> bytes:
    """Read parts of 64 KiB at random offsets."""
    offsets = random.Random(64)
    parts = []
    with closing(FILES[what](case)) as file:
        for _ in range(RANDOM_READS):
            file.seek(offsets.randrange(case["size"] - RANDOM_BYTES))
            parts.append(file.read(RANDOM_BYTES))
    return b"".join(parts)


def _zarr(case: Case, what: str) -> bytes:
    """Read an array of 1,000 chunks."""
    import zarr

    store: Any
    if what == "neuromirror":
        import neuromirror

        array = neuromirror.open_zarr(case["version"], case["zarr"], store=case["store"])
        return bytes(array[:].tobytes())
    if what == "s3fs":
        import s3fs
        from zarr.storage import FsspecStore

        given = {"endpoint_url": case["endpoint"]}
        files = s3fs.S3FileSystem(anon=True, client_kwargs=given, asynchronous=True)
        store = FsspecStore(files, path=f"{case['bucket']}/{case['zarr_key']}")
    else:
        from obstore.store import S3Store
        from zarr.storage import ObjectStore

        store = ObjectStore(
            S3Store(
                case["bucket"],
                prefix=case["zarr_key"],
                endpoint=case["endpoint"],
                region="us-east-1",
                skip_signature=True,
                virtual_hosted_style_request=False,
                client_options={"allow_http": True},
            ),
            read_only=True,
        )
    return bytes(zarr.open_array(store, mode="r")[:].tobytes())


TASKS: Final = {"open": _open, "sequential": _sequential, "random": _random, "zarr": _zarr}
_IMPORTS: Final = {
    "neuromirror": ("neuromirror",),
    "s3fs": ("s3fs", "zarr.storage"),
    "obstore": ("obstore.store", "zarr.storage"),
    "fsspec": ("fsspec", "aiohttp"),
    "curl": (),
}
_TASK_IMPORTS: Final = {"open": ("h5py", "pynwb"), "zarr": ("zarr", "zarr.storage")}


def _peak_mb() -> int:
    """Return the peak memory of this process; that of `getrusage` includes the parent's."""
    status = Path("/proc/self/status").read_text()
    return round(int(status.partition("VmHWM:")[2].split()[0]) / 1024)


def main(task: str, what: str, case: Case) -> None:
    """Do a task; print the result."""
    for name in (*_IMPORTS.get(what.partition(",")[0], (what,)), *_TASK_IMPORTS.get(task, ())):
        __import__(name)
    if what.startswith("neuromirror"):
        # the modules are imported on first use of a name
        import neuromirror

        getattr(neuromirror, "open_zarr" if task == "zarr" else "open")
    begin = time.perf_counter()
    cpu = time.process_time()
    got = TASKS[task](case, what)
    seconds = time.perf_counter() - begin
    cpu = time.process_time() - cpu
    digest = got if task == "sequential" else hashlib.sha256(got).digest()
    line = {
        "seconds": seconds,
        "cpu_s": round(cpu, 2),
        "digest": digest.hex(),
        "peak_mb": _peak_mb(),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
