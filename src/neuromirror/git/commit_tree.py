"""Look up the files and folders of one commit by path."""

from __future__ import annotations

import threading
from functools import lru_cache
from pathlib import Path
from typing import Final

from neuromirror.git.errors import ObjectMissingError
from neuromirror.git.objects import ObjectReader
from neuromirror.git.trees import TREE_MODE

_CACHED_FOLDERS: Final = 256

TreeEntry = tuple[bytes, bytes]
"""The mode and the 20-byte object id of an entry of a git tree."""


class CommitTree:
    """The files of a commit, looked up by path. Thread-safe.

    The most recently used folders are kept in memory. :meth:`find` does not read whole folders.

    Parameters
    ----------
    repository
        The repository's own directory.
    commit
        The commit id in hex.
    """

    def __init__(self, repository: Path, commit: str) -> None:
        self.repository = repository
        self.commit = commit
        self._reader = ObjectReader(repository)
        self._lock = threading.RLock()
        try:
            self._root = self._reader.read_commit_tree(commit)
        except BaseException:
            self._reader.__exit__()
            raise
        self._folder_of = lru_cache(_CACHED_FOLDERS)(self._read_folder)

    def folder(self, path: str) -> dict[bytes, TreeEntry] | None:
        """Return the entries of a folder by name.

        Parameters
        ----------
        path
            The path of the folder; empty for the root.

        Returns
        -------
        dict or None
            Name → (mode, 20-byte id); None if the commit has no such folder.
        """
        found = self._folder_of(self._root)
        for name in filter(None, path.split("/")):
            entry = found.get(name.encode())
            if entry is None or entry[0] != TREE_MODE:
                return None
            found = self._folder_of(entry[1])
        return found

    def entry(self, path: str) -> TreeEntry | None:
        """Return the entry at a path, from the entries of its folder.

        Parameters
        ----------
        path
            The path of a file, folder or subdataset.

        Returns
        -------
        TreeEntry or None
            Its mode and id; None if the commit has no such path.
        """
        folder, _, name = path.rpartition("/")
        found = self.folder(folder)
        return None if found is None else found.get(name.encode())

    def read_blob(self, sha: bytes) -> bytes:
        """Return the content of a blob.

        Parameters
        ----------
        sha
            Its 20-byte id.

        Returns
        -------
        bytes
            The content.
        """
        with self._lock:
            return self._reader.read(sha.hex())

    def find(self, path: str, commit: str | None = None) -> bytes | None:
        """Return the content of a file that git itself looks up.

        This suits a file in a folder of very many, which is read once.

        Parameters
        ----------
        path
            The path of the file.
        commit
            Another commit of the repository, such as that of the git-annex branch.

        Returns
        -------
        bytes or None
            The content; None if the commit has no such file.
        """
        try:
            with self._lock:
                return self._reader.read(f"{commit or self.commit}:{path}")
        except ObjectMissingError:
            return None

    def close(self) -> None:
        """Let the git process finish."""
        with self._lock:
            self._reader.__exit__()

    def _read_folder(self, sha: bytes) -> dict[bytes, TreeEntry]:
        with self._lock:
            return self._reader.read_tree(sha)
