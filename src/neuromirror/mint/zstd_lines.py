"""Read lines from an untrusted zstd frame, within limits on memory and size.

A frame may expand to 32,000 times its size, and a line may have any length. So a frame is
decompressed in small blocks, the pieces of a line are joined once, and a frame that exceeds its
limits is rejected.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import IO

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


def decompress_frame(file: IO[bytes], limits: FrameLimits | None = None) -> Iterator[bytes]:
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
