"""S3's multipart ETag.

A multipart ETag is the MD5 of the joined binary MD5s of the parts, a dash, and their number.
All parts but the last are of one size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import BinaryIO

_BLOCK = 1024**2


def ignore_progress(position: int) -> None:
    """Progress that nobody asked for."""


def etag_of(
    stream: BinaryIO, part_size: int, progress: Callable[[int], None] = ignore_progress
) -> str:
    """The multipart ETag of what is left in a stream, in memory that stays flat.

    ``part_size`` is in bytes; ``progress`` is told how many bytes were read so far, about once a
    MiB. An empty stream has no parts, as dandi-etag counts: ``d41d8cd98f00b204e9800998ecf8427e-0``.
    Raises ValueError for a part size that is not positive.
    """
    digest = EtagDigest(part_size)
    position = 0
    while block := stream.read(_BLOCK):
        digest.update(block)
        position += len(block)
        progress(position)
    return digest.hexdigest()


class EtagDigest:
    """A multipart ETag of bytes as they come, as :mod:`hashlib` has digests.

    ``part_size`` is in bytes; raises ValueError for one that is not positive.
    """

    def __init__(self, part_size: int) -> None:
        if part_size <= 0:
            raise ValueError(f"a part size must be positive, not {part_size}")
        self._size = part_size
        self._left = part_size
        self._parts = 0
        self._joined = hashlib.md5(usedforsecurity=False)
        self._part = hashlib.md5(usedforsecurity=False)

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Takes more."""
        view = memoryview(data)
        while view:
            taken = view[: self._left]
            self._part.update(taken)
            self._left -= len(taken)
            view = view[len(taken) :]
            if not self._left:
                self._joined.update(self._part.digest())
                self._parts += 1
                self._part = hashlib.md5(usedforsecurity=False)
                self._left = self._size

    def hexdigest(self) -> str:
        """The ETag of all so far: ``<md5>-<parts>``."""
        if self._left == self._size:
            return f"{self._joined.hexdigest()}-{self._parts}"
        joined = self._joined.copy()
        joined.update(self._part.digest())
        return f"{joined.hexdigest()}-{self._parts + 1}"
