"""Pinned states are file systems of fsspec, and pass its tests of reading."""

import configparser
import os
import pickle
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import h5py
import pytest
from fsspec.implementations.cached import CachingFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.tests.abstract import AbstractFixtures, AbstractGetTests

from neuromirror.stream import WrongBytesError
from neuromirror.stream.fsspec_file_system import LockFileSystem, NeuromirrorFileSystem
from neuromirror_demo import DemoBuckets
from neuromirror_demo.bucket_contents import BEHAVIOR
from support.mirror_harness import MirrorHarness
from support.pinned_locks import pin_latest
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
        return index.versions.resolve("demo:000001").name


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


SCENARIOS = (
    "bulk_operations_scenario_0",
    "glob_edge_cases_files",
    "dir_and_file_with_same_name_prefix",
    "10_files_with_hashed_names",
)


@pytest.fixture(scope="module")
def local_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of all scenarios of fsspec's tests."""
    folder = tmp_path_factory.mktemp("local")
    for name in SCENARIOS:
        make = getattr(AbstractFixtures(), f"_{name}")
        make(LocalFileSystem(auto_mkdir=True), os.path.join, str(folder / name))
    (folder / "src").mkdir()
    (folder / "src" / "file").touch()
    return folder


@pytest.fixture(scope="module")
def file_systems(
    local_files: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, tuple[NeuromirrorFileSystem, str]]]:
    """A file system of each protocol, and the path of these folders in it."""
    folder = tmp_path_factory.mktemp("mirrored")
    dataset = f"demo-aind:{BEHAVIOR}"
    with DemoBuckets(folder / "buckets") as running:
        for path in local_files.rglob("*"):
            if path.is_file():
                name = path.relative_to(local_files)
                running.put(f"{BEHAVIOR}/files/{name}", path.read_bytes())
        mirror = MirrorHarness(running.mirrors, folder / "store")
        mirror.sync(dataset)
        with mirror.index() as index:
            version = index.versions.resolve(dataset).name
        lock = pin_latest(mirror, folder / "datasets.lock", dataset)
        options: dict[str, Any] = {"skip_instance_cache": True}
        yield {
            "neuromirror": (NeuromirrorFileSystem(mirror.folder, **options), f"{version}/files"),
            "lock": (LockFileSystem(**options), f"{lock}/files"),
        }


@pytest.mark.parametrize("protocol", ["neuromirror", "lock"])
class TestGet(AbstractGetTests, AbstractFixtures):
    """What ``get`` writes where."""

    @pytest.fixture
    def fs(
        self, file_systems: Any, protocol: str, monkeypatch: pytest.MonkeyPatch
    ) -> NeuromirrorFileSystem:
        found: NeuromirrorFileSystem = file_systems[protocol][0]
        # the only file that a test itself writes is already in the version
        monkeypatch.setattr(found, "touch", lambda path: None)
        return found

    @pytest.fixture
    def fs_path(self, file_systems: Any, protocol: str) -> str:
        return str(file_systems[protocol][1])


def _scenario(name: str) -> Any:
    @pytest.fixture
    def source(self: TestGet, fs_path: str) -> str:
        return f"{fs_path}/{name}/source"

    return source


for scenario in SCENARIOS:  # in place of fixtures that write the files
    setattr(TestGet, f"fs_{scenario}", _scenario(scenario))


GLOBS, HASHED = SCENARIOS[1], SCENARIOS[3]
QUESTIONS = {
    "ls": lambda fs, path: fs.ls(path, detail=False),
    "ls file": lambda fs, path: fs.ls(f"{path}/file1", detail=False),
    "find": lambda fs, path: fs.find(path),
    "find with folders": lambda fs, path: fs.find(path, withdirs=True),
    "find, depth 1": lambda fs, path: fs.find(path, maxdepth=1),
    "walk": lambda fs, path: [*fs.walk(path)],
    "glob": lambda fs, path: fs.glob(f"{path}/*"),
    "glob folders": lambda fs, path: fs.glob(f"{path}/subdir?/*"),
    "glob deep": lambda fs, path: fs.glob(f"{path}/**/*file[12]"),
    "exists": lambda fs, path: [fs.exists(f"{path}/{name}") for name in ("file1", "subdir0", "x")],
    "isfile": lambda fs, path: [fs.isfile(f"{path}/{name}") for name in ("file1", "subdir0", "x")],
    "isdir": lambda fs, path: [fs.isdir(f"{path}/{name}") for name in ("file1", "subdir0", "x")],
    "type": lambda fs, path: [fs.info(f"{path}/{name}")["type"] for name in ("file1", "subdir0")],
    "size": lambda fs, path: fs.sizes([f"{path}/file1", f"{path}/subdir1/subfile1"]),
    "disk use": lambda fs, path: fs.du(path, total=False),
    "cat": lambda fs, path: fs.cat(f"{path}/subdir0", recursive=True, on_error="omit"),
    "cat glob": lambda fs, path: fs.cat(f"{path.replace(GLOBS, HASHED)}/*.txt"),
    "expand": lambda fs, path: fs.expand_path(f"{path}/subdir0", recursive=True),
}


@pytest.mark.parametrize("protocol", ["neuromirror", "lock"])
@pytest.mark.parametrize("question", QUESTIONS)
def test_answers_are_those_of_a_local_file_system(
    file_systems: Any, local_files: Path, protocol: str, question: str
) -> None:
    fs, top = file_systems[protocol]
    path = f"/{GLOBS}/source"
    found = QUESTIONS[question](fs, top + path)
    expected = QUESTIONS[question](LocalFileSystem(), f"{local_files}{path}")
    assert _relative(found, top) == _relative(expected, str(local_files))


def _relative(answer: Any, top: str) -> Any:
    """Replace the path of the folder in an answer, and sort it."""
    if isinstance(answer, dict):
        return {_relative(name, top): value for name, value in answer.items()}
    if isinstance(answer, tuple):
        return tuple(_relative(name, top) for name in answer)
    if isinstance(answer, list):
        return sorted((_relative(name, top) for name in answer), key=repr)
    return answer.replace(top, "") if isinstance(answer, str) else answer
