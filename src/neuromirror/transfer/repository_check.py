"""Check that an existing repository is one that ``restore`` may have created.

git and git-annex run the programs that a repository's configuration and hooks name, and follow its
symlinks. A folder that came with a lock file may contain a repository with any of these. Only what
git, git-annex, DataLad and ``restore`` write is accepted, and settings that run nothing.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Final

from neuromirror.git import call_git, git_environment
from neuromirror.model import ConfigurationError
from neuromirror.store import SafeFolder, UnsafePathError

_ANY: Final = r".*"
_URL: Final = (
    r"(?:https?|ssh)://(?:[^/@]*@)?[A-Za-z0-9\[].*|[A-Za-z0-9][\w.-]*@[A-Za-z0-9][\w.-]*:.*"
)
_SETTINGS: Final = tuple(
    (re.compile(name, re.DOTALL), re.compile(value, re.DOTALL))
    for name, value in {
        r"core\.(?:repositoryformatversion|filemode|bare|logallrefupdates|ignorecase|symlinks|"
        r"precomposeunicode|autocrlf|eol|sharedrepository|quotepath|untrackedcache)": _ANY,
        r"user\.(?:name|email)": _ANY,
        r"annex\.(?:uuid|version|backend|thin|diskreserve|crippledfilesystem|pidlock|retry|jobs|"
        r"verify|securehashesonly|private|sshcaching|numcopies|largefiles)": _ANY,
        r"annex\.security\.allowed-(?:ip|http)-addresses": _ANY,
        r"filter\.annex\.(?:smudge|clean|process)": (
            r"git-annex (?:smudge (?:--clean )?-- %f|filter-process)"
        ),
        r"remote\..*\.(?:url|pushurl)": _URL,
        r"remote\..*\.(?:fetch|push|tagopt|skipfetchall|prune|gh-resolved)": _ANY,
        r"remote\..*\.annex-(?:uuid|ignore|ignore-auto|sync|pull|push|cost|bare|web|verified|"
        r"readonly|config-uuid|trustlevel)": _ANY,
        r"remote\..*\.annex-externaltype": r"neuromirror",
        r"branch\..*\.(?:remote|merge|rebase)": _ANY,
        r"submodule\..*\.url": _URL,
        r"submodule\.(?:.*\.)?(?:active|branch)": _ANY,
        r"(?:pull|push|fetch)\.(?:rebase|ff|default|prune)": _ANY,
        r"datalad\..*": _ANY,
    }.items()
)
_URLS: Final = re.compile(r"(?:remote|submodule)\..*\.url", re.DOTALL)
_ANNEX_HOOK: Final = re.compile(
    rb"#!/bin/sh\n# automatically configured by git-annex\n"
    rb"(?:if git annex [a-z-]+ --help >/dev/null 2>&1; then )?"
    rb"git annex [a-z-]+(?: \.| --update)?(?:; fi)?\n?"
)
_MAX_BYTES: Final = 1 << 20
_REDIRECTING_FILES: Final = ("commondir", "objects/info/alternates", "objects/info/http-alternates")
_WRITTEN_FOLDERS: Final = ("", "annex", "annex/objects", "hooks", "info", "logs", "objects", "refs")


class RepositoryRefusedError(ConfigurationError):
    """A repository's settings, hooks or symlinks could make git run programs or write elsewhere."""


def check_restored_repository(
    folder: SafeFolder, foreign: Sequence[Path] = (), store: Path | None = None
) -> None:
    """Check the repository whose work tree is ``folder``; nothing from it is run.

    Parameters
    ----------
    folder
        Top folder of the work tree.
    foreign
        Folders that others may have filled: no remote may be in them.
    store
        A store, whose repositories are accepted as remotes even inside ``foreign``.

    Raises
    ------
    RepositoryRefusedError
        A symlink, hook or setting is not accepted.
    UnsafePathError
        ``.git`` is a symlink.
    """
    with folder.folder(".git") as git_dir:
        found = [
            *_links(git_dir),
            *(name for name in _REDIRECTING_FILES if _status(git_dir, name) is not None),
            *_hooks(git_dir),
            *_settings(git_dir, [folder.path, *foreign], store),
        ]
    if found:
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise RepositoryRefusedError(
            f"{folder.path}: not a repository as 'restore' creates it, so nothing is run in it. "
            f"{git_dir.path} has {', '.join(found[:5])}{more}. Remove these, run 'git annex get' "
            "in the folder yourself, or restore into another folder"
        )


def is_hook_of_git_annex(content: bytes) -> bool:
    """Return whether the content of a hook is exactly that of a git-annex hook."""
    return _ANNEX_HOOK.fullmatch(content) is not None


def _links(git_dir: SafeFolder) -> Iterator[str]:
    """Yield symlinks in the folders that git and git-annex write to."""
    for name in _WRITTEN_FOLDERS:
        try:
            with git_dir.folder(*PurePath(name).parts) as inner:
                for one in inner.names():
                    found = inner.status(one)
                    if found is not None and stat.S_ISLNK(found.st_mode):
                        yield f"the symlink {PurePath(name, one)}"
        except (FileNotFoundError, NotADirectoryError):
            continue


def _status(git_dir: SafeFolder, path: str) -> os.stat_result | None:
    *above, name = path.split("/")
    try:
        with git_dir.folder(*above) as folder:
            return folder.status(name)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _hooks(git_dir: SafeFolder) -> Iterator[str]:
    """Yield hooks other than git-annex's own; git does not run ``.sample`` files."""
    try:
        hooks = git_dir.folder("hooks")
    except (FileNotFoundError, NotADirectoryError):
        return
    with hooks:
        for name in hooks.names():
            if not name.endswith(".sample") and not is_hook_of_git_annex(
                _read_small_file(hooks, name)
            ):
                yield f"the hook {name}"


def _settings(git_dir: SafeFolder, foreign: Sequence[Path], store: Path | None) -> Iterator[str]:
    """Yield settings that are not known to run nothing."""
    done = call_git(
        git_environment(None),
        # includes are not followed
        *("config", "--file", "-", "--no-includes", "--list", "-z"),
        folder=Path(os.sep),
        stdin=_read_small_file(git_dir, "config"),
    )
    if done.returncode:
        yield "a configuration that git cannot read"
    for entry in done.stdout.decode("utf-8", "surrogateescape").split("\0")[:-1]:
        name, _, value = entry.partition("\n")
        if _URLS.fullmatch(name) and _is_local(value, foreign, store):
            continue
        if not any(key.fullmatch(name) and one.fullmatch(value) for key, one in _SETTINGS):
            yield f"the setting {name!r}"


def _is_local(url: str, foreign: Sequence[Path], store: Path | None) -> bool:
    """Return whether a URL is an absolute path in the store, or outside of the foreign folders."""
    if not url.startswith("/"):
        return False
    paths = os.path.normpath(url), os.path.realpath(url)
    if store is not None and Path(paths[0]).is_relative_to(store):
        return True
    tops = [top for one in foreign for top in (os.path.abspath(one), os.path.realpath(one))]
    return not any(Path(path).is_relative_to(top) for path in paths for top in tops)


def _read_small_file(folder: SafeFolder, name: str) -> bytes:
    """Return the content of a small regular file, else a content that no check accepts."""
    try:
        with open(folder.open(name, os.O_RDONLY), "rb") as file:
            return file.read(_MAX_BYTES)
    except UnsafePathError:
        return b"[not a file"
