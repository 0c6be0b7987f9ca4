"""Index files are those that git writes."""

import hashlib
import subprocess
from pathlib import Path

import pytest

from neuromirror.git import GitError, write_index_file
from support.crafted_repositories import FILE, FOLDER, LINK, SUBDATASET, CraftedRepository


@pytest.fixture
def repository(tmp_path: Path) -> CraftedRepository:
    return CraftedRepository(tmp_path / "repository.git")


def git(repository: CraftedRepository, index: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", f"--git-dir={repository.path}", *arguments],
        env={"PATH": "/usr/bin:/bin", "GIT_INDEX_FILE": str(index)},
        capture_output=True,
        text=True,
        errors="replace",
        check=True,
    )
    return done.stdout + done.stderr


def test_an_index_has_all_entries_of_a_commit(
    repository: CraftedRepository, tmp_path: Path
) -> None:
    blob, index = repository.blob(b"text"), tmp_path / "index"
    folder = repository.tree(*((FILE, b"%05d" % n + b"x" * (n % 70), blob) for n in range(300)))
    deep = repository.tree((LINK, b"l" * 4095, blob), (FILE, b"m", blob), (FILE, b"\xff", blob))
    tree = repository.tree(
        *((FILE, b"a", blob), ("100755", b"b.txt", blob), (FOLDER, b"b", folder)),
        *((SUBDATASET, b"c", "1" * 40), (FOLDER, b"d" * 300, deep)),
    )
    write_index_file(repository.path, repository.commit(tree), index)
    assert git(repository, index, "write-tree", "--missing-ok").strip() == tree
    content = index.read_bytes()
    assert hashlib.sha1(content[:-20], usedforsecurity=False).digest() == content[-20:]
    expected = tmp_path / "expected"
    git(repository, expected, "read-tree", tree)
    staged = ("ls-files", "--stage", "-z")
    assert git(repository, index, *staged) == git(repository, expected, *staged)


def test_a_commit_without_files(repository: CraftedRepository, tmp_path: Path) -> None:
    index = tmp_path / "index"
    write_index_file(repository.path, repository.commit(repository.tree()), index)
    assert git(repository, index, "ls-files") == ""


def test_a_missing_commit_is_an_error(repository: CraftedRepository, tmp_path: Path) -> None:
    with pytest.raises(GitError, match="1" * 40):
        write_index_file(repository.path, "1" * 40, tmp_path / "index")
