"""Stores of the demo archive and of a scripted source."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from neuromirror_demo import DemoArchive, DemoBuckets
from neuromirror_demo.bucket_contents import RAW
from support.citable_stores import CitableStore, build_odd_metadata_store, open_citable_store
from support.kept_dataset import KeptDataset
from support.lab_store import LabStore
from support.lock_folders import PUBLISHED, LockFolder, restore_lock
from support.mirror_harness import MirrorHarness, run_git
from support.scripted_source import ScriptedHarness, ScriptedSource
from support.web_clone import web_clone, web_clone_template

__all__ = ["web_clone", "web_clone_template"]

UNREACHABLE_CLONE_URL = "http://127.0.0.1:9/alias/{alias}"


@pytest.fixture
def lab(demo: DemoArchive, tmp_path: Path) -> LabStore:
    """An empty store beside a fresh demo archive."""
    return LabStore(MirrorHarness(demo.mirrors, tmp_path / "store"), tmp_path)


@pytest.fixture(scope="session")
def still_lab(demo_harness: MirrorHarness, tmp_path_factory: pytest.TempPathFactory) -> LabStore:
    """A store of the unchanging demo archive, read-only."""
    return LabStore(demo_harness, tmp_path_factory.mktemp("still-lab"))


@pytest.fixture
def kept(tmp_path: Path, demo_files: Path) -> KeptDataset:
    """A dataset with a vault that its repository does not name yet."""
    return KeptDataset(tmp_path / "kept", demo_files)


@pytest.fixture(scope="session")
def lock_template(still_lab: LabStore, tmp_path_factory: pytest.TempPathFactory) -> LockFolder:
    """A lock file of a published version with a bundle and an unreachable clone URL, read-only."""
    paper = LockFolder(still_lab.mirror_harness, tmp_path_factory.mktemp("written"))
    paper.pin(PUBLISHED, bundle=True, clones=(UNREACHABLE_CLONE_URL,))
    return paper


@pytest.fixture(scope="session")
def description(lock_template: LockFolder) -> dict[str, Any]:
    """The description of the pinned dataset, for crafted repositories."""
    name = f"{lock_template.pin_of(PUBLISHED).commit}:.neuromirror/dataset.json"
    text = run_git(lock_template.mirror_harness.repository(PUBLISHED), "show", name)
    found: dict[str, Any] = json.loads(text)
    return found


@pytest.fixture
def lock_folder(lock_template: LockFolder, tmp_path: Path) -> LockFolder:
    """A writable copy of the lock file."""
    return lock_template.copy(tmp_path / "paper")


@pytest.fixture
def restored_lock_folder(lock_template: LockFolder, lock_folder: LockFolder) -> LockFolder:
    """A copy of the lock file, and of its dataset without content, in ``data``."""
    restored = lock_template.folder.with_name("restored-without-content")
    if not restored.exists():
        found = restore_lock(lock_template.lock, restored, offline=True)
        assert found.only().status == "ok"
    shutil.copytree(restored, lock_folder.folder / "data", symlinks=True)
    return lock_folder


@pytest.fixture
def new_lock_folder(still_lab: LabStore, tmp_path: Path) -> LockFolder:
    """A folder for a lock file of unchanging datasets."""
    return LockFolder(still_lab.mirror_harness, tmp_path / "paper")


@pytest.fixture
def source() -> ScriptedSource:
    """A scripted source without datasets."""
    return ScriptedSource()


@pytest.fixture
def scripted_lab(tmp_path: Path, source: ScriptedSource) -> LabStore:
    """An empty store of the scripted source, in which a Zarr of five files is large."""
    settings = "[zarr]\ninline = 4\nmanifest = 12\n"
    return LabStore(ScriptedHarness(tmp_path / "box", source, settings), tmp_path)


def _harness_with_zarr_settings(mirrors: Path, folder: Path, settings: str) -> MirrorHarness:
    """A copy of the mirror files with other settings for Zarrs."""
    made = folder / "mirrors"
    made.mkdir()
    for path in mirrors.glob("*.toml"):
        text = path.read_text("utf-8")
        (made / path.name).write_text(f"{text}\n[zarr]\n{settings}\n", "utf-8")
    return MirrorHarness(made, folder / "store")


@pytest.fixture(scope="session")
def subdataset_harness(
    shared_demo: DemoArchive, tmp_path_factory: pytest.TempPathFactory
) -> MirrorHarness:
    """A store with a Zarr as a subdataset, read-only."""
    mirror_harness = _harness_with_zarr_settings(
        shared_demo.mirrors, tmp_path_factory.mktemp("parted"), "inline = 4"
    )
    mirror_harness.sync("demo:000005")
    return mirror_harness


@pytest.fixture(scope="session")
def bucket_harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MirrorHarness]:
    """A store of buckets, one with hostile names, whose Zarrs are not in git."""
    folder = tmp_path_factory.mktemp("bucketed")
    with DemoBuckets(folder / "buckets") as running:
        (running.mirrors / "hostile.toml").write_text(
            'source = "s3"\n[options]\nbucket = "demo-hostile"\ndepth = 0\n'
            f'endpoint = "{running.endpoint}"\n'
        )
        mirror_harness = _harness_with_zarr_settings(
            running.mirrors, folder, "inline = 4\nmanifest = 8"
        )
        mirror_harness.sync("hostile", "demo-aind-benchmark", f"demo-aind:{RAW}")
        yield mirror_harness


@pytest.fixture(scope="session")
def citable_store(
    tmp_path_factory: pytest.TempPathFactory, demo_files: Path
) -> Iterator[CitableStore]:
    """A store with datasets of all kinds of sources, read-only."""
    with open_citable_store(tmp_path_factory.mktemp("shelf"), demo_files) as filled:
        yield filled


@pytest.fixture(scope="session")
def odd_metadata_store(tmp_path_factory: pytest.TempPathFactory) -> CitableStore:
    """A store of dandisets with unusual metadata, read-only."""
    return build_odd_metadata_store(tmp_path_factory.mktemp("odd") / "box")
