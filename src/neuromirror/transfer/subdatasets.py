"""Installation of subdatasets with git alone.

``datalad get -n`` and git-annex's commands would enable the special remotes that a subdataset
names, and obey a ``.datalad/config`` that came with it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from neuromirror.git import FSCK_OPTIONS, REMOTE_OPTIONS, call_git, with_redirect_advice
from neuromirror.net import permanent_refusal, redact
from neuromirror.transfer.annex_clone import work_tree_environment

_AT_ONCE: Final = 500
_HINT: Final = "the subdataset is not installed"
_PLAIN_PATHS: Final = {"GIT_LITERAL_PATHSPECS": "1"}
_REMOTE: Final = "https:http:ssh"
_LOCAL: Final = f"{_REMOTE}:file"


def is_installed(top: Path, path: bytes) -> bool:
    """Return whether the subdataset at a path of a dataset is cloned.

    ``top`` is the top folder of the dataset.
    """
    return os.path.lexists(os.path.join(os.fsencode(top), path, b".git"))


def install_subdatasets(top: Path, paths: Sequence[bytes]) -> dict[bytes, str]:
    """Clone subdatasets without content; return the reasons for those that failed, by path."""
    failed: dict[bytes, str] = {}
    for first in range(0, len(paths), _AT_ONCE):
        some = paths[first : first + _AT_ONCE]
        refused = _refused_hosts(top, some)
        failed.update({path: f"{_HINT}: its host is {refused[path]}" for path in refused})
        some = [path for path in some if path not in refused]
        if not some:
            continue
        _update(top, some)
        for path in some:
            if not is_installed(top, path):
                # git stops at the first subdataset without a URL: try the others one by one
                message = _update(top, [path]) or "git failed to clone it"
                if not is_installed(top, path):
                    failed[path] = f"{_HINT}: {message}"
    return failed


def _refused_hosts(top: Path, paths: Sequence[bytes]) -> dict[bytes, str]:
    """Return why the hosts of subdatasets are never requested, for those that are not."""
    environment = work_tree_environment() | _PLAIN_PATHS
    # resolves relative URLs
    call_git(environment, "submodule", "--quiet", "init", "--", *paths, folder=top)
    urls = _submodule_settings(top, "url")
    found = {}
    for name, path in _submodule_settings(top, "path", "-f", ".gitmodules").items():
        reason = permanent_refusal(os.fsdecode(urls.get(name, b"")))
        if path in paths and reason is not None:
            found[path] = reason
    return found


def _submodule_settings(top: Path, setting: str, *options: str) -> dict[bytes, bytes]:
    """Return a setting of submodules by their name."""
    pattern = rf"^submodule\..*\.{setting}$"
    listed = call_git(
        work_tree_environment(), "config", *options, "-z", "--get-regexp", pattern, folder=top
    )
    pairs = (one.partition(b"\n") for one in listed.stdout.split(b"\0") if one)
    return {name.removesuffix(setting.encode()): value for name, _, value in pairs}


def _update(top: Path, paths: Sequence[bytes]) -> str:
    """Clone subdatasets and check out their commits; return the last line of git's message."""
    done = call_git(
        work_tree_environment(credentials=True)
        | {"GIT_ALLOW_PROTOCOL": _allowed_protocols(top), "GIT_TERMINAL_PROMPT": "0"}
        | _PLAIN_PATHS,
        *(*REMOTE_OPTIONS, *FSCK_OPTIONS),
        *("submodule", "--quiet", "update", "--init", "--checkout", "--"),
        *paths,
        folder=top,
    )
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    advised = [one for one in map(with_redirect_advice, lines) if one not in lines]
    return redact((advised or lines)[-1]) if lines else ""


def _allowed_protocols(top: Path) -> str:
    """Return the protocols by which git may clone.

    Local files are allowed only if the dataset itself came from a local path.

    A ``.gitmodules`` is foreign: ``ext::`` would run a program, and a path could read any
    repository.
    """
    options = ("config", "--get-regexp", r"^remote\..*\.url$")
    done = call_git(work_tree_environment(), *options, folder=top)
    urls = [line.partition(" ")[2] for line in os.fsdecode(done.stdout).splitlines()]
    local = any(url.startswith(("/", ".")) or urlsplit(url).scheme == "file" for url in urls)
    return _LOCAL if local else _REMOTE
