"""Content that is not complete yet: written, resumed, or copied from the cache.

Write a file that grows: through the page cache, or directly to the disk.

A large file that is not read again soon is written faster without the page cache, which otherwise
costs a copy in memory, and a flush at the end.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO, Final

from neuromirror.annex import parse_key
from neuromirror.cache import PieceCache, open_cache
from neuromirror.transfer.content_bodies import (
    ContentCheck,
    ContentMismatchError,
    FetchTask,
    cache_name,
    key_checksum,
)
from neuromirror.vault.object_files import write_all

_BUFFER: Final = 4 << 20
_ALIGNMENT: Final = 4096
"""A multiple of the block size of all disks, to which direct writes are aligned."""
_DIRECT: Final = getattr(os, "O_DIRECT", 0)


class FileWriter:
    """Writes files through the page cache, one after the other; for one thread."""

    def start(self, file: int) -> None:
        """Start to write a file.

        Parameters
        ----------
        file
            The file descriptor, whose position is the end of the file.
        """
        self._file = file

    def write(self, piece: memoryview) -> None:
        """Write the next bytes.

        Parameters
        ----------
        piece
            The bytes.
        """
        write_all(self._file, piece)

    def flush(self) -> None:
        """Write all bytes that were passed so far to the file."""

    def restart(self) -> None:
        """Empty the file."""
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)


class DirectFileWriter(FileWriter):
    """Writes files without the page cache, if their file system can do that.

    The last bytes are in memory until :meth:`flush`.
    """

    def __init__(self) -> None:
        self._buffer = memoryview(mmap.mmap(-1, _BUFFER))  # aligned, as direct writes have to be
        self._filled = 0
        self._end = _BUFFER
        self._is_possible = True

    def start(self, file: int) -> None:
        """Start to write a file; see :class:`FileWriter`."""
        super().start(file)
        self._filled = 0
        self._is_possible = _DIRECT != 0
        self._align()

    def write(self, piece: memoryview) -> None:
        """Write the next bytes; see :class:`FileWriter`."""
        while piece:
            part = piece[: self._end - self._filled]
            self._buffer[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            piece = piece[len(part) :]
            if self._filled == self._end:
                self.flush()

    def flush(self) -> None:
        """Write all bytes that were passed so far to the file."""
        content, self._filled = self._buffer[: self._filled], 0
        if len(content) == _BUFFER:  # then the position is aligned, too
            content = content[self._write_directly(content) :]
        if content:
            write_all(self._file, content)
        self._align()

    def restart(self) -> None:
        """Empty the file."""
        super().restart()
        self._filled, self._end = 0, _BUFFER

    def _align(self) -> None:
        """Fill the buffer only so far that the next one starts at an aligned position."""
        self._end = _BUFFER - os.lseek(self._file, 0, os.SEEK_CUR) % _ALIGNMENT

    def _write_directly(self, content: memoryview) -> int:
        """Return how many bytes were written; the file system may refuse direct writes."""
        if not self._is_possible:
            return 0
        written = 0
        flags = fcntl.fcntl(self._file, fcntl.F_GETFL)
        try:
            fcntl.fcntl(self._file, fcntl.F_SETFL, flags | _DIRECT)
            while written < len(content):
                written += os.write(self._file, content[written:])
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._is_possible = False
        finally:
            with suppress(OSError):
                fcntl.fcntl(self._file, fcntl.F_SETFL, flags)
        return written


_COPY_BLOCK: Final = 1 << 20


class CachedContents:
    """Whole contents of the cache, which are verified again. Thread-safe.

    Parameters
    ----------
    cache
        The cache; None for none.
    """

    def __init__(self, cache: PieceCache | None) -> None:
        self._cache = cache

    def read(self, task: FetchTask) -> tuple[memoryview, ContentCheck] | None:
        """Return a small content, and the check that it passed.

        Parameters
        ----------
        task
            The download task.

        Returns
        -------
        tuple of (memoryview, ContentCheck) or None
            The content and its check; None if the cache does not have the right bytes.
        """
        descriptor = self._open(task)
        if descriptor is None or task.size is None:
            return None
        try:
            content = os.pread(descriptor, task.size, 0)
        finally:
            os.close(descriptor)
        check = task.check()
        check.update(content)
        return None if check.mismatch() else (memoryview(content), check)

    def copy(
        self, task: FetchTask, file: int, report: Callable[[int], None]
    ) -> ContentCheck | None:
        """Copy a content to an empty file, as a reflink if the file system supports it.

        Parameters
        ----------
        task
            The download task.
        file
            The file descriptor of the file.
        report
            Called with the number of bytes of each step. If the content turns out to be wrong, it
            is called with minus their sum.

        Returns
        -------
        ContentCheck or None
            The check that it passed. None if the cache does not have the right bytes; the file is
            then empty.
        """
        descriptor = self._open(task)
        if descriptor is None or task.size is None:
            return None
        try:
            _copy(descriptor, file, task.size)
        finally:
            os.close(descriptor)
        check = task.check()
        position = 0
        while block := os.pread(file, _COPY_BLOCK, position):
            check.update(block)
            report(len(block))
            position += len(block)
        if check.mismatch() is None:
            return check
        report(-position)
        os.ftruncate(file, 0)
        os.lseek(file, 0, os.SEEK_SET)
        return None

    def _open(self, task: FetchTask) -> int | None:
        """Open a whole content with a checksum; None if the cache does not have it."""
        name = cache_name(key_checksum(task.key))
        if self._cache is None or name is None:
            return None
        return self._cache.content(name).open_whole()


def copy_cached(key: str, file: BinaryIO) -> bool:
    """Write the content of a key from the cache of this machine, verified.

    Parameters
    ----------
    key
        The annex key.
    file
        An empty file, open for writing and reading.

    Returns
    -------
    bool
        Whether the cache had the content; otherwise the file is empty.

    Raises
    ------
    ConfigurationError
        The limit of the cache is not a size.
    """
    cached = CachedContents(open_cache())
    task = FetchTask(key, parse_key(key).size, ())
    return cached.copy(task, file.fileno(), lambda count: None) is not None


def _copy(source: int, target: int, size: int) -> None:
    """Copy the first bytes of a file to an empty one."""
    position = 0
    with suppress(OSError, AttributeError):  # another file system, or macOS
        while position < size:
            count = os.copy_file_range(source, target, size - position, position, position)
            if not count:
                break
            position += count
    while position < size:
        block = os.pread(source, min(_COPY_BLOCK, size - position), position)
        if not block:
            break
        os.pwrite(target, block, position)
        position += len(block)


_BODY_TIMEOUT: Final = 300.0
_HASH_BLOCK: Final = 1 << 20
_MIN_BYTES_PER_SECOND: Final = 1 << 14
"""Rate below which a server counts as stalled."""


class PartialContent:
    """Content that grows in a file and is hashed as it grows.

    Parameters
    ----------
    task
        The download task.
    file
        The file descriptor of the file.
    writer
        Writes the file.
    report_bytes
        Called with the key and the number of bytes that the content has grown; negative if bytes
        are discarded.

    Attributes
    ----------
    check
        The check of the bytes so far.
    """

    def __init__(
        self,
        task: FetchTask,
        file: int,
        writer: FileWriter,
        report_bytes: Callable[[str, int], None],
    ) -> None:
        self.task = task
        self.check = task.check()
        self._file = file
        self._writer = writer
        self._report_bytes = report_bytes
        self._reported = 0

    @property
    def is_complete(self) -> bool:
        """Whether the content has its size."""
        return self.task.size is not None and self.check.bytes_seen >= self.task.size

    def remaining_timeout(self) -> float | None:
        """Return the seconds allowed for the remaining bytes, None if the size is unknown."""
        if self.task.size is None:
            return None
        return body_timeout(self.task.size - self.check.bytes_seen)

    def resume(self, check_stopped: Callable[[], None]) -> None:
        """Hash the bytes of an earlier attempt, which are not trusted.

        They are discarded if the key has no checksum to verify them with.
        """
        self._writer.start(self._file)
        if not self.check.has_digest:
            self.restart()
            return
        os.lseek(self._file, 0, os.SEEK_SET)
        while block := os.read(self._file, _HASH_BLOCK):
            check_stopped()
            self.check.update(block)
            self._report(len(block))
        if self.task.size is not None and self.check.bytes_seen > self.task.size:
            self.restart()
        self._writer.start(self._file)

    def start_at(self, start: int) -> None:
        """Prepare for bytes from offset ``start``: the end of the file, or 0."""
        if start != self.check.bytes_seen:
            if start:
                raise ContentMismatchError("the server sent another range than requested")
            self.restart()

    def restart(self) -> None:
        """Discard all received bytes."""
        if self._reported:
            self._report_bytes(self.task.key, -self._reported)
            self._reported = 0
        self._writer.restart()
        self.check = self.task.check()

    def append(self, piece: memoryview) -> None:
        """Write and hash the next bytes."""
        try:
            update_check(self.check, piece)
        except ContentMismatchError:
            self.restart()
            raise
        self._writer.write(piece)
        self._report(len(piece))

    def flush(self) -> None:
        """Write all bytes to the file."""
        self._writer.flush()

    def _report(self, more: int) -> None:
        self._reported += more
        self._report_bytes(self.task.key, more)


def body_timeout(count: int) -> float:
    """Return the seconds allowed for a body of ``count`` bytes."""
    return _BODY_TIMEOUT + count / _MIN_BYTES_PER_SECOND


def update_check(check: ContentCheck, piece: memoryview) -> None:
    """Hash the next bytes; raise ContentMismatchError if they are too many."""
    check.update(piece)
    if check.size is not None and check.bytes_seen > check.size:
        raise ContentMismatchError(f"the URL has more than {check.size} bytes")
