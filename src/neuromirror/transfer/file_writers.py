"""Write a file that grows: through the page cache, or directly to the disk.

A large file that is not read again soon is written faster without the page cache, which otherwise
costs a copy in memory, and a flush at the end.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from contextlib import suppress
from typing import Final

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
