"""Check that an existing repository is one of ours and that its configuration runs no programs.

Check that an existing repository is one that ``restore`` may have created.

git and git-annex run the programs that a repository's configuration and hooks name, and follow its
symlinks. A folder that came with a lock file may contain a repository with any of these. Only what
git, git-annex, DataLad and ``restore`` write is accepted, and settings that run nothing.

Check that a repository's own configuration and hooks run no programs.

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
from pathlib import Path, PurePath
from typing import Final
from urllib.parse import unquote, urlsplit

from neuromirror.git import call_git, git_environment
from neuromirror.model import ConfigurationError
from neuromirror.store import SafeFolder, UnsafePathError
from neuromirror.transfer.annex_branch import AnnexSettings

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
            *_own_hooks(git_dir),
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


def _own_hooks(git_dir: SafeFolder) -> Iterator[str]:
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
