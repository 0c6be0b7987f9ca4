"""The folders into which datasets are restored."""

from __future__ import annotations

import stat
from contextlib import suppress
from pathlib import Path

from neuromirror.git import GitError
from neuromirror.lab.restore_strategies import RestoreTarget
from neuromirror.lab.work_trees import run_git
from neuromirror.model import ConfigurationError
from neuromirror.store import SafeFolder, Store
from neuromirror.transfer.repository_check import check_restored_repository


class TargetOccupiedError(ConfigurationError):
    """The target folder of a dataset has other content."""


def is_restored(
    parent: SafeFolder, name: str, target: RestoreTarget, lock_dir: Path, store: Store | None
) -> bool:
    """Return whether a dataset is restored already, at its commit; an empty folder is not.

    Parameters
    ----------
    parent
        The folder that has the restored datasets.
    name
        The name of the dataset's folder in it.
    target
        The dataset and its commit.
    lock_dir
        The folder of the lock file.
    store
        The local store, whose repositories are accepted as remotes; None without one.

    Raises
    ------
    TargetOccupiedError
        The folder has other content.
    UnsafePathError
        The folder is a symlink.
    RepositoryRefusedError
        The repository has settings or hooks that could run programs.
    """
    root = parent.path / name
    head = ""
    try:
        with parent.folder(name) as folder:
            if not folder.names():
                return False
            git_dir = folder.status(".git")
            if git_dir is not None and stat.S_ISDIR(git_dir.st_mode):
                check_restored_repository(
                    folder, (lock_dir, parent.path), None if store is None else store.root
                )
                with suppress(GitError):
                    head = run_git(root, "rev-parse", "-q", "--verify", "HEAD").strip()
    except FileNotFoundError:
        return False
    except NotADirectoryError as error:
        raise TargetOccupiedError(
            f"{root} is not a folder; choose another one with --into"
        ) from error
    if head == target.commit:
        return True
    what = f"a repository at commit {head}" if head else "other content"
    raise TargetOccupiedError(
        f"{root} has {what}, not {target.name} at commit {target.commit}; move it away, or "
        f"choose another folder with --into"
    )
