"""Pinned states are file systems of fsspec."""

from __future__ import annotations

import configparser
import os
import pickle
import random
from pathlib import Path
from typing import Any

import fsspec
import h5py
import pytest
from fsspec.implementations.cached import CachingFileSystem

from neuromirror.stream import WrongBytesError
from neuromirror.stream.fsspec_file_system import LockFileSystem, NeuromirrorFileSystem
from support.mirror_harness import MirrorHarness
from support.range_server import RangeServer, ServedTree

MIB = 1 << 20
CONTENT = random.Random(24).randbytes(3 * MIB)
NWB = "sub-101/sub-101_ses-01_ecephys.nwb"
ROOT = Path(__file__).parents[2]


class ServedFileSystem(NeuromirrorFileSystem):
    """A file system over files on a web server."""

    tree: ServedTree

    def _locate(self, path: str) -> Any:
        address, inner = self._split(path)
        trees = self._opened.trees
        if address not in trees:
            from neuromirror.stream import Transport

            trees[address] = self.tree, Transport(self.tree.access)
        return self.tree, inner


@pytest.fixture
def version(demo_harness: MirrorHarness) -> str:
    with demo_harness.index() as index:
        return index.resolve("demo:000001").name


@pytest.fixture
def files(demo_harness: MirrorHarness) -> NeuromirrorFileSystem:
    return NeuromirrorFileSystem(store=demo_harness.folder, skip_instance_cache=True)


def test_the_protocols_are_entry_points() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    declared = dict(
        line.split(" = ") for line in setup["options.entry_points"]["fsspec.specs"].split("\n")[1:]
    )
    module = "neuromirror.stream.fsspec_file_system"
    assert declared == {
        "lock": f"{module}:{LockFileSystem.__name__}",
        "neuromirror": f"{module}:{NeuromirrorFileSystem.__name__}",
    }


def test_info_has_the_digest(files: NeuromirrorFileSystem, version: str) -> None:
    found = files.info(f"{version}/{NWB}")
    assert found["key"] == f"SHA256E-s52776--{found['sha256']}.nwb"
    assert files.ukey(f"{version}/{NWB}") == found["key"]
    assert files.info(f"{version}/sub-101")["type"] == "directory"
    assert files.isfile(f"{version}/dandiset.yaml")


def test_wrappers_of_fsspec_keep_files_and_blocks_on_disk(
    files: NeuromirrorFileSystem, version: str, tmp_path: Path
) -> None:
    path = f"{version}/{NWB}"
    expected = files.cat_file(path)
    # as in the documentation of pynwb
    caching = CachingFileSystem(fs=files, cache_storage=str(tmp_path / "blocks"))
    with caching.open(path, "rb") as file, h5py.File(file) as nwb:
        assert nwb.attrs["nwb_version"]
    with caching.open(path, "rb") as file:
        assert file.read() == expected
    for protocol in ("blockcache", "filecache", "simplecache"):
        options = {"cache_storage": str(tmp_path / protocol)}
        store = {"store": files.store}
        url = f"{protocol}::neuromirror://{path}"
        with fsspec.open(url, neuromirror=store, **{protocol: options}) as file:
            assert file.read() == expected
        assert os.listdir(tmp_path / protocol)
    with pickle.loads(pickle.dumps(files.open(path))) as file:
        assert file.read() == expected


def test_a_path_without_label_is_in_the_version_that_the_name_means(
    files: NeuromirrorFileSystem, version: str
) -> None:
    name = version.partition("@")[0]
    assert files.cat_file(f"{name}/{NWB}") == files.cat_file(f"{version}/{NWB}")
    listed = [path.replace(name, version) for path in files.ls(f"{name}/sub-101", detail=False)]
    assert listed == files.ls(f"{version}/sub-101", detail=False)
    with pytest.raises(FileNotFoundError, match="does not name a version"):
        files.ls("demo:999999/sub-101")


@pytest.fixture
def served() -> ServedFileSystem:
    made = ServedFileSystem(skip_instance_cache=True)
    made.tree = ServedTree()
    return made


def test_ranges_are_read_with_one_request_per_gap(served: ServedFileSystem) -> None:
    with RangeServer({"/x": CONTENT, "/y": CONTENT[::-1]}) as web:
        served.tree.add("x.bin", CONTENT, f"{web.url}/x", piece_size=1 << 16)
        served.tree.add("y.bin", CONTENT[::-1], f"{web.url}/y", piece_size=1 << 16)
        paths = ["a:1@1/x.bin", "a:1@1/y.bin", "a:1@1/x.bin", "a:1@1/x.bin"]
        starts, ends = [0, 5, 1 << 16, 2 * MIB], [10, MIB, (1 << 16) + 9, 2 * MIB + 1]
        found = served.cat_ranges(paths, starts, ends)
        contents = [CONTENT, CONTENT[::-1], CONTENT, CONTENT]
        assert found == [
            content[start:end] for content, start, end in zip(contents, starts, ends, strict=True)
        ]
        assert len(web.requests) == 3


def test_errors_of_ranges_are_returned_or_raised(served: ServedFileSystem) -> None:
    with RangeServer({"/x": CONTENT, "/y": CONTENT}) as web:
        served.tree.add("x.bin", CONTENT, f"{web.url}/x", piece_size=1 << 16)
        served.tree.add("y.bin", CONTENT[::-1], f"{web.url}/y", piece_size=1 << 16)
        paths = ["a:1@1/x.bin", "a:1@1/y.bin", "a:1@1/z.bin"]
        right, wrong, missing = served.cat_ranges(paths, 0, 10)
        assert right == CONTENT[:10]
        assert isinstance(wrong, WrongBytesError)
        assert isinstance(missing, FileNotFoundError)
        with pytest.raises(WrongBytesError):
            served.cat_ranges(paths, 0, 10, on_error="raise")
