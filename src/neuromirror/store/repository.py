"""One bare repository of the store."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from neuromirror import git
from neuromirror.git import GitError, Pack, read_refs
from neuromirror.git.refs import info_refs_content
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
"""Where upstream calls what is observed its draft: the same as ``main``, to be cloned by name."""
ANNEX_BRANCH = "refs/heads/git-annex"
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
"""What ``git init --bare`` makes (gitrepository-layout(5)), and what RIA stores want beside it."""
_TEMPORARY_PATTERNS = (
    *(f"{DRAFT_PREFIX}*", ".new-*", "info/.new-*", "info/refs_*"),
    *("objects/info/.new-*", "objects/info/packs_*"),
)
"""Drafts, ours and git's, of files that are put in place by a rename."""


class Repository:
    """A bare git repository that any static HTTP server can serve."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def exists(self) -> bool:
        """Whether the repository has been made."""
        return (self.path / "HEAD").exists()

    def create(self) -> None:
        """Makes the empty repository in one step, unless it is there."""
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
        protect(draft)
        fsync_tree(draft)
        os.rename(draft, self.path)
        fsync_path(self.path.parent)

    def remove_stale_files(self) -> None:
        """Removes what a killed visit left; the caller holds the dataset's lock."""
        remove_own_locks(self.path)
        if self.exists():
            protect(self.path)
        for pattern in _TEMPORARY_PATTERNS:
            for path in self.path.glob(pattern):
                path.unlink(missing_ok=True)

    def refs(self) -> dict[str, str]:
        """All refs: full name → object id in hex."""
        return read_refs(self.path) if self.exists() else {}

    def main_tip(self) -> tuple[str, int] | None:
        """The newest commit on ``main`` and its date in whole seconds, or None."""
        commit = self.refs().get(MAIN_BRANCH)
        if commit is None:
            return None
        return commit, int(run_git(self.path, "show", "-s", "--format=%ct", commit))

    def add_pack(self, pack: Pack) -> None:
        """Gives a finished pack its name; its objects are in the repository from then on."""
        folder = self.path / "objects" / "pack"
        os.replace(pack.pack, folder / f"{pack.name}.pack")
        os.replace(pack.index, folder / f"{pack.name}.idx")
        fsync_path(folder)

    def publish(self, expected: Mapping[str, str | None], new: Mapping[str, str]) -> None:
        """Moves refs in one transaction, then makes them seen over plain HTTP."""
        update_refs(self.path, expected, new)
        self.update_server_info()

    def update_server_info(self) -> None:
        """Brings HEAD and the files for plain HTTP in line with the refs, where they are not.

        HEAD is the branch of the newest published version, and ``main`` where there is none: a
        clone without a label checks out what the dataset's name means everywhere else.

        Retired packs are not listed, which ``git update-server-info`` would do; it is only asked
        where somebody else has put refs here.
        """
        refs = self.refs()
        head = PUBLISHED_BRANCH if PUBLISHED_BRANCH in refs else MAIN_BRANCH
        expected = f"ref: {head}\n"
        if (self.path / "HEAD").read_text() != expected:
            write_atomically(self.path / "HEAD", expected.encode())
        info = self.path / "info" / "refs"
        listed = "".join(f"{sha}\t{name}\n" for name, sha in sorted(refs.items()))
        # lines that end so tell what annotated tags of others stand for
        current_lines = [
            line for line in _read_text(info).splitlines(True) if not line.endswith("^{}\n")
        ]
        # packs first: refs must not be told of before what they lead to
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


def run_git(repository: Path, *arguments: str) -> str:
    """Return the output of a git command on a store's repository.

    Raises StoreDamagedError with git's own message where the command fails.
    """
    try:
        return git.run_git(repository, *arguments, umask=UMASK)
    except GitError as error:
        raise StoreDamagedError(str(error)) from error
