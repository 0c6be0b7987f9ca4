"""Streaming conversion of a cutout's body to the bytes of a chunk file.

Every step is a generator, so that no block is held in memory as a whole. (Exceptions: a blosc
frame, and voxels in Fortran order, where the first row depends on the last bytes.) Nothing is
evaluated or unpickled.
"""

from __future__ import annotations

import math
import re
import struct
import zlib
from array import array
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.util import find_spec
from itertools import chain
from typing import Final

from msgspec import Struct

from neuromirror.sources.volumes.urls import ITEM_SIZES, Box, Triple, WrongVoxelsError

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
        ordered = _reorder(chain([start], pieces), head, shape, where)
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


# --- decoding of a blosc frame with an untrusted header


_HEADER: Final = struct.Struct("<BBBBIII")
_VERSIONS: Final = (1, 2)
_STORED: Final = 0x02
_RESERVED: Final = 0x08
_CODECS: Final = frozenset({0, 1, 3, 4})
"""Supported compressors (blosclz, lz4, zlib and zstd): the highest three bits of the flags."""

_OFFSET_BYTES: Final = 4
_LARGEST: Final = (1 << 31) - 1 - _HEADER.size
_UNSIGNED_BY_SIZE: Final = {1: "uint8", 2: "uint16", 4: "uint32", 8: "uint64"}


@cache
def can_decode() -> bool:
    """Return whether the package that decodes blosc (numcodecs, by Zarr) is installed."""
    return find_spec("numcodecs") is not None


def blosc_voxels(
    body: Iterable[bytes], count: int, dtype: str | None, where: str
) -> tuple[bytes | memoryview, str]:
    """Return the content of a frame, and the type of its voxels.

    Parameters
    ----------
    body
        The frame, in pieces. A longer body is not read to its end.
    count
        The exact number of voxels.
    dtype
        The type of the voxels; None for any unsigned integer.
    where
        The origin of the body, for messages.

    Raises
    ------
    WrongVoxelsError
        If the frame is malformed or has other voxels.
    """
    begin = b""
    frame = bytearray()
    have = 0
    for piece in body:
        more = piece
        if not frame:
            begin = more = begin + piece
            if len(begin) < _HEADER.size:
                continue
            frame = bytearray(_frame_size(begin, count, dtype, where))
        if have + len(more) > len(frame):
            raise WrongVoxelsError(f"{where} returned more data after its blosc frame")
        frame[have : have + len(more)] = more
        have += len(more)
    if not frame or have < len(frame):
        raise WrongVoxelsError(
            f"{where} returned a truncated blosc frame ({have or len(begin)} bytes); try again",
            transient=True,
        )
    return _decompress_frame(frame, where), dtype or _UNSIGNED_BY_SIZE[
        _content_size(frame) // count
    ]


def _frame_size(frame: bytes, count: int, dtype: str | None, where: str) -> int:
    """Check a frame's header and return the frame's size."""
    version, _, flags, item, content, block, size = _HEADER.unpack_from(frame)
    fault = ""
    expected = f"{count} voxels" if dtype is None else f"{count * ITEM_SIZES[dtype]}"
    sizes = set(_UNSIGNED_BY_SIZE) if dtype is None else {ITEM_SIZES[dtype]}
    stored = bool(flags & _STORED)
    if version not in _VERSIONS or flags & _RESERVED or not item:
        fault = "its header is not that of a blosc frame"
    elif content > _LARGEST or content not in {count * one for one in sizes}:
        raise WrongVoxelsError(f"{where} returned {content} bytes of voxels, not {expected}")
    elif not 0 < block <= content:
        fault = f"its blocks have {block} bytes"
    elif stored and size != content + _HEADER.size:
        fault = f"its {content} uncompressed bytes take {size}"
    elif not stored and flags >> 5 not in _CODECS:
        fault = f"its codec {flags >> 5} is not supported"
    elif not stored and not (
        _HEADER.size + -(-content // block) * _OFFSET_BYTES < size <= content + _HEADER.size
    ):
        fault = f"its {content} bytes in blocks of {block} cannot take {size}"
    if fault:
        raise WrongVoxelsError(f"{where} returned an invalid blosc frame: {fault}")
    return int(size)


def _content_size(frame: bytearray) -> int:
    return int(_HEADER.unpack_from(frame)[4])


def _decompress_frame(frame: bytearray, where: str) -> bytes | memoryview:
    if frame[2] & _STORED:
        return memoryview(frame)[_HEADER.size :]
    from numcodecs import blosc  # type: ignore[import-untyped]

    try:
        content: bytes = blosc.decompress(frame)
    except (RuntimeError, ValueError) as error:
        raise WrongVoxelsError(
            f"{where} returned a damaged blosc frame; try again", transient=True
        ) from error
    if len(content) != _content_size(frame):
        raise WrongVoxelsError(f"{where} returned a blosc frame whose content and header disagree")
    return content


# --- parsing of the header of a ``.npy`` file, without evaluating it


MAX_HEADER_BYTES: Final = 4096
"""Maximum size of a header; numpy writes 128 bytes."""

_MAGIC: Final = b"\x93NUMPY"
_LENGTH_BYTES: Final = {1: 2, 2: 4, 3: 4}
# ndstore runs on Python 2, which writes the numbers of a shape as 16L.
_FIELD: Final = re.compile(
    r"""\s*(?:
    (['"])descr\1\s*:\s*(['"])(?P<order>[<>|=]?)(?P<kind>[A-Za-z])(?P<size>[0-9]*)\2
    |(['"])fortran_order\6\s*:\s*(?P<fortran>True|False)
    |(['"])shape\8\s*:\s*\(\s*(?P<shape>(?:N\s*,\s*)*(?:N\s*)?)\)
    )\s*(?:,|(?=\}))\s*""".replace("N", r"(?:0|[1-9][0-9]{0,14})L?"),
    re.VERBOSE | re.ASCII,
)
_NUMBER: Final = re.compile("[0-9]+")
_KINDS: Final = {"u": "uint", "i": "int", "f": "float"}


class NpyHeader(Struct, frozen=True):
    """The header of a ``.npy`` file.

    Attributes
    ----------
    dtype
        Numpy's name of the type, without the byte order.
    big_endian
        Whether the bytes are in big-endian order.
    fortran
        Whether the array is in Fortran order: the first axis varies fastest.
    shape
        The shape of the array.
    """

    dtype: str
    big_endian: bool
    fortran: bool
    shape: tuple[int, ...]


def read_header(pieces: Iterator[bytes], where: str) -> tuple[NpyHeader, bytes]:
    """Read the header of an ``.npy`` file that arrives in pieces.

    Return the header, and the bytes after it in the last piece that was read.

    Raises
    ------
    WrongVoxelsError
        If the header is malformed or not supported.
    """
    start = _at_least(pieces, b"", 10, where)
    if start[:6] != _MAGIC:
        raise WrongVoxelsError(f"{where} returned no numpy array: {start[:16]!r}")
    width = _LENGTH_BYTES.get(start[6])
    if width is None or start[7]:
        raise WrongVoxelsError(
            f"{where} returned a numpy array in an unknown format, {start[6]}.{start[7]}"
        )
    header_start = 8 + width
    start = _at_least(pieces, start, header_start, where)
    length = int.from_bytes(start[8:header_start], "little")
    if length > MAX_HEADER_BYTES:
        raise WrongVoxelsError(f"{where} returned a numpy array with a header of {length} bytes")
    start = _at_least(pieces, start, header_start + length, where)
    return _parse_header(start[header_start : header_start + length], where), start[
        header_start + length :
    ]


def _at_least(pieces: Iterator[bytes], start: bytes, count: int, where: str) -> bytes:
    while len(start) < count:
        piece = next(pieces, None)
        if piece is None:
            raise WrongVoxelsError(
                f"{where} returned only {len(start)} bytes; try again", transient=True
            )
        start += piece
    return start


def _parse_header(text: bytes, where: str) -> NpyHeader:
    literal = text.decode("latin-1").strip(" \t\n")
    refused = WrongVoxelsError(
        f"{where} returned a numpy array with an unsupported header: {literal[:120]!r}"
    )
    if not (literal.startswith("{") and literal.endswith("}")):
        raise refused
    fields: dict[str, str] = {}
    at = 1
    while found := _FIELD.match(literal, at):
        named = {name: value for name, value in found.groupdict().items() if value is not None}
        if fields.keys() & named.keys():
            raise refused
        fields |= named
        at = found.end()
    if at != len(literal) - 1 or len(fields) != 5:
        raise refused
    kind = _KINDS.get(fields["kind"])
    if kind is None:
        raise refused
    return NpyHeader(
        f"{kind}{8 * int(fields['size'] or 0)}",
        fields["order"] == ">",
        fields["fortran"] == "True",
        tuple(map(int, _NUMBER.findall(fields["shape"]))),
    )
