"""Contents as seekable files, whose pieces are verified before a caller sees them."""

from __future__ import annotations

import io
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from neuromirror.cache import PieceCache
from neuromirror.lab.lock_manifests import ListedFile
from neuromirror.stream.errors import StreamError
from neuromirror.stream.pieces import MAX_WHOLE, PieceCheck, StoredPieces, WholeCheck
from neuromirror.stream.readers import PieceReader, Transport, WholeReader

MEMORY: Final = 32 << 20
"""Maximum size in bytes of the pieces of one content that are kept in memory."""

_REQUEST: Final = 4 << 20
"""Size in bytes above which consecutive pieces are requested in parallel."""

ByteRange = tuple[int, int]
"""Offsets of the first byte, and after the last byte."""


class VerifiedObject:
    """The content of a file, read piece by piece. Thread-safe.

    The most recently used pieces are kept in memory. Consecutive pieces are requested together.

    Parameters
    ----------
    file
        The file, with its locations.
    check
        Verifies its pieces.
    transport
        Requests them.
    version
        The name of the version, for messages.
    cache
        The cache of this machine; None for none.
    local
        The path of a local copy, whose bytes are not trusted; None for none.
    memory
        Maximum size in bytes of the pieces that are kept in memory; at least one is.
    """

    def __init__(
        self,
        file: ListedFile,
        check: PieceCheck,
        transport: Transport,
        version: str,
        *,
        cache: PieceCache | None = None,
        local: Path | None = None,
        memory: int = MEMORY,
    ) -> None:
        self.file = file
        self.version = version
        self._stored = StoredPieces(file, check, cache, local)
        self._reader: PieceReader | WholeReader
        self._reader = PieceReader(file, check, transport, version, self._stored)
        if isinstance(check, WholeCheck) and check.size > MAX_WHOLE:
            self._reader = WholeReader(file, check, transport, self._reader, cache, local)
            check = self._reader.check
        self.check = check
        self._pool = transport.pool
        self._memory = memory
        self._lock = threading.Lock()
        self._pieces: OrderedDict[int, bytearray] = OrderedDict()
        self._held = 0
        self._pending: dict[int, Future[bytearray]] = {}

    def __repr__(self) -> str:
        return f"<VerifiedObject {self.version} {self.file.path}, {self._mode}>"

    @property
    def verified_by(self) -> str:
        """What the verification relies on, such as ``sha256``; empty without verification."""
        return self.check.basis if self.check.is_verified else ""

    @property
    def _mode(self) -> str:
        return f"verified by {self.verified_by}" if self.verified_by else "not verified"

    @property
    def size(self) -> int:
        """Size of the content in bytes."""
        return self.check.size

    def read_ranges(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        """Return the bytes of ranges, all of them verified.

        Parameters
        ----------
        ranges
            Offsets of the first byte, and after the last byte; beyond the end there are no bytes.

        Returns
        -------
        list[bytes]
            The bytes of each range.

        Raises
        ------
        WrongBytesError
            A location has other bytes than the version, and no location has the right ones.
        ContentGoneError
            No location has the content any more.
        LocationsFailedError
            No location returned the content.
        """
        cut = [(max(0, start), min(stop, self.size)) for start, stop in ranges]
        pieces = self._get({number for start, stop in cut for number in self._numbers(start, stop)})
        return [
            b"".join(self._slices(pieces, start, stop)) if start < stop else b""
            for start, stop in cut
        ]

    def read_into(self, offset: int, view: memoryview) -> int:
        """Fill a buffer with the verified bytes from an offset.

        Parameters
        ----------
        offset
            The offset of the first byte.
        view
            The buffer, of bytes.

        Returns
        -------
        int
            The number of bytes; fewer than the buffer has only at the end of the content.

        Raises
        ------
        StreamError
            As for :meth:`read_ranges`.
        """
        stop = min(offset + len(view), self.size)
        if offset >= stop:
            return 0
        pieces = self._get(self._numbers(offset, stop))
        at = 0
        for part in self._slices(pieces, offset, stop):
            view[at : at + len(part)] = part
            at += len(part)
        return at

    def prefetch(self, start: int, stop: int) -> None:
        """Start to request a range in the background; errors are raised when it is read.

        Parameters
        ----------
        start, stop
            Offsets of the first byte, and after the last byte.
        """
        numbers = self._numbers(max(0, start), min(stop, self.size))
        with self._lock:
            runs = self._claim(
                [one for one in numbers if one not in self._pieces and one not in self._pending]
            )
        for run in runs:
            self._start(run)

    def has(self, start: int, stop: int) -> bool:
        """Return whether a range is in memory or requested.

        Parameters
        ----------
        start, stop
            Offsets of the first byte, and after the last byte.

        Returns
        -------
        bool
            Whether a read of it sends no request.
        """
        with self._lock:
            return all(
                number in self._pieces or number in self._pending
                for number in self._numbers(start, min(stop, self.size))
            )

    def forget(self, stop: int) -> None:
        """Remove pieces from memory that end before an offset.

        Parameters
        ----------
        stop
            The offset in bytes.
        """
        before = stop // self.check.piece_size
        with self._lock:
            for number in [piece for piece in self._pieces if piece < before]:
                self._held -= len(self._pieces.pop(number))

    # --- pieces

    def _numbers(self, start: int, stop: int) -> range:
        if start >= stop:
            return range(0)
        return range(start // self.check.piece_size, -(-stop // self.check.piece_size))

    def _slices(self, pieces: dict[int, bytearray], start: int, stop: int) -> Iterator[memoryview]:
        for number in self._numbers(start, stop):
            first = number * self.check.piece_size
            yield memoryview(pieces[number])[max(0, start - first) : stop - first]

    def _get(self, numbers: Iterable[int]) -> dict[int, bytearray]:
        """Return pieces from memory, or request them."""
        found: dict[int, bytearray] = {}
        waits: dict[int, Future[bytearray]] = {}
        missing: list[int] = []
        with self._lock:
            for number in sorted(numbers):
                piece = self._pieces.get(number)
                if piece is not None:
                    self._pieces.move_to_end(number)
                    found[number] = piece
                elif number in self._pending:
                    waits[number] = self._pending[number]
                else:
                    missing.append(number)
            runs = self._claim(missing)
            waits.update({one: self._pending[one] for one in missing})
        # the calling thread requests the last run itself, so that a single one costs no hand-over
        for run in runs[:-1]:
            self._start(run)
        if runs:
            self._fetch(runs[-1])
        found.update({number: future.result() for number, future in waits.items()})
        return found

    def _claim(self, numbers: Sequence[int]) -> list[range]:
        """Mark pieces as requested, with the lock held; return the requests."""
        self._pending.update({one: Future() for one in numbers})
        most = max(1, _REQUEST // self.check.piece_size)
        runs: list[range] = []
        for number in numbers:
            if runs and runs[-1].stop == number and len(runs[-1]) < most:
                runs[-1] = range(runs[-1].start, number + 1)
            else:
                runs.append(range(number, number + 1))
        return runs

    def _start(self, run: range) -> None:
        try:
            self._pool.submit(self._fetch, run)
        except RuntimeError:  # the transport was closed
            self._fail(run, StreamError(f"{self.version}: {self.file.path}: the file was closed"))

    def _fetch(self, run: range) -> None:
        """Read consecutive pieces, and hand each over as soon as it is verified."""
        left = set(run)
        error: BaseException = StreamError(f"{self.version}: {self.file.path}: not read")
        try:
            for number, piece in self._reader.read(run):
                left.discard(number)
                self._keep(number, piece).set_result(piece)
        except BaseException as failure:
            error = failure
            if not isinstance(failure, Exception):
                raise
        finally:
            self._fail(left, error)

    def _fail(self, numbers: Iterable[int], error: BaseException) -> None:
        with self._lock:
            waits = [self._pending.pop(number) for number in numbers]
        for future in waits:
            future.set_exception(error)

    def _keep(self, number: int, piece: bytearray) -> Future[bytearray]:
        with self._lock:
            self._pieces[number] = piece
            self._held += len(piece)
            while self._held > self._memory and len(self._pieces) > 1:
                self._held -= len(self._pieces.popitem(last=False)[1])
            return self._pending.pop(number)


MAX_AHEAD: Final = 24 << 20
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
    most_ahead
        Maximum number of bytes that are requested before they are read.

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
        most_ahead: int = MAX_AHEAD,
    ) -> None:
        super().__init__()
        self._content = content
        self._most_ahead = most_ahead
        self._process = os.getpid()
        self._reopen = reopen
        self.failure: BaseException | None = None
        self._on_close = on_close
        self._position = 0
        self._next = 0
        self._ahead = 0
        self._requested = 0

    def __repr__(self) -> str:
        content = self.content
        return f"<neuromirror.VerifiedFile {content.version} {content.file.path}, {content._mode}>"

    @property
    def verified_by(self) -> str:
        """What the verification relies on, such as ``sha256`` or block digests and who claims them.

        Empty without verification.
        """
        return self.content.verified_by

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
        if self.closed or stop - self._position > MAX_AHEAD:
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
        self._ahead = min(max(2 * self._ahead, 2 * (stop - start), _MIN_AHEAD), self._most_ahead)
        self._requested = min(stop + self._ahead, self.size)
        if self._ahead == self._most_ahead:
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
