"""Open a file of a pinned state as a seekable file, whose bytes are verified."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from neuromirror.stream.errors import StreamError
from neuromirror.stream.verified_object import VerifiedObject

_MAX_AHEAD: Final = 24 << 20
"""Maximum number of bytes that are requested before they are read."""
_MIN_AHEAD: Final = 1 << 20
_PEEK: Final = 1 << 16
NOT_REOPENED: Final = (
    "it was opened with an open version; open it with the address of the version instead"
)


class VerifiedFile(io.RawIOBase):
    """A read-only, seekable file over the network; each byte is verified before it is returned.

    A read returns all bytes that were requested, except at the end of the file. While reads are
    sequential, increasingly many bytes are requested ahead. A copy by :mod:`pickle`, and a file
    that is used in a forked process, opens its version again.

    Parameters
    ----------
    content
        The content.
    on_close
        Objects to close with the file.
    reopen
        Opens the file again; None if that is not possible.

    Attributes
    ----------
    failure
        The error of the last read that failed; None before. Libraries such as HDF5 may replace it
        by an error of their own.
    """

    def __init__(
        self,
        content: VerifiedObject,
        on_close: tuple[Any, ...] = (),
        reopen: Callable[[], Any] | None = None,
    ) -> None:
        super().__init__()
        self._content = content
        self._process = os.getpid()
        self._reopen = reopen
        self.failure: BaseException | None = None
        self._on_close = on_close
        self._position = 0
        self._next = 0
        self._ahead = 0
        self._requested = 0

    def __repr__(self) -> str:
        mode = "" if self.content.check.is_verified else ", not verified"
        return f"<neuromirror.VerifiedFile {self.content.version} {self.content.file.path}{mode}>"

    def __reduce__(self) -> tuple[Any, ...]:
        if self._reopen is None:
            raise TypeError(f"{self!r} cannot be pickled: {NOT_REOPENED}")
        return _reopened, (self._reopen, self._position, self._content.file.key)

    @property
    def content(self) -> VerifiedObject:
        """The content."""
        if self._process != os.getpid():
            # connections and threads belong to the process that was forked
            if self._reopen is None:
                where = f"{self._content.version}: {self._content.file.path}"
                raise StreamError(f"{where}: it was opened in another process; {NOT_REOPENED}")
            other = _same_content(self._reopen(), self._content.file.key)
            self._content, self._on_close, self._process = (
                other._content,
                other._on_close,
                os.getpid(),
            )
            other._on_close = ()
            self._ahead = self._requested = 0
        return self._content

    @property
    def name(self) -> str:
        """The path of the file in its version."""
        return self.content.file.path

    @property
    def size(self) -> int:
        """Size of the file in bytes."""
        return self.content.size

    @property
    def mode(self) -> str:
        """``rb``."""
        return "rb"

    def __len__(self) -> int:
        return self.size

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
        """Set the position.

        Parameters
        ----------
        offset
            The offset in bytes.
        whence
            The reference point: ``io.SEEK_SET``, ``io.SEEK_CUR`` or ``io.SEEK_END``.

        Returns
        -------
        int
            The position in bytes.

        Raises
        ------
        ValueError
            The position is negative.
        """
        origins = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}
        position = origins[whence] + offset
        if position < 0:
            raise ValueError(f"negative position {position}")
        self._position = position
        return position

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from the position.

        Parameters
        ----------
        buffer
            A writable buffer.

        Returns
        -------
        int
            The number of bytes, 0 at the end.

        Raises
        ------
        StreamError
            The bytes cannot be read or verified.
        """
        if self.closed:
            raise ValueError("I/O operation on closed file")
        view = memoryview(buffer).cast("B")
        self._read_ahead(self._position, min(self._position + len(view), self.size))
        with self._recorded_failure():
            count = self.content.read_into(self._position, view)
        self._position += count
        self._next = self._position
        return count

    def read(self, size: int | None = -1, /) -> bytes:
        """Return bytes from the position.

        Parameters
        ----------
        size
            The number of bytes; negative or None for all bytes to the end.

        Returns
        -------
        bytes
            The bytes; fewer than ``size`` only at the end.

        Raises
        ------
        StreamError
            The bytes cannot be read or verified.
        """
        count = self.size if size is None or size < 0 else size
        stop = min(self._position + count, self.size)
        if self.closed or stop - self._position > _MAX_AHEAD:
            data = bytearray(max(0, stop - self._position))
            self.readinto(data)
            return bytes(data)
        # without the buffer of readinto, which would have to be copied
        self._read_ahead(self._position, stop)
        with self._recorded_failure():
            found = self.content.read_ranges([(self._position, stop)])[0]
        self._position += len(found)
        self._next = self._position
        return found

    @contextmanager
    def _recorded_failure(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # any: a library such as HDF5 would replace it
            self.failure = error
            raise

    def readall(self) -> bytes:
        """Return all bytes from the position to the end.

        Returns
        -------
        bytes
            The bytes.
        """
        return self.read()

    def peek(self, size: int = 0) -> bytes:
        """Return bytes from the position without moving it; used by ``readline``."""
        return self.content.read_ranges([(self._position, self._position + _PEEK)])[0]

    def close(self) -> None:
        """Close the file; requests in progress are cancelled."""
        if not self.closed:
            super().close()
            for one in self._on_close if self._process == os.getpid() else ():
                one.close()

    def _read_ahead(self, start: int, stop: int) -> None:
        """Request bytes after those of a read if it continues the one before."""
        if start != self._next or not start:
            self._ahead = self._requested = 0
            return
        if not self._ahead and self.content.has(start, stop):
            return  # small reads of a piece that is there do not show what follows
        if stop + self._ahead // 2 < self._requested:
            return  # half of what was requested is still unread
        self._ahead = min(max(2 * self._ahead, 2 * (stop - start), _MIN_AHEAD), _MAX_AHEAD)
        self._requested = min(stop + self._ahead, self.size)
        if self._ahead == _MAX_AHEAD:
            # pieces that were read would displace those that were requested ahead
            self.content.forget(start)
        self.content.prefetch(start, self._requested)


def _reopened(reopen: Callable[[], Any], position: int, key: str) -> VerifiedFile:
    file = _same_content(reopen(), key)
    file.seek(position)
    return file


def _same_content(file: Any, key: str) -> VerifiedFile:
    """Return a file that another process opened; StreamError if the address has changed."""
    if isinstance(file, VerifiedFile) and file.content.file.key == key:
        return file
    name = file.name if isinstance(file, VerifiedFile) else "the file"
    file.close()
    raise StreamError(
        f"{name} has other content than in the process that opened it, because its address names "
        "another version now; open it with the label of a version"
    )
