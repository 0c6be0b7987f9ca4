"""Lines of a zstd frame, whoever wrote it: in pieces, in one pass, and never more than promised.

A frame may grow to 32,000 times its size, and a line go on without end. So little is unpacked at a
time, the pieces of a line are joined once, and what grows beyond its limits is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO

import zstandard

from neuromirror.model import NeuromirrorError

_BLOCK_BYTES = 1 << 10
"""Bytes that are unpacked at a time: a block of 4 bytes stands for up to 128 KiB."""
_PIECE_BYTES = 1 << 20
LONGEST_LINE = 1 << 26


class ZstdFrameError(NeuromirrorError, ValueError):
    """A frame that is damaged, cut off, or larger than it may be."""


@dataclass(frozen=True, slots=True)
class FrameLimits:
    """How much a frame may hold.

    ``longest`` counts the bytes of a line, ``total`` those of all lines. Beyond ``free`` bytes a
    frame must not be packed more tightly than ``ratio`` to one: lines of a manifest are about 10.
    """

    max_line_bytes: int = LONGEST_LINE
    max_bytes: int = 1 << 62
    max_ratio: int = 1000
    ratio_free_bytes: int = 1 << 26


def decompress_frame(file: IO[bytes], limits: FrameLimits | None = None) -> Iterator[bytes]:
    """Yield what a frame holds, in pieces of at most a megabyte; raises ZstdFrameError.

    The file must end with the frame.
    """
    limits = limits or FrameLimits()
    frame = zstandard.ZstdDecompressor().decompressobj()
    packed = size = 0
    while block := file.read(_BLOCK_BYTES):
        if frame.eof:
            raise ZstdFrameError("it goes on after its end")
        try:
            content = frame.decompress(block)
        except zstandard.ZstdError as error:
            raise ZstdFrameError(str(error)) from None
        packed += len(block)
        size += len(content)
        if size > limits.max_bytes:
            raise ZstdFrameError(f"it holds more than {limits.max_bytes} bytes")
        if size > limits.ratio_free_bytes and size > packed * limits.max_ratio:
            raise ZstdFrameError(f"it grows to more than {limits.max_ratio} times its size")
        for start in range(0, len(content), _PIECE_BYTES):
            yield content[start : start + _PIECE_BYTES] if len(content) > _PIECE_BYTES else content
    if not frame.eof:
        raise ZstdFrameError("it is cut off" if packed else "it is empty, or cut off")
    if frame.unused_data:
        raise ZstdFrameError("it goes on after its end")


def read_lines(file: IO[bytes], limits: FrameLimits | None = None) -> Iterator[bytes]:
    """Yield the lines that a frame holds, without their newlines; raises ZstdFrameError."""
    limits = limits or FrameLimits()
    return split_lines(decompress_frame(file, limits), limits.max_line_bytes)


def split_lines(pieces: Iterable[bytes], max_line_bytes: int = LONGEST_LINE) -> Iterator[bytes]:
    """Yield lines without their newlines; raises ZstdFrameError.

    Parameters
    ----------
    pieces
        The content, cut anywhere.
    longest
        The most bytes of a line; at least as many as a piece has.
    """
    rest: list[bytes] = []
    size = 0
    for piece in pieces:
        first, newline, more = piece.partition(b"\n")
        rest.append(first)
        size += len(first)
        if size > max_line_bytes:
            raise ZstdFrameError(f"it has a line of more than {max_line_bytes} bytes")
        if not newline:
            continue
        yield b"".join(rest)
        *lines, last = more.split(b"\n")
        yield from lines
        rest, size = [last], len(last)
    if size:
        raise ZstdFrameError("its last line is not whole")
