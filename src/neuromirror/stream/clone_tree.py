"""The checked-out files of a clone: contents that it has are read there, others at their URLs."""

from __future__ import annotations

import re
from pathlib import Path

from neuromirror.annex import hash_lower, hash_mixed, key_file_name
from neuromirror.git import read_refs
from neuromirror.lab.lock_manifests import ListedFile
from neuromirror.stream.errors import StreamError
from neuromirror.stream.git_tree import GitTree
from neuromirror.transfer.verified_repository import NotADatasetError, VerifiedRepository


class CloneTree(GitTree):
    """The files of the commit that is checked out in a clone. Thread-safe.

    Parameters
    ----------
    folder
        The top folder of the work tree.
    commit
        Another commit; by default the one that is checked out.

    Raises
    ------
    NotADatasetError
        The folder is not a clone, or has no commit yet.
    """

    def __init__(self, folder: Path, commit: str | None = None) -> None:
        with VerifiedRepository.at(folder) as repository:
            git_dir = repository.git_dir
            commit = commit or repository.head()
        self._folder = folder
        self._objects = git_dir / "annex" / "objects"
        super().__init__(git_dir, commit, _annex_commit(git_dir), str(folder))

    def local_content(self, file: ListedFile) -> Path | None:
        """Return the path of the content in the clone or in a vault; None without one."""
        tree, _ = self._locate(file.path)
        if not isinstance(tree, CloneTree) or not file.key:
            return None
        name = key_file_name(file.key).decode()
        for folder in (hash_mixed(file.key), hash_lower(file.key)):
            path = tree._objects / folder.decode() / name / name
            if path.exists():
                return path
        return super().local_content(file)

    def _open_subdataset(self, path: str, commit: str) -> GitTree:
        try:
            return CloneTree(self._folder / path, commit)
        except NotADatasetError as error:
            raise StreamError(
                f"{self._folder / path}: the subdataset is not installed; run 'datalad get -n "
                f"{path}' in {self._folder}",
                path,
            ) from error


def _annex_commit(git_dir: Path) -> str | None:
    """Return the git-annex branch; before ``git annex init``, the one of a remote."""
    refs = read_refs(git_dir)
    found = refs.get("refs/heads/git-annex")
    others = (
        commit
        for name, commit in sorted(refs.items())
        # not custody/git-annex of a remote, which has no URLs
        if re.fullmatch(r"refs/remotes/[^/]+/git-annex", name)
    )
    return found or next(others, None)
