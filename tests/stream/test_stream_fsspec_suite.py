"""fsspec's tests of reading, and the answers of its local file system, on pinned states."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.tests.abstract import AbstractFixtures, AbstractGetTests

from neuromirror.stream.fsspec_file_system import LockFileSystem, NeuromirrorFileSystem
from neuromirror_demo import DemoBuckets
from neuromirror_demo.bucket_contents import BEHAVIOR
from support.mirror_harness import MirrorHarness
from support.pinned_locks import pin_latest

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
            version = index.resolve(dataset).name
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
