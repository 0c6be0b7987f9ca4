"""Files, file systems and stores that are opened in one process are used in others."""

import multiprocessing
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import fsspec
import h5py
import numpy as np
import pytest
import zarr

from neuromirror import stream
from neuromirror.lab import PinRequest, pin
from neuromirror.stream.errors import StreamError
from neuromirror.volume import VersionStore
from support.file_parts import read_part
from support.mirror_harness import MirrorHarness
from support.pinned_locks import pin_latest
from support.range_server import RangeServer, ServedTree
from support.streamed_zarrs import StreamedZarrs

NWB = "sub-101/sub-101_ses-01_ecephys.nwb"
SECONDS = 100
FORK = multiprocessing.get_context("fork")
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def lock(demo_harness: MirrorHarness, tmp_path: Path) -> Path:
    return pin_latest(demo_harness, tmp_path / "datasets.lock", "demo:000001")


def in_fork(work: Callable[[], Any]) -> Any:
    """Return the result of a function in a forked process, as of a worker of a data loader."""
    receiver, sender = FORK.Pipe(duplex=False)

    def run() -> None:
        try:
            sender.send(work())
        except Exception as error:  # noqa: BLE001
            sender.send(f"{type(error).__name__}: {error}")

    process = FORK.Process(target=run)
    process.start()
    try:
        assert receiver.poll(SECONDS), "the forked process does not answer"
        return receiver.recv()
    finally:
        process.kill()
        process.join()


def read_and_close(file: Any, start: int, stop: int) -> bytes:
    part = read_part(file, start, stop)
    file.close()
    return part


def sum_of(array: Any) -> int:
    return int(np.asarray(array[...]).sum())


@pytest.mark.parametrize("form", ["store", "lock", "fsspec", "fsspec lock"])
def test_a_file_is_read_after_a_fork(demo_harness: MirrorHarness, lock: Path, form: str) -> None:
    with opened(demo_harness, lock, form) as file:
        expected = file.read()
        assert in_fork(lambda: read_and_close(file, 1000, 30_000)) == expected[1000:30_000]
        # the connections of this process are as before
        assert read_part(file, 0, 5000) == expected[:5000]


@pytest.mark.parametrize("form", ["store", "lock", "fsspec", "fsspec lock"])
def test_a_file_is_pickled_with_its_position(
    demo_harness: MirrorHarness, lock: Path, form: str
) -> None:
    with opened(demo_harness, lock, form) as file:
        file.seek(700)
        with pickle.loads(pickle.dumps(file)) as copy:
            assert copy.tell() == 700
            assert copy.read() == file.read()
            with h5py.File(copy, "r") as one:
                assert one.attrs["nwb_version"]


def test_a_file_whose_address_names_another_version_now_is_an_error(
    demo_harness: MirrorHarness, tmp_path: Path
) -> None:
    store, lock = demo_harness.folder, tmp_path / "datasets.lock"
    with demo_harness.index() as index:
        rows = list(index.versions.of("demo:000002"))
        before, after = ({one.path: one.key for one in index.files.of(row)} for row in rows[:2])
        path = next(one for one in before if after.get(one, before[one]) != before[one])
        old, new = (row.name for row in rows[:2])
    write_lock(lock, demo_harness, old)
    with stream.open(lock, path) as file, stream.open(old, path, store=store) as same:
        expected = same.read()
        pickled = pickle.dumps(file)
        write_lock(lock, demo_harness, new)
        found = in_fork(lambda: read_part(file, 0, 10))
        assert found.startswith(f"StreamError: {path} has other content")
        with pytest.raises(StreamError, match="names another version now"):
            pickle.loads(pickled)
        assert read_part(file, 0, len(expected)) == expected


def write_lock(lock: Path, mirror: MirrorHarness, version: str) -> None:
    lock.unlink(missing_ok=True)
    with mirror.index() as index:
        request = PinRequest(*version.split("@"))
        assert {one.status for one in pin(lock, [request], mirror.store, index)} == {"ok"}


def opened(mirror: MirrorHarness, lock: Path, form: str) -> Any:
    with mirror.index() as index:
        version = index.versions.resolve("demo:000001").name
    options = {"store": str(mirror.folder), "skip_instance_cache": True}
    if form == "store":
        return stream.open(version, NWB, store=mirror.folder)
    if form == "lock":
        return stream.open(lock, NWB)
    if form == "fsspec":
        return fsspec.open(f"neuromirror://{version}/{NWB}", **options).open()
    return fsspec.open(f"lock://{lock}/{NWB}", skip_instance_cache=True).open()


def test_a_file_of_an_open_version_is_an_error_in_another_process() -> None:
    content = os.urandom(1 << 20)
    with RangeServer({"/x": content}) as web:
        tree = ServedTree()
        tree.add("x.bin", content, f"{web.url}/x", piece_size=1 << 16)
        with stream.open(tree, "x.bin") as file:
            assert file.read(10) == content[:10]
            found = in_fork(lambda: read_part(file, 0, 20))
            assert found.startswith("StreamError: served:1@1: x.bin: it was opened in another")
            with pytest.raises(TypeError, match="with the address of the version"):
                pickle.dumps(file)
            assert read_part(file, 900_000, 900_010) == content[900_000:900_010]


def test_a_store_is_read_after_a_fork(zarrs: StreamedZarrs) -> None:
    store = VersionStore(zarrs.version(), zarrs.path(3), store=zarrs.store("manifest"))
    array = zarr.open_array(store, path="0", mode="r")
    expected = sum_of(array)
    assert in_fork(lambda: (sum_of(array), store.close())) == (expected, None)
    assert sum_of(array) == expected
    assert in_fork(lambda: sum_of(array)) == expected
    store.close()


def test_workers_read_one_file_in_parallel(lock: Path) -> None:
    with stream.open(lock, NWB) as file:
        content = file.read()
        parts = [(start, start + 7000) for start in range(0, len(content), 7000)]
        starts, stops = zip(*parts, strict=True)
        expected = [content[start:stop] for start, stop in parts]
        with ThreadPoolExecutor(8) as threads:
            found = threads.map(lambda one: file.content.read_ranges([one])[0], parts)
            assert [*found] == expected
        contexts: list[tuple[BaseContext, int]] = [(FORK, 2), (SPAWN, 1)]
        for context, workers in contexts:
            with ProcessPoolExecutor(workers, mp_context=context) as processes:
                read = processes.map(read_part, [file] * len(parts), starts, stops, chunksize=4)
                assert [*read] == expected
