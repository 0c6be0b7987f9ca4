"""The cache of this machine: contents and pieces of contents, shared by all processes of a user.

::

    <folder>/whole/<ab>/<name>   a whole content
    <folder>/pieces/<ab>/<name>  a sparse file with the pieces of a content, and a map of them
    <folder>/lock                held while old contents are removed

The name has the digest and the size of a content. Nothing in the cache is trusted: readers verify
the bytes that they read. So it needs no transactions: the map is written after the data, and a file
that another process removes stays readable for those that have opened it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from msgspec import Struct

from neuromirror.cache.cached_content import CachedContent, ContentName

Data = bytes | bytearray | memoryview

_WHOLE: Final = "whole"
_PIECES: Final = "pieces"
_OWNER_MODE: Final = 0o700
_KEPT: Final = 0.9
"""The part of the limit that remains filled when old contents are removed."""
_MAX_PENDING: Final = 32 << 20
"""Maximum size in bytes of the pieces that wait to be written; others are written at once."""


class CachedEntry(Struct, frozen=True):
    """A content in the cache.

    Attributes
    ----------
    name
        Its digest and size, as in the names of its files.
    stored
        Bytes on the disk.
    used
        The time of its last use, in seconds since the epoch.
    path
        Its file.
    """

    name: str
    stored: int
    used: float
    path: Path


class PieceCache:
    """A cache of contents and their pieces, for many processes. Thread-safe.

    The least recently used contents are removed once the cache exceeds its limit. For a short time
    each process that writes may exceed the limit by a sixteenth of it.

    Parameters
    ----------
    folder
        The folder, which is created with access for its owner only.
    limit
        Maximum size in bytes.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        self._lock = threading.Lock()
        self._unchecked: int | None = None
        self._failed = False
        self._writes = _BackgroundWrites(self._write)

    def __reduce__(self) -> tuple[type[PieceCache], tuple[Path, int]]:
        return PieceCache, (self.folder, self.limit)

    @property
    def has_failed(self) -> bool:
        """Whether pieces are no longer written, because the folder could not be written."""
        return self._failed

    def content(self, name: ContentName) -> CachedContent:
        """Return a content as far as it is in the cache, which may be not at all.

        Parameters
        ----------
        name
            Its digest and size.

        Returns
        -------
        CachedContent
            The content; close it after use.
        """
        below = f"{name.folder_name}/{name.file_name}"
        found = CachedContent(
            f"{self.folder}/{_WHOLE}/{below}", f"{self.folder}/{_PIECES}/{below}", name.size
        )
        self._background().finish(found)
        return found

    def accepts(self, size: int) -> bool:
        """Return whether contents of this size in bytes are cached: up to half of the limit."""
        return size <= self.limit // 2

    def write(self, content: CachedContent, start: int, data: Data) -> None:
        """Write a verified piece of a content, unless the content is larger than half the limit.

        The piece is written in the background, before the process exits. After an error, such as a
        full disk, this object writes no more pieces.

        Parameters
        ----------
        content
            The content.
        start
            The offset of the piece in bytes.
        data
            The bytes, which must not change any more.
        """
        if self._failed or not self.accepts(content.size):
            return
        if not self._background().submit(content, start, data):
            self._write(content, start, data)

    def finish_writing(self) -> None:
        """Wait until all pieces are written that were passed to :meth:`write`."""
        self._background().finish()

    def _write(self, content: CachedContent, start: int, data: Data) -> None:
        try:
            self._prepare()
            content.write(start, data)
            self._count(len(data))
        except OSError:  # a full disk, or a folder without permissions
            self._failed = True

    @contextmanager
    def new_content(self, name: ContentName) -> Iterator[BinaryIO]:
        """Write a whole content, which is kept if the block ends without an error.

        Parameters
        ----------
        name
            The digest and size of the content, which the caller verifies.

        Yields
        ------
        BinaryIO
            An empty file, open for writing and reading.

        Raises
        ------
        OSError
            The cache cannot be written.
        """
        target = self.content(name).whole_path
        self._prepare()
        target.parent.mkdir(mode=_OWNER_MODE, parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(prefix=".new-", dir=target.parent)
        with os.fdopen(descriptor, "w+b") as file:
            try:
                yield file
                file.flush()
                os.replace(draft, target)
            except BaseException:
                Path(draft).unlink(missing_ok=True)
                raise
        self._count(name.size)

    def entries(self) -> Iterator[CachedEntry]:
        """Return all contents.

        Returns
        -------
        iterator of CachedEntry
            The contents.
        """
        self.finish_writing()
        return self._entries()

    def _entries(self) -> Iterator[CachedEntry]:
        for folder in (_WHOLE, _PIECES):
            for path in _files(self.folder / folder):
                with suppress(FileNotFoundError):
                    found = path.stat()
                    yield CachedEntry(path.name, found.st_blocks * 512, found.st_mtime, path)

    def prune(self, limit: int | None = None, *, wait: bool = False) -> tuple[int, int]:
        """Remove the least recently used contents until the cache is small enough.

        Parameters
        ----------
        limit
            The size in bytes; by default the limit of the cache.
        wait
            Wait for another process that is removing contents; else nothing is removed then.

        Returns
        -------
        tuple of (int, int)
            The number of removed contents, and their size on the disk in bytes.

        Raises
        ------
        OSError
            A content cannot be removed.
        """
        removed = freed = 0
        with self._exclusive(wait=wait) as is_held:
            if not is_held:
                return 0, 0
            found = sorted(self._entries(), key=lambda one: one.used)
            total = sum(one.stored for one in found)
            for one in found:
                if total <= (self.limit if limit is None else limit):
                    break
                one.path.unlink(missing_ok=True)
                total -= one.stored
                removed, freed = removed + 1, freed + one.stored
        return removed, freed

    def clear(self) -> tuple[int, int]:
        """Remove all contents.

        Returns
        -------
        tuple of (int, int)
            Their number, and their size on the disk in bytes.

        Raises
        ------
        OSError
            A content cannot be removed.
        """
        self.finish_writing()
        found = self.prune(-1, wait=True)
        for name in (_WHOLE, _PIECES):
            # other processes may write there
            shutil.rmtree(self.folder / name, ignore_errors=True)
        return found

    def _background(self) -> _BackgroundWrites:
        if self._writes.process != os.getpid():  # a fork has no threads
            self._writes = _BackgroundWrites(self._write)
        return self._writes

    def _prepare(self) -> None:
        if self._unchecked is None:
            self.folder.mkdir(mode=_OWNER_MODE, parents=True, exist_ok=True)
            if self.folder.stat().st_mode & 0o077:
                self.folder.chmod(_OWNER_MODE)
            self._unchecked = self.limit  # another process may have filled it

    def _count(self, count: int) -> None:
        """Count written bytes; after a sixteenth of the limit, look at the size of the cache."""
        with self._lock:
            self._unchecked = (self._unchecked or 0) + count
            if self._unchecked <= self.limit // 16:
                return
            self._unchecked = 0
        if sum(one.stored for one in self._entries()) > self.limit:
            self.prune(int(self.limit * _KEPT))

    @contextmanager
    def _exclusive(self, *, wait: bool) -> Iterator[bool]:
        """Hold the lock of the cache; yields whether it is held, because another process may."""
        try:
            descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:  # there is no cache yet
            yield False
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            is_held = True
        except BlockingIOError:
            is_held = False
        try:
            yield is_held
        finally:
            os.close(descriptor)


class _BackgroundWrites:
    """Writes pieces in a thread, so that their readers need not wait. Thread-safe."""

    def __init__(self, write: Callable[[CachedContent, int, Data], None]) -> None:
        self.process = os.getpid()
        self._write = write
        self._lock = threading.Lock()
        # a pool, because Python finishes its work before the process exits
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="neuromirror-cache")
        self._last: dict[str, Future[None]] = {}
        self._bytes = 0

    def submit(self, content: CachedContent, start: int, data: Data) -> bool:
        """Write a piece later; return False if too many wait already, or the process exits."""
        name = content.whole_name
        with self._lock:
            if self._bytes + len(data) > _MAX_PENDING:
                return False
            try:
                future = self._pool.submit(self._write, content, start, data)
            except RuntimeError:  # the process exits
                return False
            self._bytes += len(data)
            self._last[name] = future

        def forget(_: Future[None]) -> None:
            with self._lock:
                self._bytes -= len(data)
                if self._last.get(name) is future:
                    del self._last[name]

        future.add_done_callback(forget)
        return True

    def finish(self, content: CachedContent | None = None) -> None:
        """Wait until the pieces of a content, or all of them, are written."""
        with self._lock:
            found = self._last.values() if content is None else [self._last.get(content.whole_name)]
            waits = [one for one in found if one is not None]
        wait(waits)


def _files(folder: Path) -> Iterator[Path]:
    with suppress(FileNotFoundError, NotADirectoryError):
        for inner in os.scandir(folder):
            with suppress(FileNotFoundError, NotADirectoryError), os.scandir(inner) as found:
                for one in found:
                    yield Path(one.path)
