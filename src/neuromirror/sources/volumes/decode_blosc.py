"""Voxels from a blosc frame, whose header is not trusted.

Format: C-Blosc 1, ``README_CHUNK_FORMAT.rst``. A frame has 16 bytes of header (version, version of
the codec, flags, item size; then sizes as little-endian 32-bit numbers: of the content, of a block
of it, of the frame), and, unless its content is stored as it is, the offset of each block. The
library reads as far as the header says, so nothing is handed to it whose header and length
disagree.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from typing import Final

from neuromirror.sources.volumes.errors import WrongVoxelsError
from neuromirror.sources.volumes.urls import ITEM_SIZES

_HEADER: Final = struct.Struct("<BBBBIII")
_VERSIONS: Final = (1, 2)
_STORED: Final = 0x02
_RESERVED: Final = 0x08
_CODECS: Final = frozenset({0, 1, 3, 4})
"""blosclz, lz4, zlib and zstd: the highest three bits of the flags."""

_OFFSET_BYTES: Final = 4
_LARGEST: Final = (1 << 31) - 1 - _HEADER.size
_UNSIGNED: Final = {1: "uint8", 2: "uint16", 4: "uint32", 8: "uint64"}


@cache
def can_decode() -> bool:
    """Return whether the package that unpacks blosc (numcodecs, zarr's own) is installed."""
    return find_spec("numcodecs") is not None


def blosc_voxels(
    body: Iterable[bytes], count: int, dtype: str | None, where: str
) -> tuple[bytes | memoryview, str]:
    """Return the content of a frame that comes in pieces, and the type of its voxels.

    The frame must hold exactly ``count`` voxels of ``dtype``; where that is None, of any unsigned
    integer. Of a longer body no more is read than such a frame takes. Raises
    :class:`WrongVoxelsError`, naming ``where``.
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
            raise WrongVoxelsError(f"{where} gave more after the end of its blosc frame")
        frame[have : have + len(more)] = more
        have += len(more)
    if not frame or have < len(frame):
        raise WrongVoxelsError(
            f"{where} gave a blosc frame without its end ({have or len(begin)} bytes); try again",
            transient=True,
        )
    return _decompress(frame, where), dtype or _UNSIGNED[_content_size(frame) // count]


def _frame_size(frame: bytes, count: int, dtype: str | None, where: str) -> int:
    """Return the size of a whole frame, from a header that is found to be right."""
    version, _, flags, item, content, block, size = _HEADER.unpack_from(frame)
    fault = ""
    sizes = set(_UNSIGNED) if dtype is None else {ITEM_SIZES[dtype]}
    stored = bool(flags & _STORED)
    if version not in _VERSIONS or flags & _RESERVED or not item:
        fault = "its header is no blosc frame's"
    elif content > _LARGEST or content not in {count * one for one in sizes}:
        fault = f"it holds {content} bytes, not {count} voxels"
    elif not 0 < block <= content:
        fault = f"its blocks have {block} bytes"
    elif stored and size != content + _HEADER.size:
        fault = f"its {content} bytes, stored as they are, take {size}"
    elif not stored and flags >> 5 not in _CODECS:
        fault = f"its codec {flags >> 5} is not one of those that are decoded here"
    elif not stored and not (
        _HEADER.size + -(-content // block) * _OFFSET_BYTES < size <= content + _HEADER.size
    ):
        fault = f"its {content} bytes in blocks of {block} cannot take {size}"
    if fault:
        raise WrongVoxelsError(f"{where} gave a blosc frame that is refused: {fault}")
    return int(size)


def _content_size(frame: bytearray) -> int:
    return int(_HEADER.unpack_from(frame)[4])


def _decompress(frame: bytearray, where: str) -> bytes | memoryview:
    if frame[2] & _STORED:
        return memoryview(frame)[_HEADER.size :]
    from numcodecs import blosc  # type: ignore[import-untyped]

    try:
        content: bytes = blosc.decompress(frame)
    except (RuntimeError, ValueError) as error:
        raise WrongVoxelsError(
            f"{where} gave a blosc frame that is damaged; try again", transient=True
        ) from error
    if len(content) != _content_size(frame):
        raise WrongVoxelsError(f"{where} gave a blosc frame of other content than its header says")
    return content
