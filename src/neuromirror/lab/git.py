"""git commands: what they print, and how they fail."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from neuromirror.mint import git_environment
from neuromirror.model import NeuromirrorError
from neuromirror.store import RefRefused, is_ref_name


class GitFailed(NeuromirrorError):
    """A git command that should have worked did not."""


class ObjectsRefused(GitFailed):
    """Objects that came from somebody else and that git itself would not write."""


CHECKED = tuple(
    argument
    for name in ("fetch", "receive", "transfer")
    for argument in ("-c", f"{name}.fsckObjects=true")
)
"""Options of a git command that receives foreign objects: it refuses malformed ones."""


def check_objects(git_dir: Path) -> None:
    """Check all objects of a repository that somebody else filled, and their connections.

    :data:`CHECKED` is not enough: git does not heed it for bundles (before 2.46), for repositories
    that a plain web server serves, and for packs that were not fetched. Refused are, among others,
    trees with repeated or unsorted entries, or with names such as ``..``, ``.git`` and what file
    systems take for it, and a ``.gitmodules`` whose names or URLs git would not use. Raises
    ObjectsRefused.
    """
    # warnings are errors: --strict
    checks = ("--strict", "--full", "--no-dangling", "--no-reflogs", "--no-progress")
    done = ask_git(git_dir, "fsck", *checks)
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise ObjectsRefused(
            f"its git objects are refused ({'; '.join(lines[:3]) or 'git fsck failed'}); ask where "
            "it came from for another"
        )


def creating(refs: Mapping[str, str]) -> str:
    """Return what ``git update-ref --stdin -z`` reads to create refs (name → commit).

    Raises RefRefused for a name that git would not take: nothing in it may pass for a command.
    """
    for name in refs:
        if not is_ref_name(name):
            raise RefRefused(f"{name!r} cannot be the name of a ref; nothing was done")
    return "".join(f"create {name}\0{commit}\0" for name, commit in refs.items())


def ask_git(git_dir: Path, *arguments: str, lines: str = "") -> subprocess.CompletedProcess[str]:
    """What came of a git command on a repository whose own folder ``git_dir`` is."""
    return subprocess.run(
        ["git", *arguments],
        env=git_environment(git_dir),
        input=lines,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
