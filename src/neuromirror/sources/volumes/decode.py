"""Streaming conversion of a cutout's body to the bytes of a chunk file.

Every step is a generator, so that no block is held in memory as a whole. (Exceptions: a blosc
frame, and voxels in Fortran order, where the first row depends on the last bytes.) Nothing is
evaluated or unpickled.
"""

from __future__ import annotations

import math
import zlib
from array import array
from collections.abc import Iterable, Iterator
from typing import Final

from neuromirror.sources.volumes.decode_blosc import blosc_voxels
from neuromirror.sources.volumes.errors import WrongVoxelsError
from neuromirror.sources.volumes.npy import MAX_HEADER_BYTES, NpyHeader, read_header
from neuromirror.sources.volumes.urls import ITEM_SIZES, Box, Triple

_PIECE: Final = 1 << 20
_ZEROS: Final = bytes(_PIECE)
Piece = bytes | memoryview
"""A part of the bytes of a chunk file."""

_UNSIGNED: Final = ("uint8", "uint16", "uint32", "uint64")
_TYPECODES: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}


def decode_cutout(
    body: Iterable[bytes],
    encoding: str,
    box: Box,
    chunk: Triple,
    dtype: str | None = None,
    *,
    where: str = "the service",
) -> Iterator[Piece]:
    """Yield the bytes of a chunk file from the body of a reply.

    Parameters
    ----------
    body
        The body, in pieces. Its array may have axes of length one before z.
    encoding
        ``blosc`` (one frame of little-endian voxels), ``npygz`` or ``npz`` (both a zlib stream of a
        ``.npy`` file).
    box
        The requested ranges along x, y, z.
    chunk
        The file's shape along x, y, z; beyond the box it is filled with zeros.
    dtype
        Numpy's name of the expected type; None for the unsigned integer type that the body states.
    where
        The origin of the body, for messages.

    Yields
    ------
    bytes or memoryview
        Voxels in C order (z, y, x), little-endian.

    Raises
    ------
    WrongVoxelsError
        If shape, type or length differ from the expected ones.
    ValueError
        For an unknown encoding.
    """
    shape = tuple(stop - start for start, stop in reversed(box))
    if encoding == "blosc":
        voxels, found = blosc_voxels(body, math.prod(shape), dtype, where)
        yield from _chunk_file([voxels], shape, chunk, found, where)
    elif encoding in ("npygz", "npz"):
        most = MAX_HEADER_BYTES + math.prod(shape) * (8 if dtype is None else ITEM_SIZES[dtype])
        pieces = _decompress(body, most, where)
        head, start = read_header(pieces, where)
        found = _check_dtype(head.dtype, dtype, where)
        _check_shape(head.shape, shape, where)
        ordered = _reorder(_prepend(start, pieces), head, shape, where)
        yield from _chunk_file(ordered, shape, chunk, found, where)
    else:
        raise ValueError(f"{encoding!r} is not a supported encoding")


def _chunk_file(
    pieces: Iterable[Piece], shape: tuple[int, ...], chunk: Triple, dtype: str, where: str
) -> Iterator[Piece]:
    item = ITEM_SIZES[dtype]
    return _pad(_check_length(pieces, math.prod(shape) * item, where), shape, chunk, item)


def _check_dtype(found: str, expected: str | None, where: str) -> str:
    """Return the type of the voxels; raise WrongVoxelsError if it is not the expected one.

    If ``expected`` is None, any unsigned integer type is accepted. ``where`` is the origin of the
    voxels, for the message.
    """
    if found != expected if expected is not None else found not in _UNSIGNED:
        raise WrongVoxelsError(
            f"{where} returned voxels of type {found}, not {expected or 'an unsigned integer'}"
        )
    return found


def _check_shape(found: tuple[int, ...], shape: tuple[int, ...], where: str) -> None:
    """Raise WrongVoxelsError unless an array has the expected shape (z, y, x).

    Parameters
    ----------
    found
        The shape of the array; it may have axes of length one before z.
    shape
        The expected shape.
    where
        The origin of the array, for the message.
    """
    if found[-3:] != shape or any(size != 1 for size in found[:-3]):
        raise WrongVoxelsError(f"{where} returned an array of shape {found}, not {shape} (z, y, x)")


def _prepend(start: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    if start:
        yield start
    yield from pieces


def _decompress(body: Iterable[bytes], most: int, where: str) -> Iterator[bytes]:
    """Decompress a zlib or gzip stream with about ``most`` bytes of content.

    The caller checks the exact size. The compressed size is limited here, because a stream may be
    endless without having content.
    """
    inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    longest = most + most // 64 + _PIECE
    taken = 0
    for packed in body:
        taken += len(packed)
        if taken > longest:
            raise WrongVoxelsError(
                f"{where} returned more bytes than any compression of its voxels"
            )
        rest = packed
        while rest and not inflate.eof:
            try:
                piece = inflate.decompress(rest, _PIECE)
            except zlib.error as error:
                raise WrongVoxelsError(
                    f"{where} returned a body that is damaged or not a zlib stream; try again",
                    transient=True,
                ) from error
            rest = inflate.unconsumed_tail
            if piece:
                yield piece
        if inflate.unused_data or (rest and inflate.eof):
            raise WrongVoxelsError(f"{where} returned more data after its voxels")
    while not inflate.eof:
        # output that did not fit into the last piece
        piece = inflate.decompress(b"", _PIECE)
        if not piece:
            raise WrongVoxelsError(f"{where} returned a truncated body; try again", transient=True)
        yield piece


def _check_length(pieces: Iterable[Piece], size: int, where: str) -> Iterator[Piece]:
    seen = 0
    for piece in pieces:
        seen += len(piece)
        if seen > size:
            raise WrongVoxelsError(f"{where} returned more than the {size} bytes of its voxels")
        yield piece
    if seen < size:
        raise WrongVoxelsError(
            f"{where} returned {seen} of the {size} bytes of its voxels; try again", transient=True
        )


def _reorder(
    pieces: Iterator[bytes], head: NpyHeader, shape: tuple[int, ...], where: str
) -> Iterator[bytes]:
    """Convert voxels to little-endian and C order."""
    item = ITEM_SIZES[head.dtype]
    if head.big_endian and item > 1:
        pieces = _swap_bytes(pieces, item)
    if head.fortran and sum(size > 1 for size in shape) > 1:
        pieces = _transpose(_check_length(pieces, math.prod(shape) * item, where), shape, item)
    return pieces


def _swap_bytes(pieces: Iterator[bytes], item: int) -> Iterator[bytes]:
    left = b""
    for piece in pieces:
        joined = left + piece
        whole = len(joined) - len(joined) % item
        left = joined[whole:]
        items = array(_TYPECODES[item], joined[:whole])
        items.byteswap()
        yield items.tobytes()
    if left:
        yield left


def _transpose(pieces: Iterator[Piece], shape: tuple[int, ...], item: int) -> Iterator[bytes]:
    """Convert from Fortran order, where z varies fastest; needs the whole block in memory."""
    items = array(_TYPECODES[item])
    block = bytearray()
    for piece in pieces:
        block += piece
    items.frombytes(block)
    del block
    deep, high, _ = shape
    step = deep * high
    for z in range(deep):
        yield b"".join(items[z + deep * y :: step].tobytes() for y in range(high))


def _pad(
    pieces: Iterator[Piece], shape: tuple[int, ...], chunk: Triple, item: int
) -> Iterator[Piece]:
    """Append zeros at the end of each axis, up to the chunk's shape."""
    deep, high, wide = shape
    row, plane = chunk[0] * item, chunk[0] * chunk[1] * item
    if wide < chunk[0]:
        widen = _widen_rows if row <= _PIECE else _space_runs
        pieces = widen(pieces, wide * item, row)
    if high < chunk[1]:
        pieces = _space_runs(pieces, high * row, plane)
    yield from pieces
    yield from _zeros((chunk[2] - deep) * plane)


def _zeros(count: int) -> Iterator[bytes]:
    for _ in range(count // _PIECE):
        yield _ZEROS
    if count % _PIECE:
        yield _ZEROS[: count % _PIECE]


def _widen_rows(pieces: Iterator[Piece], row: int, wider: int) -> Iterator[Piece]:
    """Append zeros to rows of ``row`` bytes, up to ``wider`` bytes each."""
    left = b""
    most = _PIECE // wider
    for piece in pieces:
        joined = memoryview(left + piece if left else piece)
        rows = len(joined) // row
        for first in range(0, rows, most):
            count = min(most, rows - first)
            made = bytearray(count * wider)
            view = memoryview(made)
            at = first * row
            for start in range(0, count * wider, wider):
                view[start : start + row] = joined[at : at + row]
                at += row
            yield bytes(made)
        left = bytes(joined[rows * row :])


def _space_runs(pieces: Iterator[Piece], run: int, pitch: int) -> Iterator[Piece]:
    """Append zeros to runs of ``run`` bytes, up to ``pitch`` bytes each."""
    gap = pitch - run
    due = run
    made: list[bytes | memoryview] = []
    size = 0
    for piece in pieces:
        view = memoryview(piece)
        while view:
            taken = view[:due]
            view = view[len(taken) :]
            due -= len(taken)
            made.append(taken)
            size += len(taken)
            if not due:
                due = run
                for zeros in _zeros(gap):
                    made.append(zeros)
                    size += len(zeros)
                    if size >= _PIECE:
                        yield b"".join(made)
                        made, size = [], 0
            if size >= _PIECE:
                yield b"".join(made)
                made, size = [], 0
    if made:
        yield b"".join(made)
