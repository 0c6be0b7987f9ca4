"""Variables that keep git from running the configured filters of this machine."""

from __future__ import annotations

import os
from pathlib import Path

from neuromirror.git import call_git, git_environment


def disabled_filters() -> dict[str, str]:
    """Return environment variables with which git runs no filter but git-annex's.

    A foreign ``.gitattributes`` could activate any filter that the user has configured (git-lfs
    would contact its server).
    """
    options = ("-z", "--name-only", "--get-regexp", r"^filter\.")
    done = call_git(git_environment(None), "config", *options, folder=Path(os.sep))
    names = {os.fsdecode(name).rpartition(".")[0] for name in done.stdout.split(b"\0")[:-1]}
    off = {"clean": "", "smudge": "", "process": "", "required": "false"}
    pairs = [(f"{name}.{key}", off[key]) for name in names - {"filter.annex"} for key in off]
    first = int(os.environ.get("GIT_CONFIG_COUNT") or 0)
    found = {"GIT_CONFIG_COUNT": str(first + len(pairs))}
    for number, (key, value) in enumerate(pairs, first):
        found |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return found if pairs else {}
