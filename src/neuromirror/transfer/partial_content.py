"""Content that is not complete yet: written, resumed, or copied from the cache.

Write a file that grows: through the page cache, or directly to the disk.

A large file that is not read again soon is written faster without the page cache, which otherwise
costs a copy in memory, and a flush at the end.
"""

from __future__ import annotations

import errno
import fcntl
import io
import mmap
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, BinaryIO, Final

from neuromirror.annex import parse_key
from neuromirror.cache import PieceCache, open_cache
from neuromirror.model import NeuromirrorError
from neuromirror.net import NetError, Response, Session
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


_BLOCK: Final = 1 << 18
"""Bytes of one block, the unit of the cache."""
_MAX_BLOCKS_PER_REQUEST: Final = 16
_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


class ReadLimitError(NeuromirrorError):
    """A reader requested more bytes than it may."""


class RangeMismatchError(NeuromirrorError):
    """A server returned another range, or an object of another size, than expected."""


class RangeFile(io.RawIOBase):
    """A read-only, seekable file over HTTP range requests (RFC 9110, section 14).

    The bytes are *not* verified: a digest of the whole object says nothing about a part of it.
    Blocks are cached for the lifetime of the object, and sequential reads request increasingly many
    blocks at once. For one thread.

    Parameters
    ----------
    session_for
        Returns the session for a URL.
    urls
        URLs of the object, in the order in which to try them.
    size
        Size of the object in bytes.
    max_bytes
        Maximum number of bytes to request; a read beyond it raises :class:`ReadLimitError`.

    Attributes
    ----------
    failure
        The error of the first read that failed, after which all fail; None before. Libraries such
        as HDF5 replace it by an error of their own.
    """

    def __init__(
        self,
        session_for: Callable[[str], Session],
        urls: Sequence[str],
        size: int,
        *,
        max_bytes: int,
    ) -> None:
        super().__init__()
        self._session_for = session_for
        self._urls = list(urls)
        self._size, self._max_bytes = size, max_bytes
        self._position = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._next_block, self._read_ahead = -1, 1
        self.bytes_requested = 0
        self.failure: NeuromirrorError | None = None

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position; return it in bytes."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from the position; return the number of bytes, 0 at the end."""
        view = memoryview(buffer).cast("B")
        number, offset = divmod(self._position, _BLOCK)
        requested = min(len(view), self._size - self._position)
        if requested <= 0:
            return 0
        block = self._block(number, -(-(offset + requested) // _BLOCK))
        part = block[offset : offset + requested]
        view[: len(part)] = part
        self._position += len(part)
        return len(part)

    def _block(self, number: int, count: int) -> bytes:
        """Return a block; request up to ``count`` at once, or more while reads are sequential."""
        if number not in self._blocks:
            self._read_ahead = self._read_ahead * 2 if number == self._next_block else 1
            most = min(max(count, self._read_ahead), _MAX_BLOCKS_PER_REQUEST)
            last = number + 1
            while last < number + most and last * _BLOCK < self._size and last not in self._blocks:
                last += 1
            if self.failure is not None:  # a library may go on reading elsewhere
                raise self.failure
            try:
                self._request(number, last)
            except NeuromirrorError as error:
                self.failure = error
                raise
            self._next_block = last
        return self._blocks[number]

    def _request(self, first: int, stop: int) -> None:
        start, end = first * _BLOCK, min(stop * _BLOCK, self._size)
        self.bytes_requested += end - start
        if self.bytes_requested > self._max_bytes:
            raise ReadLimitError(
                f"reading needs more than the allowed {self._max_bytes} bytes of this file"
            )
        error: NeuromirrorError | None = None
        for url in list(self._urls):
            try:
                data = self._get(url, start, end)
            except (NetError, RangeMismatchError) as failed:
                error = failed
                self._urls.remove(url)  # a later read would fail again
                continue
            for number in range(first, stop):
                begin = number * _BLOCK - start
                self._blocks[number] = data[begin : begin + _BLOCK]
            return
        raise error or RangeMismatchError("no URL of the object returns its bytes")

    def _get(self, url: str, start: int, end: int) -> bytes:
        def parse(reply: Response) -> bytes:
            if reply.status == 200 and len(reply.content) == self._size:
                return reply.content[start:end]  # ranges are optional
            stated = _CONTENT_RANGE.fullmatch(reply.headers.get("Content-Range", ""))
            expected = (str(start), str(end - 1), str(self._size))
            if (
                reply.status != 206
                or stated is None
                or stated.groups()[:2] != expected[:2]
                or stated[3] not in (expected[2], "*")
                or len(reply.content) != end - start
            ):
                raise RangeMismatchError(
                    f"bytes {start} to {end - 1} were requested, but the server returned "
                    f"{stated[0] if stated else f'HTTP {reply.status}'}"
                )
            return reply.content

        return self._session_for(url).get_bytes(
            url,
            limit=min(self._max_bytes, max(end - start, _BLOCK)),
            headers={"Range": f"bytes={start}-{end - 1}"},
            parse=parse,
        )


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
