"""Run git in a repository with a work tree, such as one that is being restored."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from neuromirror.git import (
    MEMORY_LIMIT,
    PACK_MEMORY_OPTIONS,
    GitError,
    call_git,
    git_environment,
    write_index_file,
)
from neuromirror.lab.lock_manifests import ListedSubdataset
from neuromirror.net import redact

KEEP_BYTES: Final = "core.autocrlf=false"
"""A setting of each new clone, so that git writes the bytes of a version as they are."""
_ANNEX_REFS: Final = ("refs/heads/git-annex", "refs/remotes/origin/git-annex")
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
    done = call_git(
        _environment(environment, credentials=credentials),
        *("-C", str(repository), *arguments),
        stdin=lines.encode("utf-8", "surrogateescape"),
    )
    if done.returncode:
        raise _git_error(done.stderr, done.returncode)
    return done.stdout.decode(errors="replace")


def _environment(
    environment: Mapping[str, str] | None, *, credentials: bool = False
) -> dict[str, str]:
    return MEMORY_LIMIT | git_environment(None, credentials=credentials) | dict(environment or {})


def _git_error(stderr: bytes, code: int) -> GitError:
    messages = [line for line in stderr.decode(errors="replace").splitlines() if line.strip()]
    return GitError(redact("; ".join(messages[:3]) or f"exit code {code}"))


@contextmanager
def parallel_checkout(
    repository: Path, commit: str, environment: Mapping[str, str]
) -> Iterator[None]:
    """Check out a commit in a new repository, in a process that runs beside the block.

    HEAD, the index and the work tree have the commit at the end of the block. In the block, the
    repository has none of them, so that `git annex init` does not run `git status` on all files.
    No hook and no filter of git-annex runs.

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
    options = ("-C", str(repository), *PACK_MEMORY_OPTIONS, *_NO_ANNEX_FILTER)
    with subprocess.Popen(
        ["git", *options, "read-tree", "--reset", "-u", commit],
        env=_environment(environment) | {"GIT_INDEX_FILE": str(index.absolute())},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            yield
            _, stderr = process.communicate()
        finally:
            process.kill()
    if process.returncode:
        raise _git_error(stderr, process.returncode)
    os.replace(index, git_dir / "index")
    run_git(repository, "update-ref", "--no-deref", "HEAD", commit)


def write_annex_index(repository: Path, commit: str) -> None:
    """Create the git-annex branch of a clone from that of its origin, and git-annex's index of it.

    git-annex would write and compare the index with git, which needs 1 GB of memory with a million
    files.

    Parameters
    ----------
    repository
        The top folder of the work tree, in which git-annex is not initialized.
    commit
        The commit of the branch.

    Raises
    ------
    GitError
        git cannot list the branch.
    """
    git_dir = repository / ".git"
    run_git(repository, "update-ref", _ANNEX_REFS[0], commit)
    annex = git_dir / "annex"
    annex.mkdir()
    write_index_file(git_dir, commit, annex / "index")
    # the commit of which the index has all files
    (annex / "index.lck").write_text(f"{commit}\n")


def has_commit(repository: Path, commit: str) -> bool:
    """Return whether a repository has the object of a commit, given its id in hex."""
    try:
        run_git(repository, "cat-file", "-e", f"{commit}^{{commit}}")
    except GitError:
        return False
    return True


def find_annex_commit(repository: Path) -> str | None:
    """Return the commit of a branch ``git-annex``, or else ``origin/git-annex``; None without."""
    listed = run_git(repository, "for-each-ref", "--format=%(objectname)", *_ANNEX_REFS)
    return next(iter(listed.split()), None)


def is_origin_checked(repository: Path) -> bool:
    """Return whether git-annex has recorded whether the origin has content."""
    settings = set(run_git(repository, "config", "--list", "--name-only").splitlines())
    found = {"ignore", "ignore-auto", "uuid"} & {
        name.removeprefix("remote.origin.annex-") for name in settings
    }
    return found in ({"ignore"}, {"uuid"})


def register_submodule(root: Path, one: ListedSubdataset) -> None:
    """Mark a subdataset as active in the git configuration, as ``datalad get`` does."""
    name = f"submodule.{one.path}"
    run_git(root, "config", f"{name}.active", "true")
    with suppress(GitError):
        url = run_git(root / one.path, "config", "remote.origin.url").strip()
        run_git(root, "config", f"{name}.url", url)
