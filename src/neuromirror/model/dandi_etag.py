"""The part size behind a dandi-etag, which a claim does not state but a check needs."""

from __future__ import annotations

from typing import Final

DANDI_PART_SIZE: Final = 64 << 20
_MOST_PARTS: Final = 10_000
_LARGEST_OBJECT: Final = 5 << 40


def dandi_part_size(size: int) -> int:
    """Bytes in each part (but the last) of a dandi-etag for a file of ``size`` bytes.

    64 MiB, or for larger files what makes 10,000 parts (dandischema/digests/dandietag.py, whose
    PartGenerator calls the only part of a small file as large as the file; the etag is the same).
    Raises ValueError for a size that no S3 object can have.
    """
    if not 0 <= size <= _LARGEST_OBJECT:
        raise ValueError(f"no S3 object has {size} bytes")
    if -(-size // DANDI_PART_SIZE) >= _MOST_PARTS:
        return -(-size // _MOST_PARTS)
    return DANDI_PART_SIZE
