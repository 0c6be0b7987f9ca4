"""Check that a repository's own configuration and hooks run no programs.

git and git-annex run the programs that a repository's configuration and hooks name. A repository
that was received as files (a tarball, a shared disk) brings its own. ``get`` refuses a repository
that names programs, unless its configuration is trusted. Only the repository's own configuration is
checked, not that of the user or the system. Settings and hooks that git, git-annex, DataLad,
git-lfs and ``restore`` write are accepted, and so are those of commands that ``get`` never runs
(aliases, editors, diff and merge drivers, hooks of commits and pushes).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from neuromirror.git import call_git, git_environment
from neuromirror.transfer.annex_settings import AnnexSettings
from neuromirror.transfer.repository_check import RepositoryRefusedError, is_hook_of_git_annex

_NEVER: Final = r"(?!)"
_NO_PROGRAM: Final = r"(?i:true|false|yes|no|on|off|0|1|)"
_LOCATION: Final = (
    r"(?:(?:annex|git|ria)\+)?(?:https?|git|ssh|file)://(?!-|%2[dD]|[^/]*@-).*"
    r"|(?!-)(?:[\w.-]+@(?!-))?(?:[\w.-]+|\[[0-9a-fA-F:.]+\]):(?!:|//).*"
    r"|(?!-)(?:[^:/]*/.*|[^:]*)"
)
"""A URL, host:path or path that git uses without a remote helper (``ext::``) and without options.
"""
_SSH_OPTIONS: Final = r"(?:\s*-(?:[46Cqx]|p ?\d+|i ?[\w./~]+|S ?[\w./~]+|o ?ControlMaster=auto))*"
_RULES: Final = tuple(
    (re.compile(name, re.DOTALL), re.compile(value, re.DOTALL))
    for name, value in {
        # git
        r"core\.fsmonitor": _NO_PROGRAM,
        r"core\.hookspath": r"|/dev/null",
        r"core\.(?:sshcommand|askpass|gitproxy|alternaterefscommand)": r"",
        r"gc\.recentobjectshook|init\.templatedir": r"",
        r"gpg\.(?:.*\.)?program|gpg\.ssh\.defaultkeycommand": r"|gpg2?",
        r"credential\.(?:.*\.)?helper": (
            r"|(?:cache(?: --timeout[= ]\d+)?|store|osxkeychain|manager(?:-core)?|libsecret|wincred"
            r"|datalad)"
        ),
        r"filter\..*\.(?:clean|smudge|process)": (
            r"|git-annex (?:smudge (?:--clean )?(?:-- )?%f|filter-process)"
            r"|git-lfs (?:clean -- %f|smudge (?:--skip )?-- %f|filter-process(?: --skip)?)"
        ),
        r"protocol\.(?:ext\.)?allow": r"never",
        r"remote\..*\.vcs": r"",
        r"remote\..*\.uploadpack": r"|git-upload-pack",
        r"submodule\..*\.update": r"[^!]*",
        r"alias\.annex": r"",
        # locations that git or git-annex connect to
        r"remote\..*\.(?:url|pushurl|annexurl)|submodule\..*\.url": _LOCATION,
        r"remote\..*\.annex-\w*(?:url|repo|location)": _LOCATION,
        # git-annex
        r"(?:remote\..*\.)?annex[.-](?:.*-)?ssh-options": _SSH_OPTIONS,
        r"(?:remote\..*\.)?annex[.-](?!(?:.*-)?ssh-options).*"
        r"-(?:command|hook|options|programs?|transport)": r"",
        r"remote\..*\.annex-shell": r"",
        r"remote\..*\.annex-externaltype": r"neuromirror|datalad|datalad-archives|ora",
        # git-lfs, DataLad
        r"lfs\.(?:customtransfer|extension)\..*|lfs\.(?:.*\.)?standalonetransferagent": _NEVER,
        r"datalad\.(?:result-hook|procedures)\..*|datalad\.ssh\.executable": _NEVER,
        r"datalad\.(?:locations\..*-procedures|.*\.proc-(?:pre|post))": _NEVER,
    }.items()
)
_REWRITTEN: Final = re.compile(r"url\.(.*)\.(?:push)?insteadof", re.DOTALL)
_REMOTE_URL: Final = re.compile(r"remote\..*\.(?:url|annexurl)", re.DOTALL)
_NOT_RUN: Final = frozenset(
    {
        *("applypatch-msg", "pre-applypatch", "post-applypatch", "sendemail-validate"),
        *("pre-push", "pre-receive", "update", "post-receive", "post-update", "proc-receive"),
        *("push-to-checkout", "pre-rebase", "post-rewrite"),
    }
)
"""Hooks of commands that ``get`` never runs, neither in the clone nor in a remote."""
_HOOK_OF_GIT_LFS: Final = re.compile(
    rb"#!/bin/sh\n"
    rb"command -v git-lfs >/dev/null 2>&1 \|\| \{ (?:echo|printf) >&2"
    rb"(?: \"(?:[^\"$`\\]|\\n)*\")+; exit \d; \}\n"
    rb"git lfs [a-z-]+ \"\$@\"\n?"
)
_HOOK_OF_A_STORE: Final = re.compile(
    rb"#!/bin/sh\n# written by neuromirror\n"
    rb"(?:cat > /dev/null\n|cat >&2 <<'END'\n(?:(?!END\n).*\n)*END\n"
    rb"|\[ \"\$1\" = prepared \] \|\| exit 0\n|echo \"[^\"$`\\]*\" >&2\n)*exit 1\n"
)
"""Hooks in a store's repositories, as written by any release: they print a message and fail."""
_LONGEST: Final = 1 << 16
_SHOWN: Final = 5


def check_programs(top: Path, git_dir: Path, settings: AnnexSettings) -> None:
    """Check that a repository, and each local repository it fetches from, names no programs.

    Nothing from the repository is run.

    Parameters
    ----------
    top
        The top folder of the work tree.
    git_dir
        The repository's own folder.
    settings
        The repository's configuration.

    Raises
    ------
    RepositoryRefusedError
        A setting or hook names a program; the message lists them.
    """
    found = [
        *_own(git_dir, settings),
        *_worktree_elsewhere(top, git_dir, settings.own),
        *(
            f"{what} of the remote at {at}"
            for at in _remotes(top, settings.own)
            for what in _own(at, AnnexSettings.load(at))
        ),
    ]
    if found:
        raise _refused(top, found)


def check_absorbed(top: Path, git_dir: Path) -> None:
    """Check the repositories of subdatasets that are not checked out (``.git/modules``).

    git reuses such a repository, instead of cloning it again, when it installs the subdataset.

    Parameters
    ----------
    top
        The top folder of the work tree.
    git_dir
        The repository's own folder.

    Raises
    ------
    RepositoryRefusedError
        A setting or hook names a program.
    """
    found: list[str] = []
    for folder, folders, files in os.walk(git_dir / "modules"):
        if "HEAD" in files and "objects" in folders:
            inner = Path(folder)
            found += [f"{what} of {inner}" for what in _own(inner, AnnexSettings.load(inner))]
            folders[:] = [name for name in folders if name == "modules"]
    if found:
        raise _refused(top, found)


def _refused(top: Path, found: Sequence[str]) -> RepositoryRefusedError:
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return RepositoryRefusedError(
        f"{top}: the repository's own configuration runs programs that neither git-annex nor "
        f"DataLad set up: {', '.join(found[:_SHOWN])}{more}. Nothing was run. Remove each (git "
        "config --local --unset-all NAME, or delete the hook), get the files in a fresh clone, or "
        "use --trust-config if you trust the repository's origin"
    )


def _own(git_dir: Path, settings: AnnexSettings) -> Iterator[str]:
    yield from dict.fromkeys(
        f"the setting {name}" for name, value in settings.own if _runs(name, value)
    )
    for path in _hooks(git_dir):
        yield f"the hook {path}"


def _runs(name: str, value: str) -> bool:
    """Return whether git, git-annex or DataLad would run a program because of a setting."""
    if (rewritten := _REWRITTEN.fullmatch(name)) is not None:
        return re.fullmatch(_LOCATION, rewritten[1], re.DOTALL) is None
    return any(
        rule.fullmatch(name) is not None and accepted.fullmatch(value) is None
        for rule, accepted in _RULES
    )


def _worktree_elsewhere(
    top: Path, git_dir: Path, settings: Sequence[tuple[str, str]]
) -> Iterator[str]:
    """Yield ``core.worktree`` if it names a folder that belongs to another repository."""
    if not any(name == "core.worktree" for name, _ in settings):
        return
    done = call_git(git_environment(None), "rev-parse", "--absolute-git-dir", folder=top)
    at = os.fsdecode(done.stdout.rstrip(b"\n"))
    if done.returncode or os.path.realpath(at) != os.path.realpath(git_dir):
        yield "the setting core.worktree"


def _hooks(git_dir: Path) -> Iterator[Path]:
    """Yield the hooks that git or git-annex would run and that no known program wrote."""
    for folder in dict.fromkeys((git_dir / "hooks", _common(git_dir) / "hooks")):
        try:
            names = sorted(os.listdir(folder))
        except (FileNotFoundError, NotADirectoryError):
            continue
        for name in names:
            path = folder / name
            if name.endswith(".sample") or name in _NOT_RUN or not os.access(path, os.X_OK):
                continue
            content = _content(path)
            if content is not None and not _is_known_hook(content):
                yield path


def _is_known_hook(content: bytes) -> bool:
    patterns = (_HOOK_OF_GIT_LFS, _HOOK_OF_A_STORE)
    return is_hook_of_git_annex(content) or any(one.fullmatch(content) for one in patterns)


def _common(git_dir: Path) -> Path:
    """Return the folder whose hooks a linked work tree shares with its repository."""
    try:
        text = (git_dir / "commondir").read_text(errors="surrogateescape")
    except (FileNotFoundError, NotADirectoryError):
        return git_dir
    return Path(os.path.normpath(git_dir / text.rstrip("\n")))


def _content(path: Path) -> bytes | None:
    """Return a hook's content, empty if it is not a regular file, None if it does not exist."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError:
        return b""
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            return None
        return file.read(_LONGEST) if stat.S_ISREG(status.st_mode) else b""


def _remotes(top: Path, settings: Sequence[tuple[str, str]]) -> Iterator[Path]:
    """Yield the remotes on this machine, since git-annex also runs commands in them."""
    seen = set()
    for name, value in settings:
        if _REMOTE_URL.fullmatch(name) is None:
            continue
        path = unquote(urlsplit(value).path) if value.startswith("file://") else value
        for candidate in (top / path, top / path / ".git", Path(f"{top / path}.git")):
            if (candidate / "HEAD").is_file() and candidate not in seen:
                seen.add(candidate)
                yield candidate
