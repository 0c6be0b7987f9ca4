"""Open profiles: what is read when a file is opened is recorded, and requested at once."""

from __future__ import annotations

import io
import resource
import struct
from contextlib import closing

import h5py
import numpy as np
import pytest

from neuromirror import stream
from neuromirror.model import LEAF_SIZE
from neuromirror.stream.open_profile import merge_ranges, record_open_profiles
from neuromirror.transfer.block_digest_recorder import BlockDigestsRecorder
from support.range_server import RangeServer, ServedTree


def hdf5(groups: int) -> bytes:
    """Return an HDF5 file with attributes between datasets."""
    target = io.BytesIO()
    with h5py.File(target, "w") as file:
        for number in range(groups):
            group = file.create_group(f"group {number}")
            group["data"] = np.random.default_rng(number).integers(0, 256, 200_000, "u1")
            group.attrs["number"] = number
    return target.getvalue()


def test_ranges_of_a_profile_are_requested_at_once(isolated_home: object) -> None:
    content = hdf5(20)
    with RangeServer({"/file.h5": content}) as server, closing(BlockDigestsRecorder()) as recorder:
        tree = ServedTree()
        key = tree.add("file.h5", content, f"{server.url}/file.h5", piece_size=LEAF_SIZE).key
        recorder.write(key, tree.digests["file.h5"])
        assert list(record_open_profiles(tree, ["file.h5"], recorder)) == [("file.h5", "")]
        profiled = recorder.find(key)
        assert profiled is not None
        assert len(profiled.open_ranges) > 1
        # the objects of the last group are read, too
        assert profiled.open_ranges[-1][1] > len(content) - 400_000
        assert sum(stop - start for start, stop in profiled.open_ranges) < len(content) / 2
        tree.digests["file.h5"] = profiled
        server.requests.clear()
        with stream.open(tree, "file.h5") as file:
            file.content.read_ranges(profiled.open_ranges)
            requested = sorted((one.start, one.stop) for one in server.requests)
            assert len(requested) == len(profiled.open_ranges)
            with h5py.File(file, "r") as opened:
                assert len([one.attrs["number"] for one in opened.values()]) == 20


# the address of a block is so large that h5py raises an OverflowError
DAMAGED = hdf5(1)[:48] + b"\xff\xff\xc7" + b"\xff" * 5 + hdf5(1)[56:]


@pytest.mark.parametrize("content", [b"not HDF5" * 10_000, DAMAGED])
def test_a_file_that_is_not_hdf5_has_no_profile(isolated_home: object, content: bytes) -> None:
    with RangeServer({"/file.h5": content}) as server, closing(BlockDigestsRecorder()) as recorder:
        tree = ServedTree()
        key = tree.add("file.h5", content, f"{server.url}/file.h5", piece_size=LEAF_SIZE).key
        recorder.write(key, tree.digests["file.h5"])
        [(path, why)] = record_open_profiles(tree, ["file.h5"], recorder)
        assert (path, bool(why)) == ("file.h5", True)
        found = recorder.find(key)
        assert found is not None
        assert found.open_ranges == ()


def cyclic() -> bytes:
    """Return an HDF5 file in which a list of free blocks leads back to its start."""
    made = bytearray(hdf5(3))
    heap = made.find(b"HEAP")
    _, first, address = struct.unpack_from("<QQQ", made, heap + 8)
    struct.pack_into("<Q", made, address + first, first)
    return bytes(made)


def test_a_file_that_exhausts_hdf5_is_given_up(isolated_home: object) -> None:
    content, fine = cyclic(), hdf5(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with (
        RangeServer({"/busy.h5": content, "/fine.h5": fine}) as server,
        closing(BlockDigestsRecorder()) as recorder,
    ):
        tree = ServedTree()
        for name, one in (("busy.h5", content), ("fine.h5", fine)):
            key = tree.add(name, one, f"{server.url}/{name}", piece_size=LEAF_SIZE).key
            recorder.write(key, tree.digests[name])
        found = dict(record_open_profiles(tree, ["busy.h5", "fine.h5"], recorder, seconds=2.0))
    assert "takes too much time or memory" in found["busy.h5"]
    assert found["fine.h5"] == ""
    # the memory of this process has not grown by that of HDF5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20


@pytest.mark.parametrize("count", [1, 256, 257, 5000])
def test_ranges_are_merged_until_there_are_few_enough(count: int) -> None:
    size = count * 10 * LEAF_SIZE
    given = [(one * 10 * LEAF_SIZE + 5, one * 10 * LEAF_SIZE + 50) for one in range(count)]
    merged = merge_ranges(reversed(given), size)
    assert len(merged) <= 256
    for start, stop in given:
        assert any(first <= start < stop <= last for first, last in merged)
    assert merged[-1][1] <= size
    assert merge_ranges([], 0) == ()
