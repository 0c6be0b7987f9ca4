"""Run git in a repository with a work tree, such as one that is being restored."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from neuromirror.git import MEMORY_LIMIT, PACK_MEMORY_OPTIONS, GitError, git_environment
from neuromirror.lab.lock_manifests import ListedSubdataset
from neuromirror.net import redact

_NO_ANNEX_FILTER: Final = tuple(
    option
    for setting in ("smudge=", "process=", "required=false")
    for option in ("-c", f"filter.annex.{setting}")
)


def run_git(
    repository: Path,
    *arguments: str,
    lines: str = "",
    environment: Mapping[str, str] | None = None,
    credentials: bool = False,
) -> str:
    """Run a git command in a repository with a work tree; return its output.

    Parameters
    ----------
    repository
        The top folder of the repository's work tree.
    *arguments
        The command and its arguments, without ``git``.
    lines
        The input of the command.
    environment
        Further environment variables.
    credentials
        Whether variables that hold tokens and passwords are kept.

    Raises
    ------
    GitError
        The command failed.
    """
    done = subprocess.run(
        ["git", "-C", str(repository), *arguments],
        env=_environment(repository, environment, credentials=credentials),
        input=lines,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise _git_error(done.stderr, done.returncode)
    return done.stdout


def _environment(
    repository: Path, environment: Mapping[str, str] | None, *, credentials: bool = False
) -> dict[str, str]:
    kept = git_environment(repository, credentials=credentials)
    del kept["GIT_DIR"]
    return MEMORY_LIMIT | kept | dict(environment or {})


def _git_error(stderr: str, code: int) -> GitError:
    messages = [line for line in stderr.splitlines() if line.strip()]
    return GitError(redact("; ".join(messages[:3]) or f"exit code {code}"))


@contextmanager
def parallel_checkout(
    repository: Path, commit: str, environment: Mapping[str, str]
) -> Iterator[None]:
    """Check out a commit in a new repository, in a process that runs beside the block.

    HEAD and the index have the commit at the start of the block, so that git-annex can be
    initialized in it; the work tree is complete at its end. git writes the files with an index of
    its own, because two processes cannot lock one index. No hook and no filter of git-annex runs.

    Parameters
    ----------
    repository
        The top folder of the work tree, which has no files.
    commit
        The commit id in hex.
    environment
        Further environment variables.

    Raises
    ------
    GitError
        git cannot check out the commit.
    """
    git_dir = repository / ".git"
    index = git_dir / "index.checkout"
    run_git(repository, "update-ref", "--no-deref", "HEAD", commit)
    run_git(repository, "read-tree", commit)
    options = ("-C", str(repository), *PACK_MEMORY_OPTIONS, *_NO_ANNEX_FILTER)
    with subprocess.Popen(
        ["git", *options, "read-tree", "--reset", "-u", commit],
        env=_environment(repository, environment) | {"GIT_INDEX_FILE": str(index.absolute())},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        try:
            yield
            _, stderr = process.communicate()
        finally:
            process.kill()
    if process.returncode:
        raise _git_error(stderr, process.returncode)
    # it has the file system's data of each file, which `git status` compares
    os.replace(index, git_dir / "index")


def has_commit(repository: Path, commit: str) -> bool:
    """Return whether a repository has the object of a commit, given its id in hex."""
    try:
        run_git(repository, "cat-file", "-e", f"{commit}^{{commit}}")
    except GitError:
        return False
    return True


def has_annex(repository: Path) -> bool:
    """Return whether a repository has a branch ``git-annex`` or ``origin/git-annex``."""
    listed = ("refs/heads/git-annex", "refs/remotes/origin/git-annex")
    return bool(run_git(repository, "for-each-ref", *listed).strip())


def register_submodule(root: Path, one: ListedSubdataset) -> None:
    """Mark a subdataset as active in the git configuration, as ``datalad get`` does."""
    name = f"submodule.{one.path}"
    run_git(root, "config", f"{name}.active", "true")
    with suppress(GitError):
        url = run_git(root / one.path, "config", "remote.origin.url").strip()
        run_git(root, "config", f"{name}.url", url)
