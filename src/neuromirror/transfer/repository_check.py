"""Decide whether a repository is one that git, git-annex and neuromirror would have written.

git and git-annex run the programs that settings and hooks name, follow symlinks, and send requests
and credentials to where settings lead. A repository may have been received as files, with settings
of its sender. What is not listed here is refused, by every command that works in a repository.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from msgspec import Struct, field

from neuromirror.git import call_git, git_environment
from neuromirror.model import ConfigurationError
from neuromirror.store.durable_files import HOOKS, NotARegularFileError, open_regular

_ANY: Final = r".*"
_OFF: Final = r"(?i:false|no|off|0|)"
_ON: Final = r"(?i:true|yes|on|1)"
_NAME: Final = r"[\w.][\w./-]*"
_NETWORK_URL: Final = (
    r"(?:https?|ssh)://(?:[^/@]*@)?[A-Za-z0-9\[][^/@]*(?:/.*)?"
    r"|(?:[A-Za-z0-9][\w.-]*@)?[A-Za-z0-9][\w.-]*:(?!:|//).*"
)
_LOCAL_URL: Final = r"file:///[^?#]*|(?!-)[^:/]*(?:/.*)?"
_OTHER_PROGRAMS: Final = ("datalad", "datalad-archives", "ora")
"""Special remotes that DataLad enables, and that no program started from here uses."""

_SETTINGS: Final = tuple(
    (re.compile(name, re.DOTALL), re.compile(value, re.DOTALL))
    for name, value in {
        r"core\.(?:repositoryformatversion|filemode|bare|logallrefupdates|ignorecase|symlinks|"
        r"precomposeunicode|autocrlf|eol|sharedrepository|quotepath|untrackedcache|sparsecheckout|"
        r"sparsecheckoutcone|splitindex|longpaths|hidedotfiles)": _ANY,
        r"core\.fsmonitor": _OFF,
        r"core\.hookspath": r"/dev/null",
        # checked against the place of the work tree
        r"core\.worktree": _ANY,
        r"extensions\.(?:worktreeconfig|objectformat|refstorage|noop)": r"\w*",
        r"index\.(?:sparse|version)|gc\.(?:auto|autodetach)|maintenance\.(?:auto|strategy)": _ANY,
        r"receive\.(?:deny\w+|autogc)": r"\w*",
        r"receive\.procreceiverefs": r"refs/",
        r"user\.(?:name|email)": _ANY,
        r"(?:remote|submodule)\..*\.(?:url|pushurl)": rf"{_NETWORK_URL}|{_LOCAL_URL}",
        r"remote\..*\.(?:fetch|push|tagopt|skipfetchall|prune|mirror|gh-resolved)": _ANY,
        r"remote\..*\.datalad-publish-depends": _NAME,
        r"branch\..*\.(?:remote|pushremote)": _NAME,
        r"branch\..*\.(?:merge|rebase|vscode-merge-base)": _ANY,
        r"submodule\.(?:.*\.)?(?:active|branch)": _ANY,
        r"submodule\..*\.update": r"checkout|none|rebase|merge",
        r"(?:pull|push|fetch)\.(?:rebase|ff|default|prune)": _ANY,
        r"annex\.(?:uuid|version|backend|thin|diskreserve|crippledfilesystem|pidlock|retry|jobs|"
        r"securehashesonly|private|sshcaching|numcopies|mincopies|largefiles|addunlocked|dotfiles|"
        r"hardlink|alwayscommit|autocommit|merge-annex-branches|synccontent|synconlyannex|"
        r"resolvemerge|adjustedbranchrefresh|supportunlocked|tune\.\w+)": _ANY,
        r"annex\.verify": _ON,
        r"filter\.annex\.(?:smudge|clean|process)": (
            r"|git-annex (?:smudge (?:--clean )?(?:-- )?%f|filter-process)"
        ),
        r"remote\..*\.annex-(?:uuid|ignore|ignore-auto|sync|pull|push|cost|bare|web|verified|"
        r"readonly|config-uuid|trustlevel|availability|private)": _ANY,
        r"remote\..*\.annex-externaltype": "|".join(("neuromirror", *_OTHER_PROGRAMS)),
        r"remote\..*\.annex-directory": r"/.*",
        r"remote\..*\.annex-s3": r"true",
        r"datalad\.(?:dataset\.id|ora-remote\.uuid|get\.subdataset-source-candidate-.*)": _ANY,
    }.items()
)
_URL_SETTING: Final = re.compile(r"(?:remote|submodule)\..*\.url", re.DOTALL)
_REMOTE: Final = re.compile(r"remote\.(.*)\.(url|annex-uuid|annex-externaltype)", re.DOTALL)
_FILES: Final = re.compile(
    r"[A-Z_]+|(?:.*/)?[^/]+\.lock|\.nfs\w+|config(?:\.worktree|\.dataladlock)?|description|index|"
    r"sharedindex\.[0-9a-f]+|packed-refs|shallow|gc\.(?:log|pid)|(?:.*/)?\.new-[^/]*|"
    r"ria-layout-version|neuromirror/(?:new-)?get-\d+\.keys|"
    r"info/(?:exclude|attributes|refs|refs_\w+|sparse-checkout)|"
    r"objects/info/(?:packs|packs_\w+|commit-graph.*)|"
    r"(?:annex|archives|branches|datalad|hooks|logs|objects/(?!info/)\w+|ora-remote-[\w-]+|refs|"
    r"rr-cache)/.*",
    re.DOTALL,
)
_FOLDERS: Final = re.compile(
    r"(?:annex|archives|branches|datalad|hooks|info|logs|lost-found|modules|neuromirror|objects|"
    r"ora-remote-[\w-]+|refs|rr-cache|worktrees)(?:/.*)?",
    re.DOTALL,
)
_NOT_LISTED: Final = re.compile(r"objects/[0-9a-f]{2}|annex/objects/.*|modules|worktrees")
_ANNEX_HOOK: Final = re.compile(
    rb"#!/bin/sh\n# automatically configured by git-annex\n"
    rb"(?:if git annex [a-z-]+ --help >/dev/null 2>&1; then )?"
    rb"git annex [a-z-]+(?: \.| --update)?(?:; fi)?\n?"
)
_STORE_HOOKS: Final = frozenset(text.encode() for text in HOOKS.values())
_SOCKET: Final = re.compile(r"annex/ssh/")
_ANNEX: Final = "../../annex"
_MAX_BYTES: Final = 1 << 20
_SHOWN: Final = 5


class RepositoryRefusedError(ConfigurationError):
    """A repository has settings or files that none of the known programs writes."""


class CheckedRepository(Struct, frozen=True):
    """A repository that :func:`check_repository` accepted.

    Attributes
    ----------
    top
        The top folder of its work tree; the repository itself if it is bare.
    git_dir
        Its git folder.
    overrides
        Settings of git for programs started in it: only remotes at URLs of the git-annex branch,
        already used by git-annex, or on this machine and initialized are requested, and no program
        of DataLad starts.
    """

    top: Path
    git_dir: Path
    overrides: dict[str, str] = field(default_factory=dict)


def find_top(folder: Path) -> Path | None:
    """Return the top folder of the work tree that contains a folder; None outside of work trees."""
    real = Path(os.path.realpath(folder))
    return next((at for at in (real, *real.parents) if os.path.lexists(at / ".git")), None)


def is_repository(folder: Path) -> bool:
    """Return whether a folder is the top of a work tree, or a bare repository."""
    is_bare = (folder / "HEAD").is_file() and (folder / "objects").is_dir()
    return is_bare or os.path.lexists(folder / ".git")


def check_repository(top: Path) -> CheckedRepository:
    """Check a repository; nothing from it is run.

    Parameters
    ----------
    top
        The top folder of a work tree, or a bare repository.

    Raises
    ------
    RepositoryRefusedError
        The repository, that of a submodule, or a remote on this machine has a setting or a file
        that is not accepted; the message lists them.
    """
    top = Path(os.path.realpath(top))
    git_dir = _find_git_dir(top)
    if git_dir is None:
        raise _refused(top, [".git that leads to another folder"])
    check = _Check()
    is_linked = _is_linked(git_dir, top)
    settings = check.run(git_dir, top, is_linked=is_linked)
    if is_linked:
        common = common_dir(git_dir)
        settings += check.run(common, _top_of(common))
    if check.problems:
        raise _refused(top, check.problems)
    return CheckedRepository(top, git_dir, _overrides(settings, check.without_annex))


def _refused(top: Path, problems: list[str]) -> RepositoryRefusedError:
    more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return RepositoryRefusedError(
        f"{top}: the repository has {', '.join(problems[:_SHOWN])}{more}, which 'git clone' and "
        "git-annex do not write; nothing was run. Clone it with 'git clone', which takes no "
        "settings along; your own settings belong in 'git config --global'"
    )


def _find_git_dir(top: Path) -> Path | None:
    """Return the git folder of a repository; None if it is not where git or git-annex put it."""
    inner = top / ".git"
    if not os.path.lexists(inner):
        return top
    if not inner.is_symlink() and inner.is_dir():
        return inner
    # git writes a file; git-annex replaces it by a symlink, and unsets core.worktree of submodules
    try:
        target = os.readlink(inner) if inner.is_symlink() else os.fsdecode(_read(inner))
        found = Path(os.path.realpath(top / target.removeprefix("gitdir: ").rstrip("\n")))
        if os.path.lexists(found / "commondir"):
            return found if _is_linked(found, top) else None
        work_trees = [value for name, value in _read_settings(found) if name == "core.worktree"]
    except (OSError, ValueError):
        return None
    above = find_top(top.parent)
    git_dir = above and _find_git_dir(above)
    if above is None or git_dir is None:
        return None
    modules = git_dir / "modules"
    if work_trees:
        is_own = {os.path.realpath(found / value) for value in work_trees} == {str(top)}
    else:
        is_own = found == modules / top.relative_to(above)
    return found if is_own and modules in found.parents else None


def _is_linked(git_dir: Path, top: Path) -> bool:
    """Return whether ``git worktree`` made a git folder for the work tree ``top``."""
    common = git_dir.parent.parent
    try:
        back = git_dir / os.fsdecode(_read(git_dir / "gitdir")).rstrip("\n")
        return (
            (back.name, os.path.realpath(back.parent)) == (".git", str(top))
            and git_dir.parent.name == "worktrees"
            and _read(git_dir / "commondir") == b"../..\n"
            and _find_git_dir(_top_of(common)) == common
        )
    except (OSError, ValueError):
        return False


def common_dir(git_dir: Path) -> Path:
    """Return the git folder with the objects and refs of a checked repository.

    It is another one than its git folder in a linked work tree.
    """
    return git_dir.parent.parent if os.path.lexists(git_dir / "commondir") else git_dir


def _top_of(git_dir: Path) -> Path:
    return git_dir.parent if git_dir.name == ".git" else git_dir


class _Check:
    """A check of a repository, its submodules, and its remotes on this machine."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.without_annex: set[str] = set()
        """URLs of repositories that git-annex would initialize, which may be the user's."""
        self._seen: dict[Path, list[tuple[str, str]]] = {}

    def run(
        self, git_dir: Path, top: Path, where: str = "", *, is_linked: bool = False
    ) -> list[tuple[str, str]]:
        """Check a git folder, and return its settings.

        Its work tree is ``top`` or, as of a submodule, below. ``where`` follows each problem. The
        folder of a linked work tree may lead to that of the repository.
        """
        if git_dir in self._seen:
            return self._seen[git_dir]
        self._seen[git_dir] = []
        try:
            found = list(_files(git_dir, is_linked=is_linked))
            settings = self._seen[git_dir] = _read_settings(git_dir)
        except OSError as error:
            self.problems.append(f"a file that cannot be read ({error}){where}")
            return []
        work_tree = top
        for name, value in settings:
            if not any(key.fullmatch(name) and form.fullmatch(value) for key, form in _SETTINGS):
                found.append(f"the setting {name!r}")
            elif name == "core.worktree":
                work_tree = Path(os.path.realpath(git_dir / value))
                if is_linked or git_dir.parent == top or not work_tree.is_relative_to(top):
                    found.append("a setting 'core.worktree' that leads to another folder")
        self.problems += [f"{one}{where}" for one in dict.fromkeys(found)]
        for name, value in settings:
            if _URL_SETTING.fullmatch(name) and re.fullmatch(_LOCAL_URL, value, re.DOTALL):
                self._run_local(work_tree, value)
        self._run_modules(git_dir / "modules", work_tree)
        return settings

    def _run_modules(self, folder: Path, work_tree: Path) -> None:
        """Check the repositories of submodules, which git uses when it installs them."""
        if not os.path.isdir(folder) or os.path.islink(folder):
            return
        for entry in sorted(os.scandir(folder), key=lambda one: one.name):
            inner = folder / entry.name
            if entry.is_symlink() or not entry.is_dir():
                self.problems.append(f"the file {inner}")
            elif os.path.lexists(inner / "HEAD"):
                self.run(inner, work_tree / entry.name, f" in {inner}")
            else:
                self._run_modules(inner, work_tree / entry.name)

    def _run_local(self, work_tree: Path, url: str) -> None:
        """Check a remote on this machine: git-annex runs commands in it."""
        is_path = not url.startswith("file:")
        path = os.path.expanduser(url) if is_path else unquote(urlsplit(url).path)
        for at in (work_tree / path, Path(f"{work_tree / path}.git")):
            top = Path(os.path.realpath(at))
            git_dir = _find_git_dir(top)
            if git_dir is None:
                self.problems.append(f"the remote {at}, whose .git leads to another folder")
            for one in dict.fromkeys((git_dir or top, top)):
                if any(os.path.lexists(one / name) for name in ("objects", "commondir")):
                    settings = self.run(one, top, f" in the remote {at}")
                    if not any(name == "annex.uuid" for name, _ in settings):
                        self.without_annex.add(url)


def _files(git_dir: Path, *, is_linked: bool) -> Iterator[str]:
    """Yield what a git folder must not have: symlinks, hooks, and files that are not listed."""
    folders = [""]
    while folders:
        folder = folders.pop()
        with os.scandir(git_dir / folder) as entries:
            for entry in entries:
                name = folder + entry.name
                if is_linked and (
                    name in ("commondir", "gitdir", "locked")
                    or (name == "annex" and entry.is_symlink() and os.readlink(entry) == _ANNEX)
                ):
                    continue
                if entry.is_symlink():
                    yield f"the symlink {name!r}"
                elif entry.is_dir():
                    if not _FOLDERS.fullmatch(name):
                        yield f"the folder {name!r}"
                    elif not _NOT_LISTED.fullmatch(name):
                        folders.append(f"{name}/")
                elif not _FILES.fullmatch(name) or not (entry.is_file() or _SOCKET.match(name)):
                    yield f"the file {name!r}"
                elif folder == "hooks/" and not name.endswith(".sample"):
                    content = _read(git_dir / name)
                    if content not in _STORE_HOOKS and not _ANNEX_HOOK.fullmatch(content):
                        yield f"the hook {name!r}"


def _read_settings(git_dir: Path) -> list[tuple[str, str]]:
    """Return the settings of a repository, without those of included files.

    Raises
    ------
    OSError
        A file is missing or too large, or git cannot parse it.
    """
    settings = []
    for name in ("config", "config.worktree"):
        path = git_dir / name
        if not os.path.lexists(path):
            continue
        listed = call_git(
            git_environment(None),
            *("config", "--file", "-", "--no-includes", "--list", "-z"),
            folder=Path(os.sep),
            stdin=_read(path),
        )
        if listed.returncode:
            raise OSError(f"git cannot parse {path}")
        entries = listed.stdout.decode("utf-8", "surrogateescape").split("\0")[:-1]
        settings += [(key, value) for key, _, value in (entry.partition("\n") for entry in entries)]
    return settings


def _read(path: Path) -> bytes:
    """Return the content of a small regular file; raises OSError."""
    try:
        with open_regular(path) as file:
            content = file.read(_MAX_BYTES + 1)
    except NotARegularFileError as error:
        raise OSError(str(error)) from error
    if len(content) > _MAX_BYTES:
        raise OSError(f"{path} is larger than {_MAX_BYTES} bytes")
    return content


def _overrides(settings: list[tuple[str, str]], without_annex: set[str]) -> dict[str, str]:
    remotes: dict[str, dict[str, set[str]]] = {}
    for name, value in settings:
        if (match := _REMOTE.fullmatch(name)) is not None:
            remotes.setdefault(match[1], {}).setdefault(match[2], set()).add(value)
    overrides = {}
    for remote, values in remotes.items():
        urls = values.get("url", set())
        if not values.get("annex-externaltype", set()).isdisjoint(_OTHER_PROGRAMS):
            # git-annex starts a program even for a remote that is ignored
            overrides[f"remote.{remote}.annex-externaltype"] = "readonly"
            overrides[f"remote.{remote}.annex-ignore"] = "true"
        elif urls & without_annex or (
            "annex-uuid" not in values
            and not all(re.fullmatch(_LOCAL_URL, url, re.DOTALL) for url in urls)
        ):
            overrides[f"remote.{remote}.annex-ignore"] = "true"
    return overrides
