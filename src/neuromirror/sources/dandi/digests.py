"""The format of DANDI's digests."""

from __future__ import annotations

import re
from typing import Final

from neuromirror.model import dandi_part_size

SHA256: Final = re.compile(r"[0-9a-f]{64}\Z")
ETAG: Final = re.compile(r"[0-9a-f]{32}-(0|[1-9][0-9]{0,4})\Z")


def part_count(size: int) -> int:
    """Return the number of parts of a multipart upload by DANDI; 0 for an empty file."""
    return -(-size // dandi_part_size(size))
