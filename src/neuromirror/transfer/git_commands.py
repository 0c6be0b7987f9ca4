"""git commands: what they print, and how they fail."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from neuromirror.mint import git_environment
from neuromirror.model import NeuromirrorError
from neuromirror.store import InvalidRefNameError, is_ref_name


class GitError(NeuromirrorError):
    """A git command that should have worked did not."""


class ObjectsRefusedError(GitError):
    """Objects that came from somebody else and that git itself would not write."""


MEMORY_LIMIT = {"GIT_ALLOC_LIMIT": "2g"}
"""Variables with which git takes no more memory at once: a delta of a few bytes may ask for any."""

FSCK_OPTIONS = tuple(
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
    ObjectsRefusedError.
    """
    # warnings are errors: --strict
    checks = ("--strict", "--full", "--no-dangling", "--no-reflogs", "--no-progress")
    done = try_git(git_dir, "fsck", *checks)
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise ObjectsRefusedError(
            f"its git objects are refused ({'; '.join(lines[:3]) or 'git fsck failed'}); ask where "
            "it came from for another"
        )


def ref_creation_commands(refs: Mapping[str, str]) -> str:
    """Return what ``git update-ref --stdin -z`` reads to create refs (name → commit).

    Raises InvalidRefNameError for a name that git would not take: nothing in it may pass for a
    command.
    """
    for name in refs:
        if not is_ref_name(name):
            raise InvalidRefNameError(f"{name!r} cannot be the name of a ref; nothing was done")
    return "".join(f"create {name}\0{commit}\0" for name, commit in refs.items())


def disabled_filters() -> dict[str, str]:
    """Return variables with which git runs no filter of this machine but git-annex's.

    A ``.gitattributes`` of others could start any of them (git-lfs would ask its server).
    """
    environment = git_environment(Path())
    del environment["GIT_DIR"]
    done = subprocess.run(
        ["git", "config", "-z", "--name-only", "--get-regexp", r"^filter\."],
        cwd=os.sep,
        env=environment,
        capture_output=True,
        check=False,
    )
    names = {os.fsdecode(name).rpartition(".")[0] for name in done.stdout.split(b"\0")[:-1]}
    off = {"clean": "", "smudge": "", "process": "", "required": "false"}
    pairs = [(f"{name}.{key}", off[key]) for name in names - {"filter.annex"} for key in off]
    first = int(os.environ.get("GIT_CONFIG_COUNT") or 0)
    found = {"GIT_CONFIG_COUNT": str(first + len(pairs))}
    for number, (key, value) in enumerate(pairs, first):
        found |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return found if pairs else {}


def try_git(git_dir: Path, *arguments: str, lines: str = "") -> subprocess.CompletedProcess[str]:
    """What came of a git command on a repository whose own folder ``git_dir`` is."""
    return subprocess.run(
        ["git", *arguments],
        env=MEMORY_LIMIT | git_environment(git_dir),
        input=lines,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
