"""Lines in compressed files that can be read from any line on.

Read lines from an untrusted zstd frame, within limits on memory and size.

A frame may expand to 32,000 times its size, and a line may have any length. So a frame is
decompressed in small blocks, the pieces of a line are joined once, and a frame that exceeds its
limits is rejected.

Sorted lines in a zstd file of which any part can be read without what precedes it.

A file of more than one frame ends with a seek table in Zstandard's seekable format (a skippable
frame, which other programs skip); a frame contains whole lines. Shorter files are one frame
without a table, as :func:`~neuromirror.mint.read_lines` reads them. Binary search over the first
lines of the frames finds a path, so that a file of millions of lines costs a few frames.
"""

from __future__ import annotations

import os
import struct
import tempfile
import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from io import FileIO
from itertools import accumulate, islice
from pathlib import Path
from typing import IO, Final, Protocol, cast

import zstandard
from msgspec import Struct

from neuromirror.model import NeuromirrorError

_BLOCK_BYTES = 1 << 10
"""Compressed bytes per read: 4 of them may expand to 128 KiB."""
_PIECE_BYTES = 1 << 20
LONGEST_LINE = 1 << 26


class ZstdFrameError(NeuromirrorError, ValueError):
    """A frame is damaged, truncated, or larger than its limits."""


class FrameLimits(Struct, frozen=True):
    """Limits of a frame's decompressed content.

    Attributes
    ----------
    max_line_bytes
        Bytes of a line.
    max_bytes
        Bytes of all lines.
    max_ratio
        Compression ratio, which is checked beyond ``ratio_free_bytes``; manifests reach about 10.
    ratio_free_bytes
        Bytes that may have any compression ratio.
    """

    max_line_bytes: int = LONGEST_LINE
    max_bytes: int = 1 << 62
    max_ratio: int = 1000
    ratio_free_bytes: int = 1 << 26


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def decompress_frame(file: _Readable, limits: FrameLimits | None = None) -> Iterator[bytes]:
    """Yield the content of a zstd frame in pieces of at most 1 MiB.

    Parameters
    ----------
    file
        A file that ends with the frame, opened for reading bytes.
    limits
        Limits of the decompressed content; None for no limits.

    Yields
    ------
    bytes
        A piece of the content.

    Raises
    ------
    ZstdFrameError
        The frame is truncated or damaged, or exceeds a limit.
    """
    limits = limits or FrameLimits()
    frame = zstandard.ZstdDecompressor().decompressobj()
    packed = size = 0
    while block := file.read(_BLOCK_BYTES):
        if frame.eof:
            raise ZstdFrameError("there are bytes after the end of the frame")
        try:
            content = frame.decompress(block)
        except zstandard.ZstdError as error:
            raise ZstdFrameError(str(error)) from None
        packed += len(block)
        size += len(content)
        if size > limits.max_bytes:
            raise ZstdFrameError(f"more than {limits.max_bytes} bytes")
        if size > limits.ratio_free_bytes and size > packed * limits.max_ratio:
            raise ZstdFrameError(f"a compression ratio of more than {limits.max_ratio}")
        for start in range(0, len(content), _PIECE_BYTES):
            yield content[start : start + _PIECE_BYTES] if len(content) > _PIECE_BYTES else content
    if not frame.eof:
        raise ZstdFrameError("truncated" if packed else "empty")
    if frame.unused_data:
        raise ZstdFrameError("there are bytes after the end of the frame")


def read_lines(file: IO[bytes], limits: FrameLimits | None = None) -> Iterator[bytes]:
    """Yield the lines of a zstd frame without their newlines.

    Parameters
    ----------
    file
        A file with one frame, opened for reading bytes.
    limits
        Limits of the decompressed content; None for no limits.

    Returns
    -------
    Iterator[bytes]
        A line.

    Raises
    ------
    ZstdFrameError
        The frame is truncated or damaged, or exceeds a limit.
    """
    limits = limits or FrameLimits()
    return split_lines(decompress_frame(file, limits), limits.max_line_bytes)


def split_lines(pieces: Iterable[bytes], max_line_bytes: int = LONGEST_LINE) -> Iterator[bytes]:
    """Yield the lines of a text that comes in pieces, without newlines; see :func:`join_lines`."""
    for block in join_lines(pieces, max_line_bytes):
        lines = block.split(b"\n")
        lines.pop()
        yield from lines


def join_lines(pieces: Iterable[bytes], max_line_bytes: int = LONGEST_LINE) -> Iterator[bytes]:
    """Yield a text that comes in pieces as blocks of whole lines, with newlines.

    Parameters
    ----------
    pieces
        The content, split anywhere.
    max_line_bytes
        Maximum number of bytes per line; at least the size of a piece.

    Yields
    ------
    bytes
        One line, or as many lines as a piece has.

    Raises
    ------
    ZstdFrameError
        A line is too long, or the last one has no newline.
    """
    rest: list[bytes] = []
    size = 0
    for piece in pieces:
        first = piece.find(b"\n") + 1
        rest.append(piece[:first] if first else piece)
        size += len(rest[-1])
        if size > max_line_bytes + bool(first):
            raise ZstdFrameError(f"a line of more than {max_line_bytes} bytes")
        if not first:
            continue
        yield b"".join(rest)
        last = piece.rfind(b"\n") + 1
        if last > first:
            yield piece[first:last]
        rest, size = [piece[last:]], len(piece) - last
    if size:
        raise ZstdFrameError("the last line has no newline")


_FRAME_BYTES: Final = 1 << 18
_SKIPPABLE: Final = 0x184D2A5E
_SEEKABLE: Final = 0x8F92EAB1
_SKIPPED_LINES: Final = 1000
"""Lines of a subfolder that are read before the rest of them is skipped."""
_HEAD = struct.Struct("<II")
_ENTRY = struct.Struct("<II")
_FOOT = struct.Struct("<IBI")
_FRAME_HEADER: Final = 18
_CACHED_FRAMES: Final = 64
_CACHED_BYTES: Final = 32 << 20
"""Maximum size of the cached frames without that of the last one: a frame may be one long line."""


def write_seekable_lines(file: IO[bytes], lines: Iterable[bytes]) -> None:
    """Write lines as zstd frames, with a seek table if there is more than one frame.

    Parameters
    ----------
    file
        A new file, opened for writing bytes.
    lines
        The lines without newlines. An item may also be several lines, separated by newlines.
    """
    compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
    sizes: list[tuple[int, int]] = []
    block = bytearray()

    def write_frame() -> None:
        frame = compressor.compress(bytes(block))
        file.write(frame)
        sizes.append((len(frame), len(block)))
        block.clear()

    for line in lines:
        if len(block) + len(line) >= _FRAME_BYTES and block:
            write_frame()
        block += line
        block += b"\n"
    if block or not sizes:
        write_frame()
    if len(sizes) > 1:
        table = b"".join(_ENTRY.pack(*size) for size in sizes)
        table += _FOOT.pack(len(sizes), 0, _SEEKABLE)
        file.write(_HEAD.pack(_SKIPPABLE, len(table)) + table)


def read_seekable_lines(file: IO[bytes]) -> Iterator[bytes]:
    """Yield all lines of a file of :func:`write_seekable_lines`, without newlines.

    Parameters
    ----------
    file
        The file, opened for reading bytes.

    Yields
    ------
    bytes
        A line.

    Raises
    ------
    ZstdFrameError
        The file is truncated or damaged.
    """
    frames = _read_table(file)
    file.seek(0)
    if not frames:
        yield from split_lines(decompress_frame(file))
        return
    for _, packed, size in frames:
        yield from _decompress_lines(file.read(packed), size)


class SortedLines:
    """The lines of a file, sorted by a key. Thread-safe, and a context manager.

    A file of one frame without a size in its header, which an earlier release wrote, is read once
    and copied to an unnamed temporary file.

    Parameters
    ----------
    path
        The file, written by :func:`write_seekable_lines`; or an open file, which is closed.
    key
        Returns the key of a line, by which the lines are sorted.

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    ZstdFrameError
        The file is damaged.
    """

    def __init__(self, path: Path | IO[bytes], key: Callable[[bytes], bytes]) -> None:
        self._key = key
        self._lock = threading.Lock()
        self._first_keys: dict[int, bytes] = {}
        self._frames: OrderedDict[int, list[bytes]] = OrderedDict()
        file: IO[bytes] = path.open("rb") if isinstance(path, Path) else path
        try:
            self._table = _read_table(file) or _single_frame(file)
            if not self._table:
                file = _copy_seekable(file)
                self._table = _read_table(file) or _single_frame(file)
            # without a buffer, whose position in the file would be shared with forked processes
            self._file = FileIO(os.dup(file.fileno()))
        finally:
            file.close()

    def __enter__(self) -> SortedLines:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def lines_from(self, start: bytes) -> Iterator[bytes]:
        """Yield the lines whose keys are not less than ``start``.

        Parameters
        ----------
        start
            The first key.

        Yields
        ------
        bytes
            A line without its newline.

        Raises
        ------
        ZstdFrameError
            A frame is damaged.
        """
        if not self._table:
            return
        # lines with the key may start in the frame before the first frame that begins with it
        number = max(0, bisect_left(range(len(self._table)), start, key=self._first_key) - 1)
        lines = self._frame(number)
        yield from islice(lines, bisect_left(lines, start, key=self._key), None)
        for later in range(number + 1, len(self._table)):
            yield from self._frame(later)

    def _first_key(self, number: int) -> bytes:
        with self._lock:
            if (found := self._first_keys.get(number)) is not None:
                return found
        found = self._key(self._frame(number)[0])
        with self._lock:
            self._first_keys[number] = found
        return found

    def _frame(self, number: int) -> list[bytes]:
        with self._lock:
            if (kept := self._frames.get(number)) is not None:
                self._frames.move_to_end(number)
                return kept
        offset, packed, size = self._table[number]
        lines = _decompress_lines(os.pread(self._file.fileno(), packed, offset), size)
        with self._lock:
            self._frames[number] = lines
            held = sum(self._table[frame][2] for frame in self._frames)
            while len(self._frames) > _CACHED_FRAMES or (
                held > _CACHED_BYTES and len(self._frames) > 1
            ):
                held -= self._table[self._frames.popitem(last=False)[0]][2]
        return lines


def _decompress_lines(frame: bytes, size: int) -> list[bytes]:
    """Return the lines of one frame, of which there is at least one."""
    try:
        # the size in the header decides how much memory is used
        if zstandard.get_frame_parameters(frame).content_size != size:
            raise ZstdFrameError("a frame has another size than the seek table states")
        content = zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ZstdFrameError(str(error)) from None
    if not content.endswith(b"\n"):
        raise ZstdFrameError("the last line of a frame has no newline")
    lines: list[bytes] = content.split(b"\n")
    lines.pop()
    return lines


def _single_frame(file: IO[bytes]) -> list[tuple[int, int, int]]:
    """Return the table of a file of one small frame whose header has its size, else nothing."""
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    try:
        size = zstandard.get_frame_parameters(file.read(_FRAME_HEADER)).content_size
    except zstandard.ZstdError as error:
        raise ZstdFrameError(str(error)) from None
    return [(0, end, size)] if 0 < size <= LONGEST_LINE + 1 else []


def _copy_seekable(file: IO[bytes]) -> IO[bytes]:
    """Return a seekable copy of a file, which is closed."""
    with file, ExitStack() as stack:
        made = stack.enter_context(tempfile.TemporaryFile(prefix="neuromirror-"))
        copy = cast(IO[bytes], made)
        file.seek(0)
        write_seekable_lines(copy, split_lines(decompress_frame(file)))
        copy.flush()
        stack.pop_all()
    return copy


def _read_table(file: IO[bytes]) -> list[tuple[int, int, int]]:
    """Return offset, compressed and decompressed size of each frame; empty without a table."""
    end = file.seek(0, os.SEEK_END)
    if end < _HEAD.size + _FOOT.size:
        return []
    file.seek(end - _FOOT.size)
    count, descriptor, magic = _FOOT.unpack(file.read(_FOOT.size))
    if magic != _SEEKABLE:
        return []
    size = count * _ENTRY.size + _FOOT.size
    start = end - size - _HEAD.size
    if descriptor or start < 0:
        raise ZstdFrameError("the seek table is invalid")
    file.seek(start)
    if file.read(_HEAD.size) != _HEAD.pack(_SKIPPABLE, size):
        raise ZstdFrameError("the seek table is invalid")
    entries = [*_ENTRY.iter_unpack(file.read(size - _FOOT.size))]
    offsets = [*accumulate((packed for packed, _ in entries), initial=0)]
    largest = max((content for _, content in entries), default=0)
    if offsets.pop() != start or not 0 < largest <= LONGEST_LINE + 1:
        raise ZstdFrameError("the seek table does not match the frames")
    return [(at, *one) for at, one in zip(offsets, entries, strict=True)]


def names_in_folder(
    lines_from: Callable[[bytes], Iterator[bytes]], key: Callable[[bytes], bytes], start: bytes
) -> Iterator[tuple[bytes, bytes | None]]:
    """Yield the names in a folder in the order of paths, each with its line.

    A subfolder has no line and is not read to its end.

    Parameters
    ----------
    lines_from
        Returns the lines from a path on, such as :meth:`SortedLines.lines_from`.
    key
        Returns the path of a line.
    start
        The path of the folder with a slash at its end; empty for the root.

    Yields
    ------
    tuple of bytes and bytes or None
        A name, and the line of the file; None for a subfolder.
    """
    lines = lines_from(start)
    inner, skipped = b"", 0
    while (line := next(lines, None)) is not None:
        path = key(line)
        if inner and path.startswith(inner):
            skipped += 1
            if skipped == _SKIPPED_LINES:
                # "0" follows "/"
                lines = lines_from(inner[:-1] + b"0")
            continue
        if not path.startswith(start):
            return
        name, slash, _ = path[len(start) :].partition(b"/")
        inner, skipped = (start + name + slash, 0) if slash else (b"", 0)
        yield name, None if slash else line
