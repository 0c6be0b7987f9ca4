"""git commands run with an environment of their own, and their output is read unchanged."""

from pathlib import Path

import pytest

from neuromirror.git import GitError, git_environment, list_tree, run_git, try_git
from neuromirror.git.runner import create_bundle, create_bundle_of_commits, read_bundle_refs
from neuromirror.store import Repository, update_refs
from support.store_publisher import bare_repository, git

MAIN = "refs/heads/main"
TAG = "refs/tags/1.0"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return bare_repository(tmp_path / "r")


def commit_of(repository: Path, entries: str, message: str = "x") -> str:
    tree = git(repository, "mktree", "-z", stdin=entries).strip()
    return git(repository, "commit-tree", tree, "-m", message).strip()


def test_variables_of_another_repository_are_removed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE", "GIT_OBJECT_DIRECTORY"):
        monkeypatch.setenv(name, "/elsewhere")
    environment = git_environment(tmp_path)
    assert environment["GIT_DIR"] == str(tmp_path)
    assert "/elsewhere" not in environment.values()
    assert "GIT_DIR" not in git_environment(None)


def test_failed_command_raises_with_stderr(repository: Repository) -> None:
    with pytest.raises(GitError, match=repository.path.name):
        run_git(repository.path, "rev-parse", "--verify", "no-such-ref")
    assert try_git(repository.path, "rev-parse", "--verify", "no-such-ref").returncode


def test_carriage_returns_in_output_are_kept(repository: Repository) -> None:
    commit = commit_of(repository.path, "", "one\rtwo")
    shown = run_git(repository.path, "show", "-s", "--format=%s", commit)
    assert shown == "one\rtwo\n"


def test_tree_listing_has_every_mode_and_path(repository: Repository) -> None:
    blob = git(repository.path, "hash-object", "-w", "--stdin", stdin="x").strip()
    inner = git(repository.path, "mktree", "-z", stdin=f"120000 blob {blob}\ta\nb\0").strip()
    commit = commit_of(
        repository.path,
        f"100644 blob {blob}\tété\0"
        f"100755 blob {blob}\trun\0"
        f"040000 tree {inner}\tfolder\0"
        f"160000 commit {'1' * 40}\tsub\0",
    )
    assert sorted(list_tree(repository.path, commit), key=lambda entry: entry.path) == [
        (b"120000", blob, b"folder/a\nb"),
        (b"100755", blob, b"run"),
        (b"160000", "1" * 40, b"sub"),
        (b"100644", blob, "été".encode()),
    ]


def test_listing_of_a_missing_commit_is_an_error(repository: Repository) -> None:
    with pytest.raises(GitError, match="0" * 40):
        list(list_tree(repository.path, "0" * 40))


def test_bundle_names_commits_by_other_refs(repository: Repository, tmp_path: Path) -> None:
    commit = commit_of(repository.path, "")
    bundle = tmp_path / "x.bundle"
    refs = {MAIN: commit, TAG: commit}
    create_bundle_of_commits(repository.path, tmp_path / "scratch", bundle, refs, MAIN)
    assert read_bundle_refs(bundle) == {"HEAD": commit, **refs}
    assert repository.refs() == {}


def test_bundle_leaves_out_excluded_history(repository: Repository, tmp_path: Path) -> None:
    first = commit_of(repository.path, "")
    tree = git(repository.path, "rev-parse", f"{first}^{{tree}}").strip()
    second = git(repository.path, "commit-tree", tree, "-p", first, "-m", "second").strip()
    update_refs(repository.path, {}, {MAIN: second})
    create_bundle(repository.path, tmp_path / "x.bundle", [MAIN], [first])
    assert read_bundle_refs(tmp_path / "x.bundle") == {MAIN: second}
    listed = git(repository.path, "bundle", "verify", str(tmp_path / "x.bundle"))
    assert first in listed


def test_file_that_is_not_a_bundle_has_no_refs(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"# v2 git bundle\n\nnonsense")
    assert read_bundle_refs(tmp_path / "x") == {}
    assert read_bundle_refs(tmp_path / "missing") == {}
