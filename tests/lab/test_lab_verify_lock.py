"""Verification of restored datasets against a lock file."""

import shutil
from pathlib import Path

import pytest

from neuromirror.lab.lockfile import load_lock
from neuromirror.lab.pin import PinRequest, pin
from neuromirror.lab.verify import Mode, verify
from neuromirror.transfer.outcomes import NOT_HERE, Finding
from support.dataset_clones import (
    clone_dataset,
    copy_folder,
    evidence_counts,
    failures,
    fetch_content,
    overwrite,
    verify_all,
)
from support.lab_store import LabStore
from support.mirror_harness import run_git
from support.scripted_source import ScriptedDataset, ScriptedSource, files

NAMES = ("demo:000004", "demo:000002")


@pytest.fixture(scope="session")
def restored_lock(still_lab: LabStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lock file beside its two restored datasets; copy before changing it."""
    folder = tmp_path_factory.mktemp("pinned")
    lock = write_lock(
        still_lab, folder / "datasets.lock", *(PinRequest(name, "latest") for name in NAMES)
    )
    for dataset in load_lock(lock).datasets:
        target = folder / dataset.dataset.alias
        fetch_content(
            clone_dataset(still_lab.mirror_harness, dataset.name, target, dataset.resolved.version)
        )
    return lock


@pytest.fixture
def lock(restored_lock: Path, tmp_path: Path) -> Path:
    """A copy of the lock file and datasets, to be changed."""
    return copy_folder(restored_lock.parent, tmp_path / "paper") / restored_lock.name


def write_lock(lab: LabStore, path: Path, *requests: PinRequest) -> Path:
    with lab.mirror_harness.index() as index:
        assert not any(one.failed for one in pin(path, requests, lab.mirror_harness.store, index))
    return path


def messages(lock: Path, mode: Mode = "local", **options: object) -> list[str]:
    return [one.message for one in verify_all(lock, mode=mode, **options) if one.failed]


def test_restored_datasets_have_no_failures(restored_lock: Path) -> None:
    found = verify_all(restored_lock)
    assert failures(found) == []
    assert evidence_counts(found) == {("sha256", "checked"): 7, ("etag", "checked"): 1}
    pins = {dataset.name: dataset for dataset in load_lock(restored_lock).datasets}
    for name in NAMES:
        whole = {one.kind: one.message for one in found if one.dataset == name and one.path == "."}
        expected = {kind: getattr(pins[name], kind) for kind in ("commit", "tree", "state")}
        assert whole == {**expected, "manifest": pins[name].state}
    assert list(verify(load_lock(restored_lock))) == found


def test_datasets_in_another_folder_are_found_by_option(
    restored_lock: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    lock_parent = copy_folder(
        restored_lock.parent / "datasets.lock.d", tmp_path / "datasets.lock.d"
    ).parent
    shutil.copy(restored_lock, lock_parent)
    found = verify_all(lock_parent / restored_lock.name, within=moved)
    assert failures(found) == [("subdataset", ".", "impossible")] * 2
    assert all(NOT_HERE in one.message for one in found if one.failed)
    # a wrong folder does not pass as missing content
    found = verify_all(lock_parent / restored_lock.name, within=moved, allow_missing=True)
    assert failures(found) == [("subdataset", ".", "impossible")] * 2
    assert failures(verify_all(lock_parent / restored_lock.name, within=restored_lock.parent)) == []


def test_datasets_in_the_one_folder_beside_the_lock_are_found(lock: Path) -> None:
    data, names = lock.parent / "data", [one.dataset.alias for one in load_lock(lock).datasets]
    data.mkdir()
    for name in names:
        (lock.parent / name).rename(data / name)
    assert failures(verify_all(lock)) == []
    overwrite(next(data.glob("*/sub-*/*.nwb")), b"damaged")
    assert [kind for kind, _, _ in failures(verify_all(lock))] == ["file"]
    copy_folder(data, lock.parent / "copy")
    found = [one for one in verify_all(lock) if one.failed]
    assert [one.kind for one in found] == ["subdataset"] * 2
    assert all("or specify --in" in one.message for one in found)


def test_another_checked_out_version_is_an_error(lock: Path) -> None:
    folder = lock.parent / "demo--000002"
    pinned = load_lock(lock).pin("demo:000002")
    assert pinned is not None
    (other, *_) = [one for one in run_git(folder, "tag").split() if one != pinned.resolved.version]
    run_git(folder, "checkout", "-q", other)
    found = [one for one in verify_all(lock) if one.failed]
    assert found[0].kind == "commit"
    assert pinned.commit in found[0].message
    # the pinned files that exist are verified all the same
    assert "error" in {one.status for one in found if one.kind == "document"}
    run_git(folder, "checkout", "-q", "--orphan", "none")
    shutil.rmtree(folder / ".git" / "objects")
    (folder / ".git" / "objects").mkdir()
    assert [one.kind for one in verify_all(lock) if one.failed] == ["commit"]


@pytest.mark.parametrize("field", ["state", "tree"])
def test_an_edited_lock_is_detected_without_a_clone(lock: Path, field: str) -> None:
    text = lock.read_text()
    value = getattr(load_lock(lock).datasets[0], field)
    lock.write_text(text.replace(value, value[:-4] + "0000"))
    found = [one for one in verify_all(lock, mode="remote") if one.failed]
    assert {(one.dataset, one.kind) for one in found} <= {
        ("demo:000004", field),
        ("demo:000004", "manifest"),
    }
    assert any(value[-4:] in one.message for one in found)


def test_a_missing_commit_is_an_error_in_each_mode(lock: Path) -> None:
    commit = load_lock(lock).datasets[0].commit
    lock.write_text(lock.read_text().replace(commit, "0" * 40))
    (lock.parent / "datasets.lock.d" / "demo--000004" / f"{commit}.jsonl.zst").rename(
        lock.parent / "datasets.lock.d" / "demo--000004" / f"{'0' * 40}.jsonl.zst"
    )
    assert failures(verify_all(lock)) == [("manifest", ".", "error"), ("commit", ".", "error")]
    assert failures(verify_all(lock, mode="remote")) == [("manifest", ".", "error")]


def test_a_missing_or_damaged_manifest_is_reported(lock: Path) -> None:
    (manifest,) = (lock.parent / "datasets.lock.d" / "demo--000004").glob("*.jsonl.zst")
    kept = manifest.read_bytes()
    other = next((lock.parent / "datasets.lock.d" / "demo--000002").glob("*.jsonl.zst"))
    manifest.unlink()
    # the clone has the commit, and URLs come from it
    found = verify_all(lock)
    assert failures(found) == []
    kinds = {(one.kind, one.status) for one in found if one.dataset == "demo:000004"}
    assert {("manifest", "notneeded"), ("state", "ok")} <= kinds
    found = verify_all(lock, mode="remote")
    assert failures(found) == []
    assert sum(one.kind == "url" for one in found if one.dataset == "demo:000004") == 6
    for content in (kept[:-20], other.read_bytes()):
        manifest.write_bytes(content)
        assert [f"{manifest} is not the file" in message for message in messages(lock)] == [True]
        assert failures(verify_all(lock, mode="remote")) == [("manifest", ".", "error")]


def test_only_pinned_files_are_required(
    still_lab: LabStore, restored_lock: Path, tmp_path: Path
) -> None:
    lock = write_lock(
        still_lab, tmp_path / "some.lock", PinRequest(NAMES[0], "latest", ("sub-401",))
    )
    folder = copy_folder(restored_lock.parent / "demo--000004", tmp_path / "demo--000004")
    (outside,) = folder.glob("sub-402/*.nwb")
    shutil.rmtree(outside.resolve().parent)
    found = verify_all(lock)
    assert failures(found) == []
    assert [one.path.partition("/")[0] for one in found if one.kind == "file"] == ["sub-401"] * 2
    # the state digest of the whole dataset is verified all the same
    assert "state" in {one.kind for one in found}
    outside.unlink()
    assert failures(verify_all(lock)) == []
    remote = verify_all(lock, mode="remote")
    assert {one.path.partition("/")[0] for one in remote if one.kind == "url"} == {"sub-401"}


def test_a_huge_zarr_is_verified_by_its_manifest(
    scripted_lab: LabStore, source: ScriptedSource
) -> None:
    huge = [f"huge.zarr/{name}" for name in (".zarray", *map(str, range(20)))]
    source.scripted_datasets["a"] = ScriptedDataset(files("x.bin", *huge))
    scripted_lab.mirror_harness.sync()
    lock = write_lock(
        scripted_lab, scripted_lab.folder / "datasets.lock", PinRequest("box:a", "latest")
    )
    folder = clone_dataset(scripted_lab.mirror_harness, "box:a", scripted_lab.folder / "box--a")
    (folder / "huge.zarr").rmdir()
    clone_dataset(scripted_lab.mirror_harness, "box:a/huge.zarr", folder / "huge.zarr")

    def of_zarr(found: list[Finding]) -> dict[str, str]:
        return {one.kind: one.status for one in found if one.path == "huge.zarr"}

    found = verify_all(lock, allow_missing=True)
    assert failures(found) == []
    assert of_zarr(found) == {
        "commit": "ok",
        "tree": "ok",
        "state": "ok",
        "subdataset": "notneeded",
    }
    assert any("20" in one.message for one in found if one.kind == "subdataset")
    run_git(folder / "huge.zarr", "rm", "-q", ".zarray")
    run_git(folder / "huge.zarr", "commit", "-qm", "less")
    pinned = load_lock(lock).datasets[0]
    for manifest in (lock.parent / pinned.manifest).parent.glob("*.zst"):
        if manifest.name.partition(".")[0] != pinned.commit:
            manifest.write_bytes((lock.parent / pinned.manifest).read_bytes())
    assert of_zarr(verify_all(lock, allow_missing=True))["state"] == "error"
