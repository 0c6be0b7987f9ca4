"""Compute S3's multipart ETag.

A multipart ETag is the MD5 of the concatenated binary MD5s of the parts, a dash, and the number of
parts. All parts except the last have the same size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import BinaryIO, Final

DANDI_EMPTY_ETAG: Final = "d41d8cd98f00b204e9800998ecf8427e-0"
"""The dandi-etag of no bytes, which has no part."""
S3_EMPTY_ETAG: Final = "59adb24ef3cdbe0297f05b395827453f-1"
"""The ETag that S3 returns for an upload of one empty part."""
_BLOCK = 1024**2


def ignore_progress(position: int) -> None:
    """Do nothing: the default for ``progress``."""


def etag_of(
    stream: BinaryIO, part_size: int, progress: Callable[[int], None] = ignore_progress
) -> str:
    """Return the multipart ETag of the rest of a stream, in constant memory.

    An empty stream has no parts, as in dandi-etag: ``d41d8cd98f00b204e9800998ecf8427e-0``.

    Parameters
    ----------
    stream
        The stream.
    part_size
        The part size in bytes.
    progress
        Called with the number of bytes read so far, about once per MiB.

    Returns
    -------
    str
        ``<md5 in hex>-<number of parts>``.

    Raises
    ------
    ValueError
        If the part size is not positive.
    """
    digest = EtagDigest(part_size)
    position = 0
    while block := stream.read(_BLOCK):
        digest.update(block)
        position += len(block)
        progress(position)
    return digest.hexdigest()


class EtagDigest:
    """An incremental multipart ETag, with the interface of :mod:`hashlib`.

    Parameters
    ----------
    part_size
        The part size in bytes.

    Raises
    ------
    ValueError
        If the part size is not positive.
    """

    def __init__(self, part_size: int) -> None:
        if part_size <= 0:
            raise ValueError(f"part size must be positive, not {part_size}")
        self._size = part_size
        self._left = part_size
        self._parts = 0
        self._joined = hashlib.md5(usedforsecurity=False)
        self._part = hashlib.md5(usedforsecurity=False)

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Add bytes.

        Parameters
        ----------
        data
            The next bytes of the content; parts need not be aligned.
        """
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
        """Return the ETag of the bytes so far.

        Returns
        -------
        str
            ``<md5>-<parts>``.
        """
        if self._left == self._size:
            return f"{self._joined.hexdigest()}-{self._parts}"
        joined = self._joined.copy()
        joined.update(self._part.digest())
        return f"{joined.hexdigest()}-{self._parts + 1}"
