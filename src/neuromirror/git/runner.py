"""Run git as a subprocess with an environment that depends on this program only."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from neuromirror.git.errors import GitError
from neuromirror.model import environment_without_secrets

MEMORY_LIMIT = {"GIT_ALLOC_LIMIT": "2g"}
"""Variables that limit a single allocation of git: a small delta may expand to any size."""

STALL_LIMIT = ("-c", "http.lowSpeedLimit=1", "-c", "http.lowSpeedTime=60")
"""Options that end a transfer over HTTP in which no byte arrives for a minute."""

REMOTE_OPTIONS = (*STALL_LIMIT, "-c", "http.followRedirects=false")
"""Options of a git command that requests a repository of others: besides the above, a server cannot
redirect git to an address of this network."""

PACK_MEMORY_OPTIONS = ("-c", "core.packedGitWindowSize=1m", "-c", "core.packedGitLimit=64m")
"""Options that limit the parts of packs in memory, of a git command that reads in their order."""

# `git rev-parse --local-env-vars`, and the variables that redirect object lookups
_REPOSITORY_VARIABLES = frozenset(
    f"GIT_{name}"
    for name in (
        *("ALTERNATE_OBJECT_DIRECTORIES", "COMMON_DIR", "DIR", "GRAFT_FILE", "INDEX_FILE"),
        *("IMPLICIT_WORK_TREE", "NAMESPACE", "OBJECT_DIRECTORY", "PREFIX", "REPLACE_REF_BASE"),
        *("SHALLOW_FILE", "WORK_TREE"),
    )
)


def git_environment(
    git_dir: Path | None, *, fetch_missing: bool = False, credentials: bool = False
) -> dict[str, str]:
    """Return the environment of a git command.

    The variables of another repository are removed: a sync may run in a git hook. Hash and ref
    format are fixed, whatever the user's defaults are.

    Parameters
    ----------
    git_dir
        The repository, as GIT_DIR: git then skips its check of the repository's owner. None lets
        git find the repository from the working directory, and check its owner.
    fetch_missing
        Let git fetch missing objects from a promisor remote. The repository's own configuration
        names the program that does so.
    credentials
        Keep tokens and passwords in the environment, for a command that talks to a remote.

    Returns
    -------
    dict[str, str]
        The whole environment of the child process.
    """
    inherited = dict(os.environ) if credentials else environment_without_secrets()
    environment = {
        name: value for name, value in inherited.items() if name not in _REPOSITORY_VARIABLES
    }
    if not fetch_missing:
        environment["GIT_NO_LAZY_FETCH"] = "1"
    if git_dir is not None:
        environment["GIT_DIR"] = str(git_dir)
    return environment | {
        "GIT_DEFAULT_HASH": "sha1",
        "GIT_DEFAULT_REF_FORMAT": "files",
        "GIT_NO_REPLACE_OBJECTS": "1",
    }


def call_git(
    environment: Mapping[str, str],
    *arguments: str | bytes,
    folder: Path | None = None,
    stdin: bytes = b"",
    umask: int = -1,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run a git command in an environment; return its exit code and output.

    Parameters
    ----------
    environment
        The whole environment of the command, such as that of :func:`git_environment`.
    *arguments
        The command and its arguments, without ``git``.
    folder
        The working directory; None for that of this process.
    stdin
        The command's input.
    umask
        The umask of the command; -1 keeps that of this process.
    timeout
        Seconds after which the command is killed; None for no limit.

    Returns
    -------
    subprocess.CompletedProcess[bytes]
        Exit code, standard output and standard error.

    Raises
    ------
    subprocess.TimeoutExpired
        The command took longer than ``timeout``.
    """
    return subprocess.run(
        ["git", *arguments],
        cwd=folder,
        env=environment,
        input=stdin,
        umask=umask,
        capture_output=True,
        timeout=timeout,
        check=False,
    )


def try_git(
    git_dir: Path | None,
    *arguments: str,
    stdin: str = "",
    environment: Mapping[str, str] | None = None,
    credentials: bool = False,
    umask: int = -1,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a git command on a repository; return its exit code, and its output as text.

    Parameters
    ----------
    git_dir
        The repository's own directory; None as for :func:`git_environment`.
    *arguments
        The command and its arguments, without ``git``.
    stdin
        The command's input.
    environment
        Variables beside those of :func:`git_environment`.
    credentials
        Keep tokens and passwords in the environment.
    umask
        The umask of the command; -1 keeps that of this process.
    timeout
        Seconds after which the command is killed; None for no limit.

    Returns
    -------
    subprocess.CompletedProcess[str]
        Exit code, standard output and standard error.

    Raises
    ------
    subprocess.TimeoutExpired
        The command took longer than ``timeout``.
    """
    # bytes: text mode would turn a carriage return in a commit message into a newline
    done = call_git(
        git_environment(git_dir, credentials=credentials) | dict(environment or {}),
        *arguments,
        stdin=stdin.encode("utf-8", "surrogateescape"),
        umask=umask,
        timeout=timeout,
    )
    return subprocess.CompletedProcess(
        done.args,
        done.returncode,
        done.stdout.decode("utf-8", "replace"),
        done.stderr.decode("utf-8", "replace"),
    )


def run_git(
    git_dir: Path,
    *arguments: str,
    stdin: str = "",
    environment: Mapping[str, str] | None = None,
    umask: int = -1,
) -> str:
    """Run a git command on a repository as :func:`try_git` does, and return its output.

    Parameters
    ----------
    git_dir
        The repository's own directory.
    *arguments
        The command and its arguments, without ``git``.
    stdin
        The command's input.
    environment
        Variables beside those of :func:`git_environment`.
    umask
        The umask of the command; -1 keeps that of this process.

    Returns
    -------
    str
        The standard output.

    Raises
    ------
    GitError
        The command failed; the message has what git printed to stderr.
    """
    done = try_git(git_dir, *arguments, stdin=stdin, environment=environment, umask=umask)
    if done.returncode:
        reason = done.stderr.strip() or f"exit code {done.returncode}"
        raise GitError(f"'git {' '.join(arguments[:2])}' failed in {git_dir}: {reason}")
    return done.stdout


@contextmanager
def start_git(git_dir: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a git command on a repository, with pipes for its input and output.

    The process is killed at the end of the block, so that a reader may stop early.

    Parameters
    ----------
    git_dir
        The repository's own directory.
    *arguments
        The command and its arguments, without ``git``.

    Yields
    ------
    subprocess.Popen[bytes]
        The running process.
    """
    with subprocess.Popen(
        ["git", *arguments],
        env=git_environment(git_dir),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            process.kill()
