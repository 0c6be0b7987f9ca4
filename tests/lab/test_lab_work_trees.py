"""A checkout beside other work in a new repository."""

from pathlib import Path

import pytest

from neuromirror.git import GitError
from neuromirror.lab.work_trees import parallel_checkout
from support.crafted_repositories import FILE, LINK, CraftedRepository
from support.lock_folders import run


@pytest.fixture
def repository(tmp_path: Path) -> CraftedRepository:
    """A new repository with a work tree, and without files."""
    folder = tmp_path / "repository"
    folder.mkdir()
    return CraftedRepository(folder / ".git")


def _commit(repository: CraftedRepository) -> str:
    link = (LINK, b"x", repository.link())
    return repository.commit(repository.tree((FILE, b"a", repository.blob(b"text")), link))


def test_the_index_and_the_work_tree_are_complete_at_the_end(repository: CraftedRepository) -> None:
    folder, commit = repository.path.parent, _commit(repository)
    with parallel_checkout(folder, commit, {}):
        # the index is not locked
        run(folder, "git", "write-tree")
    assert run(folder, "git", "rev-parse", "HEAD").strip() == commit
    assert run(folder, "git", "ls-files").split() == ["a", "x"]
    assert run(folder, "git", "status", "--porcelain") == ""
    assert (folder / "a").read_text() == "text"
    assert (folder / "x").is_symlink()
    assert [path.name for path in repository.path.glob("index*")] == ["index"]


def test_filters_of_git_annex_do_not_run(repository: CraftedRepository, tmp_path: Path) -> None:
    folder, commit, marker = repository.path.parent, _commit(repository), tmp_path / "marker"
    run(folder, "git", "config", "filter.annex.smudge", f"touch {marker}; cat")
    (repository.path / "info").mkdir(exist_ok=True)
    (repository.path / "info" / "attributes").write_text("* filter=annex\n")
    with parallel_checkout(folder, commit, {}):
        pass
    assert (folder / "a").read_text() == "text"
    assert not marker.exists()


def test_a_failed_checkout_is_an_error(repository: CraftedRepository) -> None:
    commit = repository.commit(repository.tree((FILE, b"a", "1" * 40)))
    with (
        pytest.raises(GitError, match="1" * 40),
        parallel_checkout(repository.path.parent, commit, {}),
    ):
        pass
