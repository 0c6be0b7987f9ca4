"""S3's multipart ETag.

A multipart ETag is the MD5 of the joined binary MD5s of the parts, a dash, and their number.
All parts but the last are of one size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import BinaryIO

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
