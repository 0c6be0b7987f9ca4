"""Decoding of a blosc frame with an untrusted header.

Format: C-Blosc 1, ``README_CHUNK_FORMAT.rst``. A frame has a header of 16 bytes (version, version
of the codec, flags, item size; then sizes as little-endian 32-bit numbers: of the content, of one
of its blocks, of the frame). Unless the content is stored uncompressed, the offset of each block
follows. The library trusts the header, so a frame is only passed to it if header and length agree.
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
"""Supported compressors (blosclz, lz4, zlib and zstd): the highest three bits of the flags."""

_OFFSET_BYTES: Final = 4
_LARGEST: Final = (1 << 31) - 1 - _HEADER.size
_UNSIGNED: Final = {1: "uint8", 2: "uint16", 4: "uint32", 8: "uint64"}


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
    return _decompress(frame, where), dtype or _UNSIGNED[_content_size(frame) // count]


def _frame_size(frame: bytes, count: int, dtype: str | None, where: str) -> int:
    """Check a frame's header and return the frame's size."""
    version, _, flags, item, content, block, size = _HEADER.unpack_from(frame)
    fault = ""
    sizes = set(_UNSIGNED) if dtype is None else {ITEM_SIZES[dtype]}
    stored = bool(flags & _STORED)
    if version not in _VERSIONS or flags & _RESERVED or not item:
        fault = "its header is not that of a blosc frame"
    elif content > _LARGEST or content not in {count * one for one in sizes}:
        fault = f"it has {content} bytes, not {count} voxels"
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


def _decompress(frame: bytearray, where: str) -> bytes | memoryview:
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
