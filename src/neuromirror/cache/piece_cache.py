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

import errno
import fcntl
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from msgspec import Struct

from neuromirror.model import ConfigurationError

LEAF: Final = 16 << 10
"""Bytes that one byte of the map stands for."""

_OWNER_MODE: Final = 0o700
_USED_INTERVAL: Final = 60.0
"""Seconds after which another use of a content is recorded."""

Data = bytes | bytearray | memoryview


class CachedContent:
    """The part of one content that is in the cache. Thread-safe.

    Parameters
    ----------
    whole
        The path of the whole content.
    pieces
        The path of its pieces: a sparse file with the bytes of the content in leaves of
        :data:`LEAF` bytes, followed by the map of the leaves: one byte per leaf, which is 1 if the
        file has the leaf.
    size
        Size of the content in bytes.
    """

    def __init__(self, whole: str, pieces: str, size: int) -> None:
        # text, because a Zarr has very many small contents
        self.whole_name, self._pieces_name = whole, pieces
        self.size = size
        self._leaves = -(-size // LEAF)
        self._whole: int | None = None
        self._pieces: int | None = None
        self._lock = threading.Lock()

    @property
    def whole_path(self) -> Path:
        """The path of the whole content."""
        return Path(self.whole_name)

    @property
    def pieces_path(self) -> Path:
        """The path of its pieces."""
        return Path(self._pieces_name)

    def read(self, start: int, stop: int) -> bytearray | None:
        """Return the bytes of a range, which are not verified.

        Parameters
        ----------
        start, stop
            Offsets of the first byte, and after the last byte.

        Returns
        -------
        bytearray or None
            The bytes; None if they are not all in the cache.
        """
        with self._lock, suppress(OSError):
            descriptor = self._find(start, stop)
            if descriptor is not None:
                data = bytearray(stop - start)
                return data if os.preadv(descriptor, [data], start) == len(data) else None
        return None

    def has(self, start: int, stop: int) -> bool:
        """Return whether a range is in the cache.

        Parameters
        ----------
        start, stop
            Offsets of the first byte, and after the last byte.

        Returns
        -------
        bool
            Whether all its bytes are there; they are not verified.
        """
        with self._lock, suppress(OSError):
            return self._find(start, stop) is not None
        return False

    def open_whole(self) -> int | None:
        """Open the file with the content, if all of it is cached; it is not verified.

        Returns
        -------
        int or None
            A file descriptor, which the caller closes; None if bytes are missing. What follows the
            content in the file is not a part of it.
        """
        with self._lock, suppress(OSError):
            descriptor = self._find(0, self.size)
            return None if descriptor is None else os.dup(descriptor)
        return None

    def write(self, start: int, data: Data) -> None:
        """Write verified bytes, if the cache does not have the whole content already.

        Parameters
        ----------
        start
            The offset of the first byte.
        data
            The bytes. Leaves at their start and end that they have only in part are not kept.

        Raises
        ------
        OSError
            The cache cannot be written.
        """
        stop = start + len(data)
        with self._lock:
            if os.path.exists(self.whole_name):
                return
            if start == 0 and stop == self.size:
                self._write_whole(data)
                return
            if self._pieces is None:
                self.pieces_path.parent.mkdir(mode=_OWNER_MODE, parents=True, exist_ok=True)
                self._pieces = _open(self._pieces_name, os.O_RDWR | os.O_CREAT)
            assert self._pieces is not None
            first = -(-start // LEAF)
            last = self._leaves if stop == self.size else stop // LEAF
            if first < last:
                os.pwrite(self._pieces, data, start)
                # after the data, so that a reader finds both or none
                os.pwrite(self._pieces, bytes((1,)) * (last - first), self._map_offset + first)

    def discard(self, start: int, stop: int) -> None:
        """Remove bytes that turned out to be wrong; without an error if they cannot be removed.

        Parameters
        ----------
        start, stop
            Offsets of the first byte, and after the last byte.
        """
        with self._lock, suppress(OSError):
            if self._whole is not None:
                os.close(self._whole)
                self._whole = None
                self.whole_path.unlink(missing_ok=True)
            elif self._pieces is not None:
                first, last = start // LEAF, -(-stop // LEAF)
                os.pwrite(self._pieces, bytes(last - first), self._map_offset + first)

    def close(self) -> None:
        """Close its files."""
        with self._lock:
            self.__del__()

    def __del__(self) -> None:
        # without the lock: in a forked process, a thread that it lacks may hold it for ever
        for descriptor in (self._whole, self._pieces):
            if descriptor is not None:
                os.close(descriptor)
        self._whole = self._pieces = None

    @property
    def _map_offset(self) -> int:
        return self._leaves * LEAF

    def _find(self, start: int, stop: int) -> int | None:
        """Return the descriptor of the file that has a range."""
        if self._whole is None:
            self._whole = _open(self.whole_name, os.O_RDONLY)
            if self._whole is not None and os.fstat(self._whole).st_size != self.size:
                # cut off, for example by a loss of power
                os.close(self._whole)
                self._whole = None
                self.whole_path.unlink(missing_ok=True)
        if self._whole is not None:
            return self._whole
        if self._pieces is None:
            self._pieces = _open(self._pieces_name, os.O_RDWR)
        if self._pieces is None:
            return None
        first, last = start // LEAF, -(-stop // LEAF)
        found = os.pread(self._pieces, last - first, self._map_offset + first)
        return self._pieces if found == bytes((1,)) * (last - first) else None

    def _write_whole(self, data: Data) -> None:
        # plain calls of os: a Zarr has very many small contents
        folder, name = os.path.split(self.whole_name)
        draft = f"{folder}/.{name}.{os.getpid()}.{threading.get_ident()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            descriptor = os.open(draft, flags, 0o600)
        except FileNotFoundError:
            os.makedirs(folder, _OWNER_MODE, exist_ok=True)
            descriptor = os.open(draft, flags, 0o600)
        try:
            try:
                written = os.write(descriptor, data)
            finally:
                os.close(descriptor)
            if written != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), draft)
            os.replace(draft, self.whole_name)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(draft)
            raise


def _open(path: str, flags: int) -> int | None:
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileNotFoundError:
        return None
    now = time.time()
    if now - os.fstat(descriptor).st_mtime > _USED_INTERVAL:
        with suppress(OSError):
            os.utime(descriptor)
    return descriptor


# --- names of contents in the cache: their digest and size


_NAME: Final = re.compile(r"[a-z0-9_]{1,16}-[0-9a-f]{16,128}(?:-[0-9]{1,18})*")


class ContentName(Struct, frozen=True):
    """The identity of a content.

    Attributes
    ----------
    algorithm
        The algorithm of the digest, such as ``sha256``, ``md5`` or ``etag``.
    value
        The digest in hex; for an ETag ``<md5>-<parts>-<part size>``.
    size
        Size of the content in bytes.
    """

    algorithm: str
    value: str
    size: int

    @property
    def is_valid(self) -> bool:
        """Whether algorithm and value have the form of a digest, so that they can name a file."""
        return _NAME.fullmatch(self.file_name) is not None

    @property
    def file_name(self) -> str:
        """The name of the files with the content or its pieces."""
        return f"{self.algorithm}-{self.value}-{self.size}"

    @property
    def folder_name(self) -> str:
        """The name of the folder that contains these files: the first characters of the digest."""
        return self.value[:2]


_WHOLE: Final = "whole"
_PIECES: Final = "pieces"
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
        if sum(entry.stored for entry in self._entries()) > self.limit:
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


FOLDER_VARIABLE: Final = "NEUROMIRROR_CACHE"
"""The folder of the cache; ``off`` for no cache."""

SIZE_VARIABLE: Final = "NEUROMIRROR_CACHE_SIZE"
"""Maximum size of the cache, such as ``20GB`` or ``500MiB``; ``0`` for no cache."""

_DEFAULT_SIZE: Final = 10 << 30
_PART_OF_DISK: Final = 10
_SIZE: Final = re.compile(r"(\d{1,15})(?:\.(\d{1,15}))?\s*([kmgt]?)(i?)b?", re.IGNORECASE)

_opened: dict[tuple[Path, int], PieceCache] = {}
_lock = threading.Lock()


def open_cache() -> PieceCache | None:
    """Return the cache of this machine, one per process; None if it is switched off.

    Returns
    -------
    PieceCache or None
        The cache in the folder and with the limit that the environment sets. By default, the
        folder is in the user's cache folder, and the limit 10 GiB or a tenth of the disk, whichever
        is less.

    Raises
    ------
    ConfigurationError
        The size is not a size.
    """
    folder = cache_folder()
    if folder is None:
        return None
    limit = _limit(folder)
    if not limit:
        return None
    with _lock:
        found = _opened.get((folder, limit))
        if found is None:
            found = _opened[folder, limit] = PieceCache(folder, limit)
        return found


def cache_folder() -> Path | None:
    """Return the folder of the cache; None if it is switched off.

    Returns
    -------
    Path or None
        The folder, which may be missing.
    """
    named = os.environ.get(FOLDER_VARIABLE, "")
    if named == "off":
        return None
    if named:
        return Path(named).absolute()
    from platformdirs import user_cache_path

    return user_cache_path("neuromirror") / "pieces"


def parse_size(text: str) -> int:
    """Return a size in bytes.

    Parameters
    ----------
    text
        A number with an optional unit: decimal such as ``1.5GB``, or binary such as ``500 MiB``.
        Without a unit it is a whole number of bytes.

    Returns
    -------
    int
        The size in bytes.

    Raises
    ------
    ValueError
        The text is not a size.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None or ((found[2] or found[4]) and not found[3]):
        raise ValueError(f"{text!r} is not a size such as 1.5GB or 500MiB")
    decimals = found[2] or ""
    unit = int((1024 if found[4] else 1000) ** " kmgt".index(found[3].lower() or " "))
    return int(found[1] + decimals) * unit // int(10 ** len(decimals))


def _limit(folder: Path) -> int:
    named = os.environ.get(SIZE_VARIABLE, "")
    if named:
        try:
            return parse_size(named)
        except ValueError as error:
            raise ConfigurationError(f"{SIZE_VARIABLE}: {error}") from None
    there = folder
    while not os.path.exists(there) and there != there.parent:  # also without permission
        there = there.parent
    return min(_DEFAULT_SIZE, shutil.disk_usage(there).total // _PART_OF_DISK)
