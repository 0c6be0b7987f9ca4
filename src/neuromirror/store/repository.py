"""A bare repository of the store."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from neuromirror import git
from neuromirror.git import (
    GitError,
    ObjectMissingError,
    ObjectReader,
    Pack,
    parse_commit,
    read_refs,
)
from neuromirror.git.runner import info_refs_content, read_loose_ref, read_packed_refs
from neuromirror.store.durable_files import (
    FILE_MODE,
    FOLDER_MODE,
    UMASK,
    fsync_path,
    fsync_tree,
    make_folder,
    write_atomically,
)
from neuromirror.store.errors import StoreDamagedError
from neuromirror.store.ref_transaction import DRAFT_PREFIX, remove_own_locks, update_refs
from neuromirror.store.retired_packs import is_pack_list_current, write_pack_list
from neuromirror.store.write_protection import CONFIG, protect

MAIN_BRANCH = "refs/heads/main"
PUBLISHED_BRANCH = "refs/heads/published"
DRAFT_BRANCH = "refs/heads/draft"
"""A branch at the commit of ``main``, if upstream calls the observed state its draft."""
ANNEX_BRANCH = "refs/heads/git-annex"
CUSTODY_BRANCH = "refs/heads/custody/git-annex"
"""Which vaults have copies. It belongs to the store, not to the dataset's history."""
TAG_PREFIX = "refs/tags/"

_FOLDERS = (
    *("", "info", "objects", "objects/info", "objects/pack"),
    *("refs", "refs/heads", "refs/tags"),
)
_FILES = {
    "HEAD": f"ref: {MAIN_BRANCH}\n",
    "config": CONFIG,
    "ria-layout-version": "2\n",
}
"""The files of ``git init --bare`` (gitrepository-layout(5)), and the one that RIA stores need."""
_TEMPORARY_PATTERNS = (
    *(f"{DRAFT_PREFIX}*", ".new-*", "info/.new-*", "info/refs_*"),
    *("objects/info/.new-*", "objects/info/packs_*"),
)
"""Temporary files, ours and git's, that a rename would have replaced."""


class Repository:
    """A bare git repository that any static HTTP server can serve.

    Parameters
    ----------
    path
        The path of the repository; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def exists(self) -> bool:
        """Return whether the repository exists.

        Returns
        -------
        bool
            Whether the folder is there.
        """
        return (self.path / "HEAD").exists()

    def create(self, settings: str = "") -> None:
        """Create the empty repository in one step, unless it exists.

        Parameters
        ----------
        settings
            Text to append to its configuration.
        """
        if self.exists():
            return
        make_folder(self.path.parent)
        draft = self.path.with_name(f".new-{self.path.name}")
        shutil.rmtree(draft, ignore_errors=True)
        for name in _FOLDERS:
            (draft / name).mkdir()
            (draft / name).chmod(FOLDER_MODE)
        for name, content in _FILES.items():
            (draft / name).write_text(content)
            (draft / name).chmod(FILE_MODE)
        if settings:
            (draft / "config").write_text(CONFIG + settings)
        protect(draft)
        fsync_tree(draft)
        os.rename(draft, self.path)
        fsync_path(self.path.parent)

    def remove_stale_files(self) -> None:
        """Remove temporary files and locks of a killed visit; the caller has the dataset's lock."""
        remove_own_locks(self.path)
        if self.exists():
            protect(self.path)
        for pattern in _TEMPORARY_PATTERNS:
            for path in self.path.glob(pattern):
                path.unlink(missing_ok=True)

    def refs(self) -> dict[str, str]:
        """Return all refs of the repository.

        Returns
        -------
        dict[str, str]
            Full name → object id in hex.
        """
        return read_refs(self.path) if self.exists() else {}

    def ref(self, name: str) -> str | None:
        """Return one ref, without reading the others where it is loose.

        Parameters
        ----------
        name
            The full name.

        Returns
        -------
        str | None
            The object id in hex; None if the repository has no such ref.
        """
        found = read_loose_ref(self.path, name)
        return found or read_packed_refs(self.path).get(name, (None, ""))[0]

    def main_tip(self) -> tuple[str, int] | None:
        """Return the newest commit on ``main`` and its date in seconds since the epoch, or None.

        Returns
        -------
        tuple[str, int] | None
            The commit id in hex and the date, or None without a commit.

        Raises
        ------
        StoreDamagedError
            If the commit is missing or cannot be parsed.
        """
        commit = self.ref(MAIN_BRANCH)
        if commit is None:
            return None
        try:
            with ObjectReader(self.path) as reader:
                return commit, parse_commit(reader.read(commit)).committed_at
        except (ObjectMissingError, ValueError) as error:
            raise StoreDamagedError(
                f"{self.path}: {MAIN_BRANCH}: {error}; restore the repository from a backup"
            ) from error

    def add_pack(self, pack: Pack) -> None:
        """Rename a finished pack into the repository, and fsync the folder.

        Parameters
        ----------
        pack
            The pack; its temporary files are renamed.
        """
        folder = self.path / "objects" / "pack"
        os.replace(pack.pack, folder / f"{pack.name}.pack")
        os.replace(pack.index, folder / f"{pack.name}.idx")
        fsync_path(folder)

    def publish(self, expected: Mapping[str, str | None], new: Mapping[str, str]) -> None:
        """Move refs in one transaction, then update the files for clients of plain HTTP.

        Parameters
        ----------
        expected
            Where the refs must be now: full name → commit id in hex; None for a ref that must not
            exist.
        new
            Where the refs are moved to: full name → commit id in hex.

        Raises
        ------
        RefsMovedError
            A ref is not where ``expected`` has it.
        """
        update_refs(self.path, expected, new)
        self.update_server_info()

    def refresh(self) -> None:
        """Make refs visible that another machine has moved.

        A client of NFS may remember that a file is missing until the folder changes.
        """
        with tempfile.NamedTemporaryFile(prefix=DRAFT_PREFIX, dir=self.path):
            pass

    def update_server_info(self) -> None:
        """Update HEAD and the files for clients of plain HTTP to match the refs.

        HEAD is the branch of published versions, and ``main`` before the first one, so that a clone
        checks out the latest version, as all commands do.

        ``git update-server-info`` is run only where another program created refs: it would list
        retired packs.
        """
        refs = self.refs()
        head = PUBLISHED_BRANCH if PUBLISHED_BRANCH in refs else MAIN_BRANCH
        expected = f"ref: {head}\n"
        if (self.path / "HEAD").read_text() != expected:
            write_atomically(self.path / "HEAD", expected.encode())
        info = self.path / "info" / "refs"
        listed = "".join(f"{sha}\t{name}\n" for name, sha in sorted(refs.items()))
        # these lines are the peeled ids of annotated tags, which only other programs create
        current_lines = [
            line for line in _read_text(info).splitlines(True) if not line.endswith("^{}\n")
        ]
        # packs first: a client that sees the new refs must find their objects
        if not is_pack_list_current(self.path):
            write_pack_list(self.path)
        if "".join(current_lines) == listed:
            return
        content = info_refs_content(self.path)
        if content is not None:
            write_atomically(info, content)
            return
        run_git(self.path, "update-server-info", "--force")
        fsync_path(info)
        fsync_path(info.parent)
        if not is_pack_list_current(self.path):
            write_pack_list(self.path)


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def run_git(repository: Path, *arguments: str, stdin: str = "") -> str:
    """Return the output of a git command on a store's repository.

    Parameters
    ----------
    repository
        The bare repository.
    *arguments
        The command and its arguments, without ``git``.
    stdin
        The command's input.

    Returns
    -------
    str
        The standard output.

    Raises
    ------
    StoreDamagedError
        The command failed; the message has git's own message.
    """
    try:
        return git.run_git(repository, *arguments, stdin=stdin, umask=UMASK)
    except GitError as error:
        raise StoreDamagedError(str(error)) from error
