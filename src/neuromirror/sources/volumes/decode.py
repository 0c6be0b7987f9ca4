"""From the body of a cut-out to the bytes of a chunk file, a piece at a time.

Everything on the way is a generator that takes pieces and gives pieces, so that no block is ever
held whole. (Exceptions: a blosc frame, and voxels in Fortran's order, whose first row takes some of
the last bytes.) Nothing here evaluates or unpickles what came.
"""

from __future__ import annotations

import math
import zlib
from array import array
from collections.abc import Iterable, Iterator
from typing import Final

from neuromirror.sources.volumes.decode_blosc import blosc_voxels
from neuromirror.sources.volumes.decode_hdf5 import hdf5_voxels
from neuromirror.sources.volumes.errors import WrongVoxelsError
from neuromirror.sources.volumes.npy import MAX_HEADER_BYTES, NpyHeader, read_header
from neuromirror.sources.volumes.urls import ITEM_SIZES, Box, Triple
from neuromirror.sources.volumes.voxel_checks import check_dtype, check_shape

ENCODINGS: Final = ("blosc", "npygz", "npz", "npy", "raw", "hdf5")

_PIECE: Final = 1 << 20
_ZEROS: Final = bytes(_PIECE)
Piece = bytes | memoryview
"""Some of the bytes of a chunk file."""

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
    """Yields the bytes of a chunk file from the body of a reply, as they come.

    The file holds the voxels of ``box`` in C order (z, y, x), little-endian, with zeros beyond
    them up to ``chunk`` (x, y, z). ``encoding`` is ``blosc`` (a frame of the voxels alone,
    little-endian), ``npygz`` or ``npz`` (both a zlib stream of a ``.npy``), ``npy``, ``raw`` (the
    voxels alone, little-endian) or ``hdf5`` (ndstore's ``CUTOUT``). With no ``dtype`` any unsigned
    integer is taken that the body says. The body may have axes before z, of one entry each.

    Raises :class:`WrongVoxelsError`, naming ``where``, for another shape or type and for a body
    that is
    too short or too long; ValueError for an encoding that is none of these.
    """
    shape = tuple(stop - start for start, stop in reversed(box))
    if encoding == "hdf5":
        with hdf5_voxels(body, shape, dtype, where) as (found, pieces):
            yield from _chunk_file(pieces, shape, chunk, found, where)
    elif encoding == "blosc":
        voxels, found = blosc_voxels(body, math.prod(shape), dtype, where)
        yield from _chunk_file([voxels], shape, chunk, found, where)
    elif encoding == "raw":
        if dtype is None:
            raise ValueError("raw voxels do not say of what type they are")
        yield from _chunk_file(body, shape, chunk, dtype, where)
    elif encoding in ENCODINGS:
        most = MAX_HEADER_BYTES + math.prod(shape) * (8 if dtype is None else ITEM_SIZES[dtype])
        pieces = iter(body) if encoding == "npy" else _decompress(body, most, where)
        head, start = read_header(pieces, where)
        found = check_dtype(head.dtype, dtype, where)
        check_shape(head.shape, shape, where)
        ordered = _reorder(_prepend(start, pieces), head, shape, where)
        yield from _chunk_file(ordered, shape, chunk, found, where)
    else:
        raise ValueError(f"{encoding!r} is no encoding that is decoded here")


def _chunk_file(
    pieces: Iterable[Piece], shape: tuple[int, ...], chunk: Triple, dtype: str, where: str
) -> Iterator[Piece]:
    item = ITEM_SIZES[dtype]
    return _pad(_check_length(pieces, math.prod(shape) * item, where), shape, chunk, item)


def _prepend(start: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    if start:
        yield start
    yield from pieces


def _decompress(body: Iterable[bytes], most: int, where: str) -> Iterator[bytes]:
    """The content of a zlib (or gzip) stream that holds at most ``most`` bytes.

    More is for the reader to find; here only the way to it is bounded, since a stream can go on
    for ever without giving anything.
    """
    inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    longest = most + most // 64 + _PIECE
    taken = 0
    for packed in body:
        taken += len(packed)
        if taken > longest:
            raise WrongVoxelsError(f"{where} gave more bytes than any packing of its voxels takes")
        rest = packed
        while rest and not inflate.eof:
            try:
                piece = inflate.decompress(rest, _PIECE)
            except zlib.error as error:
                raise WrongVoxelsError(
                    f"{where} gave a body that is not zlib's, or damaged; try again", transient=True
                ) from error
            rest = inflate.unconsumed_tail
            if piece:
                yield piece
        if inflate.unused_data or (rest and inflate.eof):
            raise WrongVoxelsError(f"{where} gave more after the end of its voxels")
    while not inflate.eof:
        # what was held back because the piece was full
        piece = inflate.decompress(b"", _PIECE)
        if not piece:
            raise WrongVoxelsError(
                f"{where} gave a body without its end; try again", transient=True
            )
        yield piece


def _check_length(pieces: Iterable[Piece], size: int, where: str) -> Iterator[Piece]:
    seen = 0
    for piece in pieces:
        seen += len(piece)
        if seen > size:
            raise WrongVoxelsError(f"{where} gave more than the {size} bytes of its voxels")
        yield piece
    if seen < size:
        raise WrongVoxelsError(
            f"{where} gave {seen} of the {size} bytes of its voxels; try again", transient=True
        )


def _reorder(
    pieces: Iterator[bytes], head: NpyHeader, shape: tuple[int, ...], where: str
) -> Iterator[bytes]:
    """Voxels as the file has them: little-endian, and in C order."""
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
    """From Fortran's order, in which z runs fastest, to C's; holds the block."""
    items = array(_TYPECODES[item])
    held = bytearray()
    for piece in pieces:
        held += piece
    items.frombytes(held)
    del held
    deep, high, _ = shape
    step = deep * high
    for z in range(deep):
        yield b"".join(items[z + deep * y :: step].tobytes() for y in range(high))


def _pad(
    pieces: Iterator[Piece], shape: tuple[int, ...], chunk: Triple, item: int
) -> Iterator[Piece]:
    """Voxels with zeros at the far end of each axis."""
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
    """Rows of ``row`` bytes, each with zeros up to ``wider``."""
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
    """Runs of ``run`` bytes, each with zeros up to ``pitch``."""
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
