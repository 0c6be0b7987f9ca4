"""Storage of listing rows in temporary files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Final

import msgspec

from neuromirror.net import ObjectRow

_LENGTH: Final = 4
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(ObjectRow).decode


def write_row(file: IO[bytes], row: ObjectRow) -> None:
    """Append a row to a binary file."""
    line = _encode(row)
    file.write(len(line).to_bytes(_LENGTH, "big") + line)


def read_rows(file: IO[bytes]) -> Iterator[ObjectRow]:
    """Yield the rows of a file, from its current position on."""
    while head := file.read(_LENGTH):
        yield _decode(file.read(int.from_bytes(head, "big")))
