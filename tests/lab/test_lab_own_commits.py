"""Clones with own commits, and the checked-out version."""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from neuromirror.cli import main
from neuromirror.lab.clone import clone_dataset as clone_stored_dataset
from neuromirror.lab.clone import store_url
from neuromirror.lab.pin import pin_request_for_clone
from neuromirror.lab.restore import restore
from neuromirror.model import NeuromirrorError
from support.lab_store import LabStore
from support.lock_folders import PUBLISHED, LockFolder, run
from support.mirror_harness import run_git

Clones = Callable[..., Path]


@pytest.fixture(scope="module")
def clones(still_lab: LabStore, tmp_path_factory: pytest.TempPathFactory) -> Clones:
    """Copy a clone of a version, which is made once; a label is empty for HEAD."""

    @cache
    def template(label: str) -> Path:
        folder = tmp_path_factory.mktemp("cloned") / "clone"
        url = store_url(still_lab.mirror_harness.folder, PUBLISHED.replace(":", "--"), label)
        clone_stored_dataset(url, folder)
        return folder

    def copy(folder: Path, label: str = "") -> Path:
        return Path(shutil.copytree(template(label), folder / "clone", symlinks=True))

    return copy


def append_text2git(clone: Path) -> None:
    """Have git-annex add text files to git, as ``datalad run-procedure cfg_text2git`` does."""
    with (clone / ".gitattributes").open("a") as attributes:
        attributes.write("* annex.largefiles=((mimeencoding=binary)and(largerthan=0))\n")


def commit(clone: Path) -> None:
    """Commit the work tree as ``datalad save`` does."""
    run_git(clone, "annex", "add", "-q", ".")
    run_git(clone, "add", "-u")
    run_git(clone, "commit", "-q", "-m", "own work")


def records(folder: Path, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    done = CliRunner().invoke(main, [*arguments, "--json"])
    return done.exit_code, [json.loads(line) for line in done.stdout.splitlines()]


def verify_clone(clone: Path) -> tuple[int, dict[str, tuple[str, str]], dict[str, Any]]:
    """Return the exit code, status and kind by path, and the summary."""
    code, found = records(clone, "verify", str(clone), "--allow-missing")
    files = {one["path"]: (one["status"], one["kind"]) for one in found if one["path"] != "."}
    return code, files, found[-1]


# --- verify


def test_a_labs_own_files_are_listed_separately_and_an_update_is_merged(
    still_lab: LabStore, clones: Clones, tmp_path: Path
) -> None:
    old, new = still_lab.labels(PUBLISHED)
    clone = clones(tmp_path, old)
    _, mirrored, before = verify_clone(clone)
    run_git(clone, "switch", "-q", "-c", "published")
    (clone / "analysis.py").write_text("print(1)\n")
    (clone / "figure.bin").write_bytes(b"\0\1\2" * 999)
    # an update must not change .gitattributes
    append_text2git(clone)
    commit(clone)
    code, found, summary = verify_clone(clone)
    own = {path for path, (_, kind) in found.items() if kind == "local"}
    assert own == {"analysis.py", "figure.bin", ".gitattributes"}
    assert {found[path][0] for path in own} == {"notneeded"}
    assert {path: one for path, one in found.items() if path not in own} == {
        path: one for path, one in mirrored.items() if path not in own
    }
    assert (code, summary["local_changes"], summary["failed"]) == (0, 3, 0)
    assert summary["dataset"] == before["dataset"]
    assert summary["version"] == before["version"] == old
    run(clone, "datalad", "update", "--how", "merge")
    code, found, summary = verify_clone(clone)
    assert (code, summary["version"], summary["local_changes"]) == (0, new, 3)
    assert found["analysis.py"] == ("notneeded", "local")


def test_files_of_the_mirror_that_a_lab_changed_are_named(
    still_lab: LabStore, clones: Clones, tmp_path: Path
) -> None:
    clone = clones(tmp_path)
    changed, removed = run_git(clone, "ls-files", "*.nwb").splitlines()[:2]
    (clone / changed).unlink()
    (clone / changed).write_bytes(b"something else")
    run_git(clone, "rm", "-q", removed)
    commit(clone)
    code, found, summary = verify_clone(clone)
    assert {path for path, (status, _) in found.items() if status == "error"} == {changed}
    assert (found[changed][1], found[removed]) == ("file", ("notneeded", "local"))
    # the other failure is the state digest
    assert (code, summary["failed"], summary["local_changes"]) == (1, 2, 1)


def test_own_commits_on_a_restored_dataset_are_no_failure(
    still_lab: LabStore, tmp_path: Path
) -> None:
    paper = LockFolder(still_lab.mirror_harness, tmp_path / "paper")
    paper.pin(PUBLISHED)
    into = tmp_path / "data"
    assert not [
        one for one in restore(paper.lock, into, store=still_lab.mirror_harness.store) if one.failed
    ]
    clone = into / PUBLISHED.replace(":", "--")
    (clone / "analysis.py").write_text("print(1)\n")
    commit(clone)
    arguments = ("verify", str(paper.file), "--in", str(into), "--allow-missing")
    code, found = records(clone, *arguments)
    assert code == 0, found
    assert [one["path"] for one in found if one["kind"] == "local"] == ["analysis.py"]


# --- pin


def pin_clone(lab: LabStore, clone: Path, lock: Path) -> dict[str, Any]:
    store = str(lab.mirror_harness.folder)
    code, found = records(clone, "pin", str(clone), "-o", str(lock), "--store", store)
    assert code == 0, found
    [one] = found
    return one


@pytest.mark.parametrize("which", ["draft", "older"])
def test_a_version_that_the_name_does_not_mean_is_pinned_with_a_warning(
    still_lab: LabStore, clones: Clones, tmp_path: Path, which: str
) -> None:
    old, new = still_lab.labels(PUBLISHED)
    clone = clones(tmp_path, "draft" if which == "draft" else old)
    paper = LockFolder(still_lab.mirror_harness, tmp_path)
    record = pin_clone(still_lab, clone, paper.file)
    assert paper.pin_of(PUBLISHED).commit == run_git(clone, "rev-parse", "HEAD").strip()
    assert record["latest"] == new != record["version"]
    arguments = ["pin", str(clone), "-o", str(paper.file), "--store"]
    printed = CliRunner().invoke(main, [*arguments, str(still_lab.mirror_harness.folder)])
    assert (printed.exit_code, printed.stderr.count(new)) == (0, 1)


def test_an_adjusted_branch_pins_the_commit_that_was_adjusted(
    still_lab: LabStore, clones: Clones, tmp_path: Path
) -> None:
    clone = clones(tmp_path)
    commit = run_git(clone, "rev-parse", "HEAD").strip()
    run_git(clone, "annex", "adjust", "--unlock")
    paper = LockFolder(still_lab.mirror_harness, tmp_path)
    pin_clone(still_lab, clone, paper.file)
    assert paper.pin_of(PUBLISHED).commit == commit != run_git(clone, "rev-parse", "HEAD").strip()


def test_own_commits_are_not_pinned(still_lab: LabStore, clones: Clones, tmp_path: Path) -> None:
    clone = clones(tmp_path)
    (clone / "analysis.py").write_text("print(1)\n")
    commit(clone)
    with (
        still_lab.mirror_harness.index() as index,
        pytest.raises(NeuromirrorError, match="follows"),
    ):
        pin_request_for_clone(clone, index)
    run_git(tmp_path, "init", "-q", "other")
    run_git(tmp_path / "other", "commit", "-q", "--allow-empty", "-m", "no mirror made this")
    with (
        still_lab.mirror_harness.index() as index,
        pytest.raises(NeuromirrorError, match="by a mirror"),
    ):
        pin_request_for_clone(tmp_path / "other", index)
