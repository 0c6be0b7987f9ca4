"""Parsing of the header of a ``.npy`` file, without evaluating it.

Format: numpy's ``numpy.lib.format`` (versions 1.0, 2.0 and 3.0). Pickled objects and structured
types are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from neuromirror.sources.volumes.errors import WrongVoxelsError

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
