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

_PACKED = 1 << 10
"""Bytes that are unpacked at a time: a block of 4 bytes stands for up to 128 KiB."""
_PIECE = 1 << 20
LONGEST_LINE = 1 << 26


class FrameRefused(NeuromirrorError, ValueError):
    """A frame that is damaged, cut off, or larger than it may be."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a frame may hold.

    ``longest`` counts the bytes of a line, ``total`` those of all lines. Beyond ``free`` bytes a
    frame must not be packed more tightly than ``ratio`` to one: lines of a manifest are about 10.
    """

    longest: int = LONGEST_LINE
    total: int = 1 << 62
    ratio: int = 1000
    free: int = 1 << 26


def unpacked(file: IO[bytes], limits: Limits | None = None) -> Iterator[bytes]:
    """Yield what a frame holds, in pieces of at most a megabyte; raises FrameRefused.

    The file must end with the frame.
    """
    limits = limits or Limits()
    frame = zstandard.ZstdDecompressor().decompressobj()
    packed = size = 0
    while block := file.read(_PACKED):
        if frame.eof:
            raise FrameRefused("it goes on after its end")
        try:
            content = frame.decompress(block)
        except zstandard.ZstdError as error:
            raise FrameRefused(str(error)) from None
        packed += len(block)
        size += len(content)
        if size > limits.total:
            raise FrameRefused(f"it holds more than {limits.total} bytes")
        if size > limits.free and size > packed * limits.ratio:
            raise FrameRefused(f"it grows to more than {limits.ratio} times its size")
        for start in range(0, len(content), _PIECE):
            yield content[start : start + _PIECE] if len(content) > _PIECE else content
    if not frame.eof:
        raise FrameRefused("it is cut off" if packed else "it is empty, or cut off")
    if frame.unused_data:
        raise FrameRefused("it goes on after its end")


def read_lines(file: IO[bytes], limits: Limits | None = None) -> Iterator[bytes]:
    """Yield the lines that a frame holds, without their newlines; raises FrameRefused."""
    limits = limits or Limits()
    return lines_of(unpacked(file, limits), limits.longest)


def lines_of(pieces: Iterable[bytes], longest: int = LONGEST_LINE) -> Iterator[bytes]:
    """Yield lines without their newlines; raises FrameRefused.

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
        if size > longest:
            raise FrameRefused(f"it has a line of more than {longest} bytes")
        if not newline:
            continue
        yield b"".join(rest)
        *lines, last = more.split(b"\n")
        yield from lines
        rest, size = [last], len(last)
    if size:
        raise FrameRefused("its last line is not whole")
