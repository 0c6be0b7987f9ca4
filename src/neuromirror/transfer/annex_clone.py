"""A clone into which files are downloaded, and its git-annex repository."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from neuromirror.annex import SkippedRemote, hash_lower, hash_mixed, initialize, key_file_name
from neuromirror.git import MEMORY_LIMIT, GitError, call_git, git_environment
from neuromirror.model import ConfigurationError
from neuromirror.net import redact
from neuromirror.store import refuse_symlinks
from neuromirror.transfer.annex_settings import AnnexSettings
from neuromirror.transfer.config_check import check_programs

BRANCH = "refs/heads/git-annex"
_ADJUSTED = b"refs/heads/adjusted/"
_WRITTEN_PATHS = (
    *("annex/journal", "annex/objects", "annex/othertmp", "annex/othertmp.lck", "annex/tmp"),
    *("annex/transfer/download", "neuromirror"),
)
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
    kept = git_environment(Path(), fetch_missing=True, credentials=credentials)
    for name in ("GIT_DIR", "GIT_DEFAULT_HASH", "GIT_DEFAULT_REF_FORMAT"):
        del kept[name]
    return MEMORY_LIMIT | kept


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


class NotACloneError(ConfigurationError):
    """The folder is not in a clone of a dataset."""


class AnnexClone:
    """A clone and its work tree.

    Parameters
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

    Attributes
    ----------
    annex_dir
        git-annex's directory, ``.git/annex``.
    opened_commit
        The commit of the git-annex branch when the clone was opened; None without such a branch.
    is_annexed
        False if neither the clone nor its remotes have a git-annex branch.
    skipped_remotes
        Special remotes that were not enabled when git-annex was initialized.
    """

    def __init__(
        self, top: Path, git_dir: Path, settings: AnnexSettings, delegation_reason: str | None
    ) -> None:
        self.top = top
        self.git_dir = git_dir
        self.annex_dir = git_dir / "annex"
        self.settings = settings
        self.delegation_reason = delegation_reason
        self.opened_commit: str | None = None
        self.is_annexed = True
        self.skipped_remotes: list[SkippedRemote] = []
        self._objects = os.fsencode(self.annex_dir / "objects")

    @classmethod
    def at(cls, folder: Path, *, trust_config: bool = False) -> AnnexClone:
        """Open the clone that contains ``folder``, and initialize git-annex in it if needed.

        Raises
        ------
        NotACloneError
            The folder is not in a work tree.
        UnsafePathError
            The repository has a symlink at a path that is written to.
        RepositoryRefusedError
            The repository's configuration or hooks name programs, and ``trust_config`` is not set.
        GitError
            git or git-annex failed.
        """
        options = ("--show-toplevel", "--absolute-git-dir", "--git-common-dir")
        done = call_git(work_tree_environment(), "-C", str(folder), "rev-parse", *options)
        if done.returncode:
            message = done.stderr.decode(errors="replace").strip()
            raise NotACloneError(
                f"{folder} is not inside a clone of a dataset; change to the folder of a clone, or "
                "specify its path" + f" ({message})" * ("not a git repository" not in message)
            )
        top, git_dir, common = (
            Path(os.fsdecode(line)) for line in done.stdout.rstrip(b"\n").split(b"\n")
        )
        settings = AnnexSettings.load(git_dir)
        if not trust_config:
            check_programs(top, git_dir, settings)
        delegation_reason = settings.delegation_reason(git_dir)
        if (folder / common).resolve() != git_dir.resolve():
            delegation_reason = "this is one of several work trees of a repository"
        clone = cls(top, git_dir, settings, delegation_reason)
        # these are written by path, and a received repository may contain symlinks
        refuse_symlinks(git_dir, *_WRITTEN_PATHS)
        clone._prepare()
        return clone

    @classmethod
    def of_subdataset(cls, folder: Path, *, trust_config: bool = False) -> AnnexClone:
        """Open the clone whose top folder is ``folder``.

        Raises
        ------
        NotACloneError
            The folder is not the top folder of a clone. See also :meth:`at`.
        """
        clone = cls.at(folder, trust_config=trust_config)
        if clone.top.resolve() != folder.resolve():
            raise NotACloneError(
                f"{folder} is a subdataset whose repository git cannot read; repair it, or remove "
                "the folder and get the subdataset again"
            )
        return clone

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a git command on the repository, without credentials."""
        return git_environment(self.git_dir, fetch_missing=True)

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
        if shutil.which("git-annex") is None:
            raise GitError(_MISSING.format(top=self.top, command=arguments[0]))
        self._run(("annex", *arguments), self.annex_environment())

    def annex_environment(self, *, credentials: bool = False) -> dict[str, str]:
        """Return the environment for a git-annex command, with ``credentials`` if it downloads."""
        return work_tree_environment(credentials=credentials) | committer_environment(self.top)

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
            if shutil.which("git-annex") is None:
                raise GitError(_MISSING.format(top=self.top, command="init"))
            environment = self.annex_environment()
            self.skipped_remotes = initialize(
                lambda *args: self._run(args, environment).decode(errors="replace"),
                is_new=self.delegation_reason is None and not os.path.lexists(self.annex_dir),
            )
            self.settings = AnnexSettings.load(self.git_dir)
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
        name = key_file_name(key)
        return [
            b"/".join((self._objects, folders, name, name))
            for folders in (hash_mixed(key), hash_lower(key))
        ]

    def find_object(self, key: str) -> bytes | None:
        """Return the path of a key's object, None if its content is not here."""
        return next(filter(os.path.exists, self.object_paths(key)), None)
