"""The files of a volume in a clone, fetched with git-annex where missing."""

from __future__ import annotations

import mmap
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import Final

from neuromirror.annex import POINTER_PREFIX, find_pointer_key, is_pointer
from neuromirror.git import CommitTree, ObjectMissingError, ObjectReader
from neuromirror.volume.annex_get import AnnexGet
from neuromirror.volume.content_check import check_content, map_file
from neuromirror.volume.errors import BlockUnavailableError

_STRIPES: Final = 64


class CloneFiles:
    """Returns the files of a volume in a clone (:class:`VolumeFiles`), after checking them.

    A missing block is fetched with git-annex, and stays. An existing block is hashed once, and
    again after a change, because git-annex verifies its files only on request.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.where = str(folder)
        self._annex_get = AnnexGet(self.folder)
        self._head: CommitTree | None = None
        self._head_lock = threading.Lock()
        self._checked: set[tuple[str, int, int, int]] = set()
        self._locks = [threading.Lock() for _ in range(_STRIPES)]

    def __reduce__(self) -> tuple[type[CloneFiles], tuple[Path]]:
        return CloneFiles, (self.folder,)

    def document(self, path: str) -> bytes | None:
        """Return the content of a document; None if the clone lacks the file."""
        try:
            if not stat.S_ISLNK(os.lstat(self.folder / path).st_mode):
                return (self.folder / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        return bytes(self.block(path))

    def git_document(self, path: str) -> bytes | None:
        """Return the content of a document; None if the clone lacks the file."""
        return self.document(path)

    def block(self, path: str) -> mmap.mmap:
        """Return a block's bytes, verified; raises BlockUnavailableError."""
        with self._locks[hash(path) % _STRIPES]:
            file = self.folder / path
            key = self._key(path)
            why = ""
            if not self._is_here(file, key):
                why = self._annex_get.get(path)
            try:
                with file.open("rb") as opened:
                    if key is not None and _is_pointer(opened):
                        raise FileNotFoundError
                    self._check(path, key, opened)
                    return map_file(opened)
            except FileNotFoundError as error:
                raise BlockUnavailableError(
                    path,
                    self.where,
                    f"its content is missing and git-annex cannot fetch it:"
                    f" {why or 'no error message'};"
                    f" try 'git annex get {path}' there",
                ) from error

    def copy(self, path: str, take: Callable[[int, memoryview], None]) -> None:
        """Pass a block's verified bytes to ``take``; raises BlockUnavailableError."""
        take(0, memoryview(self.block(path)))

    def has(self, path: str) -> bool:
        """Return whether the clone has the file, with or without its content."""
        return os.path.lexists(self.folder / path)

    def is_tracked(self, path: str) -> bool:
        """Return whether the commit that is checked out has the file."""
        with self._head_lock:
            if self._head is None:
                self._head = CommitTree(self._git_folder(), "HEAD")
            return self._head.entry(path) is not None

    def entries(self, folder: str) -> Iterator[tuple[str, bool]]:
        """Yield the names in a folder, each with whether it is a folder."""
        with suppress(FileNotFoundError, NotADirectoryError):
            for entry in sorted(os.scandir(self.folder / folder), key=lambda one: one.name):
                yield entry.name, entry.is_dir(follow_symlinks=False)

    def close(self) -> None:
        """Let git-annex finish and exit."""
        self._annex_get.close()
        with self._head_lock:
            if self._head is not None:
                self._head.close()
                self._head = None

    def _is_here(self, file: Path, key: str | None) -> bool:
        if key is None or not file.exists():
            return key is None
        with file.open("rb") as opened:
            return not _is_pointer(opened)

    def _key(self, path: str) -> str | None:
        """Return the key of a file; None for a file whose content is in git."""
        file = self.folder / path
        try:
            mode = os.lstat(file).st_mode
            if stat.S_ISLNK(mode):
                return find_pointer_key(os.readlink(os.fsencode(file)))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise BlockUnavailableError(
                path, self.where, "the file does not exist; 'git status' there may show why"
            ) from error
        # an unlocked file: its blob in git contains the key
        with suppress(ObjectMissingError), ObjectReader(self._git_folder()) as reader:
            return find_pointer_key(reader.read(f":{path}"))
        return None

    def _git_folder(self) -> Path:
        folder = self.folder / ".git"
        if folder.is_file():  # a subdataset's may be in its superdataset
            return self.folder / folder.read_text().removeprefix("gitdir:").strip()
        return folder

    def _check(self, path: str, key: str | None, file: BufferedReader) -> None:
        if key is None:
            return
        now = os.fstat(file.fileno())
        seen = key, now.st_ino, now.st_size, now.st_mtime_ns
        if seen in self._checked:
            return
        wrong = check_content(file, key)
        if wrong:
            raise BlockUnavailableError(
                path,
                self.where,
                f"the file differs from its key: {wrong}; 'git annex fsck {path}' there removes it,"
                " and it can be fetched again",
            )
        self._checked.add(seen)


def _is_pointer(file: BufferedReader) -> bool:
    """Return whether a file is a git-annex pointer file."""
    start = file.read(len(POINTER_PREFIX))
    file.seek(0)
    return is_pointer(start, os.fstat(file.fileno()).st_size)
