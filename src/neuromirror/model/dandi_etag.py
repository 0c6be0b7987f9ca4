"""The part size of a dandi-etag, which verification needs but the archive does not state."""

from __future__ import annotations

from typing import Final

DANDI_PART_SIZE: Final = 64 << 20
_MOST_PARTS: Final = 10_000
_LARGEST_OBJECT: Final = 5 << 40


def dandi_part_size(size: int) -> int:
    """Return the part size of the dandi-etag of a file of ``size`` bytes.

    It is 64 MiB, or for larger files the size that results in 10,000 parts. See PartGenerator in
    dandischema/digests/dandietag.py, where the single part of a small file has the size of the
    file; the etag is the same.

    Parameters
    ----------
    size
        Size of the file in bytes.

    Returns
    -------
    int
        The part size in bytes.

    Raises
    ------
    ValueError
        If the size exceeds the limits of S3.
    """
    if not 0 <= size <= _LARGEST_OBJECT:
        raise ValueError(f"invalid size of an S3 object: {size} bytes")
    if -(-size // DANDI_PART_SIZE) >= _MOST_PARTS:
        return -(-size // _MOST_PARTS)
    return DANDI_PART_SIZE
