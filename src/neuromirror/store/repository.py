"""One bare repository of the store."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from neuromirror.mint import Pack, git_environment
from neuromirror.store.disk import (
    FILE_MODE,
    FOLDER_MODE,
    UMASK,
    make_folder,
    sync,
    sync_tree,
    write_atomically,
)
from neuromirror.store.errors import StoreDamaged
from neuromirror.store.protection import CONFIG, protect
from neuromirror.store.refs import DRAFTS, drop_own_locks, info_refs, move_refs, read_refs
from neuromirror.store.retired import are_listed, list_packs

MAIN = "refs/heads/main"
PUBLISHED = "refs/heads/published"
DRAFT = "refs/heads/draft"
"""Where upstream calls what is observed its draft: the same as ``main``, to be cloned by name."""
ANNEX = "refs/heads/git-annex"
TAGS = "refs/tags/"

_FOLDERS = (
    *("", "info", "objects", "objects/info", "objects/pack"),
    *("refs", "refs/heads", "refs/tags"),
)
_FILES = {
    "HEAD": f"ref: {MAIN}\n",
    "config": CONFIG,
    "ria-layout-version": "2\n",
}
"""What ``git init --bare`` makes (gitrepository-layout(5)), and what RIA stores want beside it."""
_LEFT_BEHIND = (
    *(f"{DRAFTS}*", ".new-*", "info/.new-*", "info/refs_*"),
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
        sync_tree(draft)
        os.rename(draft, self.path)
        sync(self.path.parent)

    def clean(self) -> None:
        """Removes what a killed visit left; the caller holds the dataset's lock."""
        drop_own_locks(self.path)
        if self.exists():
            protect(self.path)
        for pattern in _LEFT_BEHIND:
            for path in self.path.glob(pattern):
                path.unlink(missing_ok=True)

    def refs(self) -> dict[str, str]:
        """All refs: full name → object id in hex."""
        return read_refs(self.path) if self.exists() else {}

    def main(self) -> tuple[str, int] | None:
        """The newest commit on ``main`` and its date in whole seconds, or None."""
        commit = self.refs().get(MAIN)
        if commit is None:
            return None
        return commit, int(git(self.path, "show", "-s", "--format=%ct", commit))

    def place(self, pack: Pack) -> None:
        """Gives a finished pack its name; its objects are in the repository from then on."""
        folder = self.path / "objects" / "pack"
        os.replace(pack.pack, folder / f"{pack.name}.pack")
        os.replace(pack.index, folder / f"{pack.name}.idx")
        sync(folder)

    def publish(self, expected: Mapping[str, str | None], new: Mapping[str, str]) -> None:
        """Moves refs in one transaction, then makes them seen over plain HTTP."""
        move_refs(self.path, expected, new)
        self.refresh()

    def refresh(self) -> None:
        """Brings HEAD and the files for plain HTTP in line with the refs, where they are not.

        HEAD is the branch of the newest published version, and ``main`` where there is none: a
        clone without a label checks out what the dataset's name means everywhere else.

        Retired packs are not listed, which ``git update-server-info`` would do; it is only asked
        where somebody else has put refs here.
        """
        refs = self.refs()
        head = PUBLISHED if PUBLISHED in refs else MAIN
        wanted = f"ref: {head}\n"
        if (self.path / "HEAD").read_text() != wanted:
            write_atomically(self.path / "HEAD", wanted.encode())
        info = self.path / "info" / "refs"
        listed = "".join(f"{sha}\t{name}\n" for name, sha in sorted(refs.items()))
        # lines that end so tell what annotated tags of others stand for
        told = [line for line in _text(info).splitlines(True) if not line.endswith("^{}\n")]
        # packs first: refs must not be told of before what they lead to
        if not are_listed(self.path):
            list_packs(self.path)
        if "".join(told) == listed:
            return
        content = info_refs(self.path)
        if content is not None:
            write_atomically(info, content)
            return
        git(self.path, "update-server-info", "--force")
        sync(info)
        sync(info.parent)
        if not are_listed(self.path):
            list_packs(self.path)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def git(repository: Path, *arguments: str) -> str:
    """What a git command printed; raises StoreDamaged with git's own words when it failed."""
    done = subprocess.run(
        ["git", *arguments],
        env=git_environment(repository),
        umask=UMASK,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise StoreDamaged(
            f"'git {' '.join(arguments[:2])}' failed in {repository}: {done.stderr.strip()}"
        )
    return done.stdout
