"""git commands: what they print, and how they fail."""

from __future__ import annotations

import subprocess
from pathlib import Path

from neuromirror.mint import git_environment
from neuromirror.model import NeuromirrorError


class GitFailed(NeuromirrorError):
    """A git command that should have worked did not."""


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
