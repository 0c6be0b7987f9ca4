"""DANDI's digests: the dandi-etag and the part size behind it.

The rule is dandischema's (``dandischema/digests/dandietag.py``): parts of 64 MiB, grown when that
would make 10,000 parts or more; the etag is the md5 of the joined md5s of the parts, a hyphen, and
the number of parts.
"""

from __future__ import annotations

import re
from typing import Final

_DEFAULT_PART: Final = 64 * 2**20
_MOST_PARTS: Final = 10_000
_LARGEST: Final = 5 * 2**40

SHA256: Final = re.compile(r"[0-9a-f]{64}\Z")
ETAG: Final = re.compile(r"[0-9a-f]{32}-(0|[1-9][0-9]{0,4})\Z")


def dandi_part_size(size: int) -> int:
    """Bytes in each part (but the last) of a file of ``size`` bytes.

    A file that fits into one part has the part size 64 MiB here, whatever its own size. Raises
    ValueError for a size that S3 cannot hold.
    """
    if not 0 <= size <= _LARGEST:
        raise ValueError(f"no S3 object has {size} bytes")
    if -(-size // _DEFAULT_PART) < _MOST_PARTS:
        return _DEFAULT_PART
    return -(-size // _MOST_PARTS)


def parts_of(size: int) -> int:
    """How many parts a file has; none when it is empty."""
    return -(-size // dandi_part_size(size))
