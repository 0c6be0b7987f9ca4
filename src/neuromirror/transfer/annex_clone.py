"""A clone and its subdatasets: annexed files, pointers and their keys.

Installation of subdatasets with git alone.

``datalad get -n`` and git-annex's commands would enable the special remotes that a subdataset
names, and obey a ``.datalad/config`` that came with it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct, field

from neuromirror import annex
from neuromirror.git import (
    FSCK_OPTIONS,
    GITLINK_MODE,
    MEMORY_LIMIT,
    REGULAR_FILE_MODE,
    REMOTE_OPTIONS,
    SYMLINK_MODE,
    BatchObjectReader,
    GitError,
    call_git,
    git_environment,
    with_redirect_advice,
    with_settings,
)
from neuromirror.model import ConfigurationError
from neuromirror.net import permanent_refusal, redact
from neuromirror.transfer.annex_branch import AnnexSettings, existing_object, foreign_settings
from neuromirror.transfer.repository_check import (
    CheckedRepository,
    check_repository,
    common_dir,
    find_top,
)

BRANCH = "refs/heads/git-annex"
_ADJUSTED = b"refs/heads/adjusted/"
_REMOTE: Final = "https:http:ssh"
_LOCAL: Final = f"{_REMOTE}:file"
FALLBACK_IDENTITY = ("neuromirror", "get@neuromirror.invalid")
"""Name and e-mail address for commits to the git-annex branch where git has no identity."""

_MISSING = (
    "{top}: git-annex is required for 'git annex {command}', but is not installed; pip install "
    "git-annex"
)


def work_tree_environment(*, credentials: bool = False) -> dict[str, str]:
    """Return the environment for a program, such as git-annex, that runs in a clone's work tree.

    The program finds the repository by its working directory, so that git applies its own ownership
    check (``safe.directory``).

    Parameters
    ----------
    credentials
        Whether variables that hold tokens and passwords are kept.
    """
    kept = git_environment(None, credentials=credentials)
    for name in ("GIT_DEFAULT_HASH", "GIT_DEFAULT_REF_FORMAT"):
        del kept[name]
    return MEMORY_LIMIT | {"GIT_ALLOW_PROTOCOL": _LOCAL} | kept


def committer_environment(folder: Path) -> dict[str, str]:
    """Return variables with which git-annex can commit; empty if git has an identity.

    In containers and in CI git often has none. git-annex then uses an identity of its own, but not
    when it merges branches that were cloned.
    """
    done = call_git(work_tree_environment(), "-C", str(folder), "var", "GIT_COMMITTER_IDENT")
    if done.returncode == 0:
        return {}
    name, address = FALLBACK_IDENTITY
    roles = ("GIT_AUTHOR", "GIT_COMMITTER")
    return {
        f"{role}_{what}": value
        for role in roles
        for what, value in (("NAME", name), ("EMAIL", address))
    }


class AnnexClone:
    """A clone and its work tree.

    Parameters
    ----------
    repository
        The clone's repository, which was checked.
    settings
        Settings of git, in addition to those of the user.

    Attributes
    ----------
    top
        Top folder of the work tree.
    git_dir
        The repository's own folder.
    settings
        git configuration of the clone.
    delegation_reason
        Why git-annex itself must get all files, such as an unsupported setting; None if this
        package can.
    annex_dir
        git-annex's directory, ``.git/annex``.
    opened_commit
        The commit of the git-annex branch when the clone was opened; None without such a branch.
    is_annexed
        False if neither the clone nor its remotes have a git-annex branch.
    skipped_remotes
        Special remotes that were not enabled when git-annex was initialized.
    """

    def __init__(self, repository: CheckedRepository, settings: Mapping[str, str]) -> None:
        self.top = repository.top
        self.git_dir = repository.git_dir
        common = common_dir(self.git_dir)
        self.annex_dir = common / "annex"
        self._overrides = {**settings, **repository.overrides}
        self.settings = AnnexSettings.load(self.git_dir, self._overrides)
        self.delegation_reason = self.settings.delegation_reason()
        if common != self.git_dir:
            self.delegation_reason = "this is a linked work tree"
        self.opened_commit: str | None = None
        self.is_annexed = True
        self.skipped_remotes: list[annex.SkippedRemote] = []
        self._objects = os.fsencode(self.annex_dir / "objects")

    @classmethod
    def at(cls, folder: Path, settings: Mapping[str, str] | None = None) -> AnnexClone:
        """Open the clone that contains ``folder``, and initialize git-annex in it if needed.

        Raises
        ------
        ConfigurationError
            The folder is not in a work tree.
        RepositoryRefusedError
            See :func:`check_repository`.
        GitError
            git or git-annex failed.
        """
        outside = (
            f"{folder} is not inside a clone of a dataset; change to the folder of a clone, or "
            "specify its path"
        )
        top = find_top(folder)
        if top is None:
            raise ConfigurationError(outside)
        repository = check_repository(top)
        # git checks who owns the repository
        options = ("--show-toplevel", "--absolute-git-dir")
        done = call_git(work_tree_environment(), "-C", str(top), "rev-parse", *options)
        places = [os.path.realpath(os.fsdecode(line)) for line in done.stdout.splitlines()]
        if done.returncode or places != [str(repository.top), str(repository.git_dir)]:
            message = done.stderr.decode(errors="replace").strip()
            raise ConfigurationError(f"{outside} ({message})")
        clone = cls(repository, settings or {})
        clone._prepare()
        return clone

    @classmethod
    def of_subdataset(cls, folder: Path, settings: Mapping[str, str]) -> AnnexClone:
        """Open the clone whose top folder is ``folder``.

        Raises
        ------
        ConfigurationError
            The folder is not the top folder of a clone. See also :meth:`at`.
        """
        clone = cls.at(folder, settings)
        if clone.top.resolve() != folder.resolve():
            raise ConfigurationError(
                f"{folder} is a subdataset whose repository git cannot read; repair it, or remove "
                "the folder and get the subdataset again"
            )
        return clone

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a git command on the repository, without credentials."""
        return git_environment(self.git_dir)

    @property
    def uuid(self) -> str:
        """git-annex's UUID of this clone."""
        return self.settings.get("annex.uuid")

    @property
    def disk_reserve(self) -> int:
        """Bytes to leave free on the disk."""
        return self.settings.disk_reserve

    def git(self, *arguments: str) -> bytes:
        """Run a git command, and return its output; raises GitError."""
        return self._run(arguments, self.environment)

    def git_annex(self, *arguments: str) -> None:
        """Run a git-annex command; raises GitError."""
        self._run(("annex", *arguments), self._checked_environment(arguments[0]))

    def annex_environment(self, *, credentials: bool = False) -> dict[str, str]:
        """Return the environment for a git-annex command, with ``credentials`` if it downloads."""
        environment = work_tree_environment(credentials=credentials)
        environment |= foreign_settings(with_filters=True)
        # a notebook's environment may be in use without its programs being on PATH
        programs = (os.environ.get("PATH", os.defpath), os.path.dirname(sys.executable))
        return (
            with_settings(environment, self._overrides.items())
            | committer_environment(self.top)
            | {"PATH": os.pathsep.join(programs)}
        )

    def _checked_environment(self, command: str) -> dict[str, str]:
        environment = self.annex_environment()
        if shutil.which("git-annex", path=environment["PATH"]) is None:
            raise GitError(_MISSING.format(top=self.top, command=command))
        return environment

    def _run(self, arguments: Sequence[str], environment: dict[str, str]) -> bytes:
        done = call_git(environment, *arguments, folder=self.top)
        if done.returncode:
            message = redact(done.stderr.decode(errors="replace").strip())
            raise GitError(f"{self.top}: 'git {' '.join(arguments)}' failed: {message}")
        return done.stdout

    def annex_branch_commit(self) -> str | None:
        """Return the commit of the git-annex branch in hexadecimal; None without such a branch."""
        return self._refs().get(BRANCH)

    def _refs(self) -> dict[str, str]:
        """Return commits by ref, for all refs named ``git-annex``.

        git-annex merges them into its branch.
        """
        done = call_git(self.environment, "show-ref", "git-annex")
        found = {}
        for line in done.stdout.decode(errors="surrogateescape").splitlines():
            commit, _, name = line.partition(" ")
            found[name] = commit
        return found

    def _prepare(self) -> None:
        refs = self._refs()
        if not self.uuid:
            if not refs:
                self.is_annexed = False
                return
            environment = self._checked_environment("init")
            self.skipped_remotes = annex.initialize(
                lambda *args: self._run(args, environment).decode(errors="replace"),
                is_new=self.delegation_reason is None and not os.path.lexists(self.annex_dir),
            )
            self.settings = AnnexSettings.load(self.git_dir, self._overrides)
            refs = self._refs()
        if BRANCH not in refs or self._has_unmerged_branches(refs):
            # any command that reads the branch merges fetched ones first; this one changes nothing
            self.git_annex("wanted", "here")
            refs = self._refs()
        self.opened_commit = refs.get(BRANCH)
        head = call_git(self.environment, "symbolic-ref", "-q", "HEAD").stdout
        if head.startswith(_ADJUSTED):
            self.delegation_reason = "an adjusted branch is checked out"

    def _has_unmerged_branches(self, refs: dict[str, str]) -> bool:
        """Return whether a fetched git-annex branch is not yet merged."""
        if not self.settings.is_true("annex.merge-annex-branches", default=True):
            return False
        known = {refs[BRANCH]}
        for name in ("mergedrefs", "ignoredrefs"):
            try:
                text = (self.annex_dir / name).read_text(errors="surrogateescape")
            except FileNotFoundError:
                continue
            known.update(line.split("\t")[0].split(" ")[0] for line in text.splitlines())
        others = [commit for commit in dict.fromkeys(refs.values()) if commit not in known]
        if not others:
            return False
        more = self.git("rev-list", "-n1", *others, "--not", refs[BRANCH])
        return bool(more.strip())

    def object_paths(self, key: str) -> Sequence[bytes]:
        """Return the possible paths of a key's object, the one to write to first."""
        name = annex.key_file_name(key)
        return [
            b"/".join((self._objects, folders, name, name))
            for folders in (annex.hash_mixed(key), annex.hash_lower(key))
        ]

    def find_object(self, key: str) -> bytes | None:
        """Return the path of a key's object, None if its content is not here."""
        return next(filter(os.path.exists, self.object_paths(key)), None)


_EXECUTABLE: Final = b"100755"
_REGULAR: Final = (REGULAR_FILE_MODE, _EXECUTABLE)
_TARGET: Final = b".git/annex/objects/"
_BLOCK: Final = 1 << 20


class AnnexedFile(Struct, frozen=True):
    """An annexed file: its path in git, its key, and whether it is a pointer file (unlocked)."""

    path: bytes
    key: str
    is_unlocked: bool = False


class SelectedSubdataset(Struct, frozen=True):
    """A subdataset with selected files.

    Attributes
    ----------
    path
        The path of the subdataset.
    paths
        Selected paths inside it, None for all.
    is_explicit
        Whether the user named it or a path in it.
    """

    path: bytes
    paths: Sequence[bytes] | None
    is_explicit: bool


class PathSelection:
    """A selection of paths in a clone.

    Parameters
    ----------
    top
        Top folder of the clone.
    paths
        Paths relative to ``top``, or absolute; None selects everything.

    Raises
    ------
    ConfigurationError
        A path is outside of the clone.
    """

    def __init__(self, top: Path, paths: Sequence[str | Path] | None) -> None:
        self._all = paths is None
        self._chosen: dict[bytes, bool] = {}
        self._folders: dict[bytes, bytes | None] = {b"": None}
        real = os.path.realpath(top)
        folders: dict[str, str] = {}
        for path in paths or ():
            # the last component may be the symlink of an annexed file: do not follow it
            folder, name = os.path.split(os.path.normpath(os.path.join(top, path)))
            if folder not in folders:
                folders[folder] = os.path.realpath(folder)
            below = os.path.relpath(os.path.join(folders[folder], name), real)
            if below == os.curdir:
                self._all = True
            elif below == os.pardir or below.startswith(os.pardir + os.sep):
                raise ConfigurationError(f"{path} is not in the dataset {top}")
            else:
                self._chosen[os.fsencode(below)] = False

    def includes(self, path: bytes) -> bool:
        """Return whether a path, or a folder above it, is selected."""
        within = path if path in self._chosen else self._within(path.rpartition(b"/")[0])
        if within is None:
            return self._all
        self._chosen[within] = True
        return True

    def names(self, path: bytes) -> bool:
        """Return whether a path itself is selected, not only a folder above it."""
        return path in self._chosen

    def _within(self, folder: bytes) -> bytes | None:
        """Return the innermost selected path that is ``folder`` or above it."""
        passed = []
        while folder not in self._folders:
            passed.append(folder)
            if folder in self._chosen:
                self._folders[folder] = folder
            else:
                folder = folder.rpartition(b"/")[0]
        found = self._folders[folder]
        self._folders.update(dict.fromkeys(passed, found))
        return found

    def subdataset(self, path: bytes) -> SelectedSubdataset | None:
        """Return the selection inside a subdataset, None if nothing in it is selected."""
        below = [one for one in self._chosen if one.startswith(path + b"/")]
        for one in below:
            self._chosen[one] = True
        named = path in self._chosen
        if self.includes(path):
            return SelectedSubdataset(path, None, named or bool(below))
        return (
            SelectedSubdataset(path, [one[len(path) + 1 :] for one in below], True)
            if below
            else None
        )

    def unmatched(self) -> list[bytes]:
        """Return the selected paths that no file matched."""
        found = [path for path, seen in self._chosen.items() if seen]
        return [
            path
            for path, seen in self._chosen.items()
            if not seen and not any(one.startswith(path + b"/") for one in found)
        ]


class AnnexedFileListing(Struct):
    """The selected annexed files of a clone.

    Attributes
    ----------
    clone, selection, objects
        The clone, the paths, and a reader for the clone's objects.
    pointer_keys
        Keys of all unlocked files, selected or not. Their content must also be written to the work
        tree, which only git-annex does.
    subdatasets, unrecognized_links, foreign_links, in_git
        Selected subdatasets, links whose key is not supported, links into another repository, and
        files that are selected by their own path and are in git; filled while :meth:`files` is
        iterated.
    """

    clone: AnnexClone
    selection: PathSelection
    objects: BatchObjectReader
    pointer_keys: frozenset[str] = frozenset()
    subdatasets: list[SelectedSubdataset] = field(default_factory=list)
    unrecognized_links: list[bytes] = field(default_factory=list)
    foreign_links: list[bytes] = field(default_factory=list)
    in_git: list[bytes] = field(default_factory=list)

    def files(self) -> Iterator[AnnexedFile]:
        """Yield the selected files in the order of git's index; raises GitError."""
        unlocked = self._unlocked()
        self.pointer_keys = frozenset(unlocked.values())
        for mode, name, path in self._entries():
            if mode == GITLINK_MODE:
                if (sub := self.selection.subdataset(path)) is not None:
                    self.subdatasets.append(sub)
            elif not self.selection.includes(path):
                continue
            elif mode == SYMLINK_MODE:
                target = self._link_target(path, name)
                if _TARGET in target:
                    key = _key_of(target.rpartition(b"/")[2])
                    if key is None:
                        self.unrecognized_links.append(path)
                    elif self._is_foreign_link(path, target):
                        self.foreign_links.append(path)
                    else:
                        yield AnnexedFile(path, key)
            elif path in unlocked:
                yield AnnexedFile(path, unlocked[path], is_unlocked=True)
            elif self.selection.names(path):
                self.in_git.append(path)

    def _entries(self) -> Iterator[tuple[bytes, bytes, bytes]]:
        """Yield mode, object id (hexadecimal) and path of each entry of git's index."""
        with subprocess.Popen(
            ["git", "ls-files", "--stage", "-z"],
            cwd=self.clone.top,
            env=self.clone.environment,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            rest = b""
            while block := process.stdout.read(_BLOCK):
                *lines, rest = (rest + block).split(b"\0")
                for line in lines:
                    head, _, path = line.partition(b"\t")
                    mode, name, _ = head.split(b" ")
                    yield mode, name, path
        if process.returncode:
            raise GitError(f"{self.clone.top}: git failed to list the index; see 'git status'")

    def _unlocked(self) -> dict[bytes, str]:
        """Return the keys of all unlocked files, by path."""
        regular = [(name, path) for mode, name, path in self._entries() if mode in _REGULAR]
        if not regular:
            return {}
        sizes = call_git(
            self.clone.environment,
            *("cat-file", "--batch-check=%(objectsize)"),
            stdin=b"\n".join(name for name, _ in regular) + b"\n",
        ).stdout.split(b"\n")
        small = [
            one
            for one, size in zip(regular, sizes, strict=False)
            if size.isdigit() and len(annex.POINTER_PREFIX) < int(size) <= annex.MAX_POINTER_BYTES
        ]
        found = {}
        contents = self.objects.read([name for name, _ in small])
        for (_, path), content in zip(small, contents, strict=True):
            key = None if content is None else annex.parse_pointer(content)
            first_line = b"" if content is None else content.split(b"\n", 1)[0]
            if (
                key is not None
                and key.isprintable()
                and annex.pointer_content(key) == first_line + b"\n"
            ):
                found[path] = key
        return found

    def _is_foreign_link(self, path: bytes, target: bytes) -> bool:
        """Return whether a link leads to existing content of another repository."""
        top = os.fsencode(self.clone.top)
        resolved = os.path.normpath(os.path.join(top, os.path.dirname(path), target))
        return os.path.lexists(resolved) and not resolved.startswith(os.path.join(top, _TARGET))

    def _link_target(self, path: bytes, name: bytes) -> bytes:
        """Return the target of a link in the work tree, or else in git."""
        try:
            return os.readlink(os.path.join(os.fsencode(self.clone.top), path))
        except OSError:
            return existing_object(name, next(self.objects.read([name])))


def _key_of(name: bytes) -> str | None:
    """Return the key of an object's file name, None if it is not a supported key."""
    try:
        key = annex.key_from_file_name(name)
        annex.parse_key(key)
    except ValueError:
        return None
    return key if annex.key_file_name(key) == name and key.isprintable() else None


_AT_ONCE: Final = 500
_HINT: Final = "the subdataset is not installed"
_PLAIN_PATHS: Final = {"GIT_LITERAL_PATHSPECS": "1"}


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
        | foreign_settings()
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
