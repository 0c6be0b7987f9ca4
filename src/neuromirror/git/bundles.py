"""Write and read git bundles: commits with their history in one file (git-bundle(1))."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from neuromirror.git.refs import ref_creation_commands
from neuromirror.git.runner import MEMORY_LIMIT, run_git, try_git


def create_bundle(
    git_dir: Path, bundle: Path, refs: Iterable[str], exclude: Iterable[str] = ()
) -> None:
    """Write a bundle of refs of a repository, without the history of ``exclude``.

    Parameters
    ----------
    git_dir
        The repository.
    bundle
        The file to write.
    refs
        Full names of the refs.
    exclude
        Commit ids whose history the reader of the bundle has.

    Raises
    ------
    GitError
        git cannot write the bundle.
    """
    excluded = list(exclude)
    options = ["--not", *excluded] if excluded else []
    run_git(git_dir, "bundle", "create", "-q", str(bundle), *refs, *options)


def create_bundle_of_commits(
    repository: Path, scratch: Path, bundle: Path, refs: Mapping[str, str], head: str
) -> None:
    """Write a bundle in which refs have the given names, whatever the repository calls them.

    The repository is only read: a temporary one borrows its objects.

    Parameters
    ----------
    repository
        The bare repository that has the objects.
    scratch
        The directory of the temporary repository, which must not exist yet.
    bundle
        The file to write.
    refs
        Full name → commit id, of the refs beside ``HEAD``.
    head
        The full name of the ref that ``HEAD`` points to.

    Raises
    ------
    GitError
        git cannot write the bundle.
    InvalidRefNameError
        A name is not a valid ref name.
    """
    run_git(scratch, "init", "-q", "--bare", str(scratch), environment=MEMORY_LIMIT)
    alternates = scratch / "objects" / "info" / "alternates"
    alternates.write_bytes(os.fsencode(repository.absolute() / "objects") + b"\n")
    (scratch / "HEAD").write_text(f"ref: {head}\n")
    commands = ref_creation_commands(refs)
    run_git(scratch, "update-ref", "--stdin", "-z", stdin=commands, environment=MEMORY_LIMIT)
    create_bundle(scratch, bundle, ["HEAD", *refs])


def read_bundle_refs(bundle: Path) -> dict[str, str]:
    """Return the refs of a bundle; empty if it is missing or unreadable.

    Parameters
    ----------
    bundle
        The file.

    Returns
    -------
    dict[str, str]
        Name → commit id in hex.
    """
    if not bundle.is_file():
        return {}
    # no repository: the directory of a foreign bundle may look like one, with a configuration
    done = try_git(Path(os.devnull), "bundle", "list-heads", str(bundle.absolute()))
    pairs = (line.partition(" ") for line in done.stdout.split("\n") if line)
    return {name: commit for commit, _, name in pairs}
