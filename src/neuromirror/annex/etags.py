"""S3's multipart ETag, and dandi-etag's rule for the size of the parts.

A multipart ETag is the MD5 of the joined binary MD5s of the parts, a dash, and their number.
All parts but the last are of one size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import BinaryIO

DANDI_PART_SIZE = 64 * 1024**2
_MOST_PARTS = 10_000
_LARGEST_OBJECT = 5 * 1024**4
_BLOCK = 1024**2


def unheard(position: int) -> None:
    """Progress that nobody asked for."""


def etag_of(stream: BinaryIO, part_size: int, progress: Callable[[int], None] = unheard) -> str:
    """The multipart ETag of what is left in a stream, in memory that stays flat.

    ``part_size`` is in bytes; ``progress`` is told how many bytes were read so far, about once a
    MiB. An empty stream has no parts, as dandi-etag counts: ``d41d8cd98f00b204e9800998ecf8427e-0``.
    Raises ValueError for a part size that is not positive.
    """
    if part_size <= 0:
        raise ValueError(f"a part size must be positive, not {part_size}")
    joined = hashlib.md5(usedforsecurity=False)
    parts = 0
    position = 0
    while True:
        part = hashlib.md5(usedforsecurity=False)
        left = part_size
        while left and (block := stream.read(min(_BLOCK, left))):
            part.update(block)
            left -= len(block)
            position += len(block)
            progress(position)
        if left == part_size:
            break
        joined.update(part.digest())
        parts += 1
        if left:
            break
    return f"{joined.hexdigest()}-{parts}"


def dandi_part_size(size: int) -> int:
    """The part size in bytes of a dandi-etag for a file of ``size`` bytes.

    64 MiB, or for larger files what makes 10,000 parts. (dandischema's PartGenerator calls the
    only part of a small file as large as the file; the ETag is the same.) Raises ValueError for
    a size that no S3 object can have.
    """
    if not 0 <= size <= _LARGEST_OBJECT:
        raise ValueError(f"no S3 object has {size} bytes")
    if -(-size // DANDI_PART_SIZE) >= _MOST_PARTS:
        return -(-size // _MOST_PARTS)
    return DANDI_PART_SIZE
