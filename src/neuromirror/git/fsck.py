"""Check git objects that come from an untrusted source."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NoReturn

from neuromirror.git.errors import ObjectsRefusedError
from neuromirror.git.runner import MEMORY_LIMIT, try_git

FSCK_OPTIONS = tuple(
    argument
    for name in ("fetch", "receive", "transfer")
    for argument in ("-c", f"{name}.fsckObjects=true")
)
"""Options of a git command that receives objects: git rejects malformed ones."""


def check_objects(git_dir: Path) -> None:
    """Check all objects of an untrusted repository, and that they are connected.

    :data:`FSCK_OPTIONS` are not enough: git ignores them for bundles (before 2.46), for
    repositories on a plain web server, and for packs that were not fetched. Among others, the check
    rejects trees with duplicate or unsorted entries, names such as ``..`` and ``.git`` in any
    spelling that a file system equates with them, and a ``.gitmodules`` with names or URLs that git
    does not accept.

    Parameters
    ----------
    git_dir
        The repository.

    Raises
    ------
    ObjectsRefusedError
        An object is malformed or missing.
    """
    # --strict: warnings are errors
    checks = ("--strict", "--full", "--no-dangling", "--no-reflogs", "--no-progress")
    done = try_git(git_dir, "fsck", *checks, environment=MEMORY_LIMIT)
    if done.returncode:
        _refuse(done)


def check_pack(git_dir: Path, pack: Path) -> None:
    """Check the objects of a pack as :func:`check_objects` does, and that their links exist.

    Other packs are not read, which saves minutes and memory with millions of objects.

    Parameters
    ----------
    git_dir
        The repository, which has the objects that the pack links to.
    pack
        The pack, beside its index.

    Raises
    ------
    ObjectsRefusedError
        An object is malformed or missing, or pack and index differ.
    """
    check = ("index-pack", "--verify", "--strict", str(pack))
    done = try_git(git_dir, *check, environment=MEMORY_LIMIT)
    if done.returncode:
        _refuse(done)


def _refuse(done: subprocess.CompletedProcess[str]) -> NoReturn:
    lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    raise ObjectsRefusedError(
        f"its git objects fail git's checks ({'; '.join(lines[:3]) or 'git failed'}); "
        "get another copy from its origin"
    )
