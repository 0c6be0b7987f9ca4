"""Restoring the datasets of a lock file with each strategy."""

import multiprocessing
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from neuromirror.lab.lockfile import Lock
from neuromirror.store import StoreBusyError, file_lock
from neuromirror_demo.bucket_contents import RAW
from support.lab_store import LabStore
from support.lock_folders import (
    DRAFT,
    PUBLISHED,
    ZARR,
    LockFolder,
    replace_beside,
    restore_lock,
    run,
)
from support.mirror_harness import MirrorHarness

CLONE_URL = "http://127.0.0.1:9/alias/demo--000002"
STORE, BUNDLE, MANIFEST = "the store", "the bundle", "the manifest"
BUCKET = f"demo-aind:{RAW}"
SPLIT = "demo-aind-benchmark:ephys-compression/aind-np1/625749_2022-08-03_15-15-06_ProbeA"


@pytest.fixture(scope="session")
def zarrs(
    subdataset_harness: MirrorHarness, tmp_path_factory: pytest.TempPathFactory
) -> LockFolder:
    """A lock file of a dataset with a subdataset, with bundles of both; read-only."""
    paper = LockFolder(subdataset_harness, tmp_path_factory.mktemp("zarrs"))
    paper.pin(ZARR, bundle=True)
    return paper


def assert_complete(folder: Path, paper: LockFolder, name: str) -> None:
    """Assert a DataLad dataset at the pinned commit, with all content and without errors."""
    pinned = paper.pin_of(name)
    ids = run(folder, "git", "rev-parse", "HEAD", "HEAD^{tree}").split()
    assert ids == [pinned.commit, pinned.tree]
    assert run(folder, "git", "status", "--porcelain") == ""
    assert missing_content(folder) == []
    assert run(folder, "git", "annex", "fsck", "-q") == ""
    assert run(folder, "git", "fsck", "--no-dangling", "--no-progress").strip() == ""


def missing_content(folder: Path) -> list[Path]:
    """Return the links without content."""
    links = [path for path in folder.rglob("*") if path.is_symlink()]
    assert links
    return [path for path in links if not path.exists()]


def origin(folder: Path) -> str:
    return run(folder, "git", "config", "remote.origin.url").strip()


# --- strategies


def test_the_store_comes_first(lock_template: LockFolder, tmp_path: Path) -> None:
    found = restore_lock(lock_template.lock, tmp_path / "data", lock_template.mirror_harness.store)
    done = found.only()
    assert (done.status, found.strategies(PUBLISHED)) == ("ok", [STORE])
    assert found.file_statuses() == {("ok", "sha256"): 5}
    assert (done.version, done.size) == ("0.240301.1055", lock_template.pin_of(PUBLISHED).bytes)
    folder = found.folder(PUBLISHED)
    assert_complete(folder, lock_template, PUBLISHED)
    # the path of the local store is not written to the dataset
    assert origin(folder) == CLONE_URL
    assert sorted(path.name for path in found.into.iterdir()) == ["demo--000002"]
    # its files can be unlocked
    name = run(folder, "git", "annex", "find").splitlines()[0]
    run(folder, "git", "annex", "unlock", name)
    assert not (folder / name).is_symlink()
    with (folder / name).open("ab") as file:
        file.write(b"more")
    run(folder, "git", "annex", "lock", "--force", name)
    assert_complete(folder, lock_template, PUBLISHED)


def test_then_clone_urls_those_of_the_lock_first(
    lock_template: LockFolder, tmp_path: Path, serve_directory: Callable[[Path], str]
) -> None:
    address = serve_directory(lock_template.mirror_harness.folder)
    found = restore_lock(lock_template.lock, tmp_path / "data", clones=[f"ria+{address}/"])
    done = found.only()
    assert (done.status, (done.url or "").startswith(f"ria+{address}/#")) == ("ok", True)
    assert found.strategies(PUBLISHED) == [CLONE_URL, done.url]
    assert CLONE_URL in done.message
    assert_complete(found.folder(PUBLISHED), lock_template, PUBLISHED)
    assert origin(found.folder(PUBLISHED)).startswith(address)


def test_then_the_bundle(lock_template: LockFolder, tmp_path: Path) -> None:
    found = restore_lock(lock_template.lock, tmp_path / "data")
    done = found.only()
    assert (done.status, found.strategies(PUBLISHED)) == ("ok", [CLONE_URL, BUNDLE])
    assert found.file_statuses() == {("ok", "sha256"): 5}
    folder = found.folder(PUBLISHED)
    assert_complete(folder, lock_template, PUBLISHED)
    # earlier versions are in the history
    assert len(run(folder, "git", "rev-list", "HEAD").split()) == 2
    assert origin(folder) == CLONE_URL
    assert run(folder, "git", "config", "remote.origin.annex-ignore").strip() == "true"
    # a second run finds all of it
    found = restore_lock(lock_template.lock, tmp_path / "data")
    done = found.only()
    assert (done.status, found.strategies(PUBLISHED)) == ("notneeded", [])
    assert [status for status, _ in found.file_statuses().elements()] == ["notneeded"] * 5
    # missing content is fetched later
    run(folder, "git", "annex", "drop", "--force", "-q", "sub-201")
    found = restore_lock(lock_template.lock, tmp_path / "data")
    statuses = Counter(status for status, _ in found.file_statuses().elements())
    assert (found.only().status, statuses) == ("ok", {"ok": 2, "notneeded": 3})


def test_restores_from_the_manifest_last(lock_folder: LockFolder, tmp_path: Path) -> None:
    lock_folder.delete_files(".bundle")
    found = restore_lock(lock_folder.lock, tmp_path / "data")
    done = found.only()
    assert (done.status, found.strategies(PUBLISHED)) == ("ok", [CLONE_URL, BUNDLE, MANIFEST])
    assert found.file_statuses() == {("ok", "sha256"): 5}
    folder = found.folder(PUBLISHED)
    # the same commit, rebuilt
    assert_complete(folder, lock_folder, PUBLISHED)
    assert run(folder, "git", "describe", "--tags").strip() == "0.240301.1055"


def test_without_any_strategy_each_failure_is_explained(
    lock_folder: LockFolder, tmp_path: Path
) -> None:
    lock_folder.delete_files(".bundle", ".zst")
    into = tmp_path / "data"
    done = command(lock_folder, "restore", str(lock_folder.file), "--into", str(into))
    assert done.exit_code == 1
    pinned = lock_folder.pin_of(PUBLISHED)
    manifest = lock_folder.lock.manifest_path(pinned)
    for cause in (pinned.commit, CLONE_URL, f"{pinned.commit}.bundle", str(manifest)):
        assert cause in done.stderr
    assert list(into.iterdir()) == []


def test_offline_sends_no_request(
    lock_folder: LockFolder, tmp_path: Path, serve_directory: Callable[[Path], str]
) -> None:
    address = serve_directory(lock_folder.mirror_harness.folder)
    clones = [f"ria+{address}/"]
    found = restore_lock(lock_folder.lock, tmp_path / "data", clones=clones, offline=True)
    done = found.only()
    assert (done.status, found.strategies(PUBLISHED)) == ("ok", [BUNDLE])
    assert found.file_statuses() == {}
    assert len(missing_content(found.folder(PUBLISHED))) == 5
    # and later with a network
    second = restore_lock(lock_folder.lock, tmp_path / "data")
    assert (second.only().status, second.strategies(PUBLISHED)) == ("ok", [])
    assert second.file_statuses() == {("ok", "sha256"): 5}
    lock_folder.delete_files(".bundle", ".zst")
    shutil.rmtree(found.folder(PUBLISHED))
    done = restore_lock(lock_folder.lock, tmp_path / "data", clones=clones, offline=True).only()
    assert (done.status, "--offline" in done.message) == ("error", True)


# --- results that differ from the pin


def test_a_clone_url_that_serves_something_else_is_not_taken(
    lock_folder: LockFolder, tmp_path: Path, serve_directory: Callable[[Path], str]
) -> None:
    other = lock_folder.mirror_harness.repository(DRAFT)
    shutil.copytree(other, tmp_path / "served" / "alias" / "demo--000002")
    address = serve_directory(tmp_path / "served")
    lock_folder.edit("http://127.0.0.1:9", address)
    lock_folder.delete_files(".bundle", ".zst")
    found = restore_lock(lock_folder.lock, tmp_path / "data")
    clone = f"{address}/alias/demo--000002"
    strategies = [clone, BUNDLE, MANIFEST]
    assert (found.only().status, found.strategies(PUBLISHED)) == ("error", strategies)
    assert list(found.into.iterdir()) == []


def test_a_repository_without_urls_is_rejected(
    lock_folder: LockFolder, tmp_path: Path, serve_directory: Callable[[Path], str]
) -> None:
    served = tmp_path / "served" / "alias" / "demo--000002"
    shutil.copytree(lock_folder.mirror_harness.repository(PUBLISHED), served)
    run(served, "git", "-c", "core.hooksPath=/dev/null", "update-ref", "-d", "refs/heads/git-annex")
    run(served, "git", "update-server-info")
    lock_folder.edit("http://127.0.0.1:9", serve_directory(tmp_path / "served"))
    lock_folder.delete_files(".bundle", ".zst")
    found = restore_lock(lock_folder.lock, tmp_path / "data")
    assert (found.only().status, "git-annex" in found.only().message) == ("error", True)
    assert found.strategies(PUBLISHED)[1:] == [BUNDLE, MANIFEST]
    assert list(found.into.iterdir()) == []


@pytest.mark.parametrize("what", ["another", "damaged", "no bundle"])
def test_an_invalid_bundle_is_not_restored(
    lock_folder: LockFolder, tmp_path: Path, what: str
) -> None:
    (bundle,) = lock_folder.folder.rglob("*.bundle")
    content = bytearray(b"<html>" if what == "no bundle" else bundle.read_bytes())
    if what == "another":
        other = LockFolder(lock_folder.mirror_harness, tmp_path / "other")
        other.pin(DRAFT, bundle=True)
        content[:] = next(other.folder.rglob("*.bundle")).read_bytes()
    elif what == "damaged":
        content[-200] ^= 1
    replace_beside(lock_folder, bundle, bytes(content))  # the lock file states its sha256
    lock_folder.delete_files(".zst")
    found = restore_lock(lock_folder.lock, tmp_path / "data", offline=True)
    assert (found.only().status, BUNDLE in found.only().message) == ("error", True)
    assert found.strategies(PUBLISHED) == [BUNDLE, MANIFEST]
    assert list(found.into.iterdir()) == []


# --- edited lock files


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('\ntree = "', '\ntree = "{0}"\n#'),
        ('\nstate = "', '\nstate = "sha256:{0}{0:.24}"\n#'),
        ("files = 5", "files = 4"),
        ("durability =", 'paths = ["sub-201"]\ndurability ='),
    ],
    ids=["tree", "state", "files", "paths"],
)
def test_a_lock_that_contradicts_its_dataset_is_refused(
    lock_folder: LockFolder, tmp_path: Path, old: str, new: str
) -> None:
    lock_folder.edit(old, new.format("0" * 40))
    if "files" in old:
        lock_folder.edit("claimed = 5", "claimed = 4")
    found = restore_lock(lock_folder.lock, tmp_path / "data")
    done = found.only()
    assert (done.status, PUBLISHED in done.message) == ("error", True)
    # no content is fetched for an inconsistent lock file
    assert [outcome.action for outcome in found.outcomes] == ["restore"]


def test_a_lock_with_the_commit_of_another_version_is_refused(
    lock_folder: LockFolder, still_lab: LabStore, tmp_path: Path
) -> None:
    old, new = still_lab.labels(PUBLISHED)
    with lock_folder.mirror_harness.index() as index:
        ids = [index.versions.resolve(PUBLISHED, label) for label in (old, new)]
    text = lock_folder.file.read_text("utf-8")
    lock_folder.file.write_text(text.replace(ids[1].commit, ids[0].commit), "utf-8")
    lock_folder.edit(ids[1].tree, ids[0].tree)
    done = restore_lock(
        lock_folder.lock, tmp_path / "data", lock_folder.mirror_harness.store
    ).only()
    assert (done.status, ids[1].commit in done.message) == ("error", True)
    assert not (tmp_path / "data" / "demo--000002").exists()


# --- resuming


def restore_killed(lock: Lock, into: Path, step: str) -> None:
    """Restore, and be killed before a command of git with this argument is started."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen" and step in arguments[1]:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    restore_lock(lock, into, offline=True)


@pytest.mark.parametrize("step", ["index-pack", "read-tree", "annex"])
def test_a_killed_restore_from_the_manifest_leaves_nothing(
    lock_folder: LockFolder, tmp_path: Path, step: str
) -> None:
    lock_folder.delete_files(".bundle")
    into = tmp_path / "data"
    process = multiprocessing.get_context("fork").Process(
        target=restore_killed, args=(lock_folder.lock, into, step)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [path.name for path in into.iterdir()] == [".neuromirror-restore"]
    found = restore_lock(lock_folder.lock, into, offline=True)
    assert found.only().status == "ok", found.only().message
    assert [path.name for path in into.iterdir()] == ["demo--000002"]
    folder = found.folder(PUBLISHED)
    assert run(folder, "git", "status", "--porcelain") == ""
    assert run(folder, "git", "fsck", "--no-dangling", "--no-progress").strip() == ""
    assert [path.name for path in (folder / ".git").glob("index*")] == ["index"]


def test_a_damaged_manifest_restores_nothing(lock_folder: LockFolder, tmp_path: Path) -> None:
    lock_folder.delete_files(".bundle")
    path = lock_folder.lock.manifest_path(lock_folder.pin_of(PUBLISHED))
    path.write_bytes(path.read_bytes()[:-10])
    found = restore_lock(lock_folder.lock, tmp_path / "data", offline=True)
    assert found.only().status == "error"
    assert str(path) in found.only().message
    assert list(found.into.iterdir()) == []


def test_two_restores_into_one_folder_exclude_each_other(
    lock_template: LockFolder, tmp_path: Path
) -> None:
    scratch = tmp_path / "data" / ".neuromirror-restore"
    scratch.mkdir(parents=True)
    with file_lock(scratch / "lock", "a test"), pytest.raises(StoreBusyError):
        restore_lock(lock_template.lock, tmp_path / "data")
    assert scratch.is_dir()


def test_only_what_is_pinned_is_got(still_lab: LabStore, tmp_path: Path) -> None:
    paper = LockFolder(still_lab.mirror_harness, tmp_path / "paper")
    paper.pin(PUBLISHED, paths=("sub-20*", "*.txt"))
    found = restore_lock(paper.lock, tmp_path / "data", paper.mirror_harness.store)
    count = paper.pin_of(PUBLISHED).files
    assert 1 < count < 5
    assert found.file_statuses() == {("ok", "sha256"): count}
    here = run(found.folder(PUBLISHED), "git", "annex", "find", "--in=here").splitlines()
    assert len(here) == count
    assert all(path.startswith("sub-20") or path.endswith(".txt") for path in here)
    assert restore_lock(paper.lock, tmp_path / "data").only().status == "notneeded"


# --- subdatasets


def test_a_zarr_comes_with_the_dataset_that_it_is_in(zarrs: LockFolder, tmp_path: Path) -> None:
    paper = zarrs.copy(tmp_path / "paper")
    paper.delete_files(".bundle")
    found = restore_lock(paper.lock, tmp_path / "data")
    assert (found.only().status, found.strategies(ZARR)[-1]) == ("ok", MANIFEST)
    assert found.file_statuses() == {("ok", "sha256"): 2, ("ok", "md5"): 36}
    folder = found.folder(ZARR)
    assert_complete(folder, paper, ZARR)
    (zarr,) = folder.rglob("*.zarr")
    assert missing_content(zarr) == []
    assert run(folder, "git", "submodule", "status")[0] == " "
    assert str(tmp_path) not in (folder / ".gitmodules").read_text()
    assert restore_lock(paper.lock, tmp_path / "data").only().status == "notneeded"


def test_a_zarr_without_its_bundle_is_restored_from_its_manifest(
    zarrs: LockFolder, tmp_path: Path
) -> None:
    paper = zarrs.copy(tmp_path / "paper")
    top = f"{paper.pin_of(ZARR).commit}.bundle"
    (other,) = [path for path in paper.folder.rglob("*.bundle") if path.name != top]
    other.unlink()
    assert restore_lock(paper.lock, tmp_path / "data").only().status == "ok"
    # the rest is restored, and the failure is reported
    shutil.rmtree(tmp_path / "data")
    other.with_name(other.name.replace(".bundle", ".jsonl.zst")).unlink()
    found = restore_lock(paper.lock, tmp_path / "data")
    done = found.only()
    assert (done.status, ".zarr: " in done.message) == ("error", True)
    assert found.file_statuses() == {("ok", "sha256"): 2}
    assert_complete(found.folder(ZARR), paper, ZARR)


def test_chunks_outside_git_are_reported(bucket_harness: MirrorHarness, tmp_path: Path) -> None:
    paper = LockFolder(bucket_harness, tmp_path / "paper")
    paper.pin(BUCKET)
    found = restore_lock(paper.lock, tmp_path / "data")
    done = found.only()
    assert done.status == "impossible"
    (failure,) = found.failed
    assert (failure.status, failure.path.endswith(".zarr")) == ("impossible", True)
    assert str(paper.lock.manifest_path(paper.pin_of(BUCKET)).parent) in failure.message
    # the evidence of the files in git is reported
    other = LockFolder(bucket_harness, tmp_path / "other")
    other.pin(SPLIT)
    found = restore_lock(other.lock, tmp_path / "split", bucket_harness.store)
    assert found.file_statuses() == {("ok", "md5"): 3, ("ok", "etag"): 1}
    # chunks that are not pinned are not counted
    paper.pin(BUCKET, paths=("si_*",))
    assert restore_lock(paper.lock, tmp_path / "data").only().status == "notneeded"


# --- evidence


# --- names


def test_hostile_names_are_restored(bucket_harness: MirrorHarness, tmp_path: Path) -> None:
    paper = LockFolder(bucket_harness, tmp_path / "paper")
    name = "hostile:demo-hostile"
    paper.pin(name)
    found = restore_lock(paper.lock, tmp_path / "data")
    assert (found.only().status, found.strategies(name)) == ("ok", [MANIFEST])
    assert_complete(found.folder(name), paper, name)


# --- the target folder


def test_an_occupied_target_is_not_touched(lock_template: LockFolder, tmp_path: Path) -> None:
    into = tmp_path / "data"
    (into / "demo--000002").mkdir(parents=True)
    # an empty folder is not occupied
    assert restore_lock(lock_template.lock, into, offline=True).only().status == "ok"
    folder = into / "demo--000002"
    run(folder, "git", "commit", "-q", "--allow-empty", "-m", "mine")
    done = command(lock_template, "restore", str(lock_template.file), "--into", str(into))
    assert (done.exit_code, str(folder) in done.stderr) == (2, True)
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "thesis.tex").write_text("mine")
    done = command(lock_template, "restore", str(lock_template.file), "--into", str(into))
    assert (done.exit_code, str(folder) in done.stderr) == (2, True)
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]
    assert sorted(path.name for path in into.iterdir()) == ["demo--000002"]
    done = command(
        lock_template, "restore", str(lock_template.file), "--into", str(folder / "thesis.tex")
    )
    assert (done.exit_code, "thesis.tex" in done.stderr) == (2, True)


def test_git_annex_is_required_before_anything_is_done(
    lock_template: LockFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "git").symlink_to(str(shutil.which("git")))
    monkeypatch.setenv("PATH", str(programs))
    done = command(
        lock_template, "restore", str(lock_template.file), "--into", str(tmp_path / "data")
    )
    assert (done.exit_code, "git-annex" in done.stderr) == (2, True)
    assert not (tmp_path / "data").exists()


def test_git_variables_of_a_calling_hook_are_ignored(
    lock_template: LockFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, "git", "init", "-q", "mine")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "mine" / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "mine" / ".git" / "index"))
    assert restore_lock(lock_template.lock, tmp_path / "data").only().status == "ok"
    assert not (tmp_path / "mine" / ".git" / "annex").exists()


# --- the command


def command(paper: LockFolder, *arguments: str, store: Path | None = None) -> Result:
    return paper.command(*arguments, store=store or paper.folder / "no store")


def test_the_command_refuses_an_invalid_lock(lock_folder: LockFolder, tmp_path: Path) -> None:
    lock_folder.edit("http://127.0.0.1:9", "ext::sh -c true")
    for path, message in ((str(lock_folder.file), "clone URL"), ("no.lock", "no.lock")):
        done = command(lock_folder, "restore", path, "--into", str(tmp_path / "data"))
        assert (done.exit_code, message in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "data").exists()


def test_datalad_accepts_a_restored_dataset(zarrs: LockFolder, tmp_path: Path) -> None:
    found = restore_lock(zarrs.lock, tmp_path / "data")
    folder = found.folder(ZARR)
    (zarr,) = folder.rglob("*.zarr")
    file = next(path for path in zarr.rglob("0") if path.is_symlink())
    run(zarr, "git", "annex", "drop", "--force", "-q", str(file.relative_to(zarr)))
    code = (
        "import sys\n"
        # datalad.api would import all commands
        "import datalad.core.local.status, datalad.distribution.get, datalad.local.subdatasets\n"
        "from datalad.distribution.dataset import Dataset\n"
        "folder, file = sys.argv[1:]\n"
        "top = Dataset(folder)\n"
        "states = top.status(recursive=True, result_renderer='disabled')\n"
        "assert {one['state'] for one in states} == {'clean'}, states\n"
        "got = top.get(file, result_renderer='disabled')\n"
        "assert [one['status'] for one in got if one['path'] == file] == ['ok'], got\n"
        "(sub,) = top.subdatasets(result_renderer='disabled')\n"
        "assert sub['state'] == 'present', sub\n"
    )
    run(tmp_path, sys.executable, "-c", code, str(folder), str(file))
    assert os.path.exists(file)
