"""Block digests of contents in memory."""

from __future__ import annotations

import hashlib
from io import BytesIO

from neuromirror.annex import etag_of, xs3etag_key
from neuromirror.model import BlockDigests, BlockHasher


def digests_of(
    content: bytes, piece_size: int, part_size: int | None = None, step: int = 1 << 20
) -> BlockDigests:
    """Return the block digests of a content, fed in steps of some bytes."""
    hasher = BlockHasher(piece_size, part_size)
    for start in range(0, len(content), step):
        hasher.update(content[start : start + step])
    return hasher.finish(hashlib.sha256(content).hexdigest())


def etag_key(content: bytes, part_size: int) -> str:
    """Return the XS3ETAG key of a content."""
    return xs3etag_key(len(content), etag_of(BytesIO(content), part_size), part_size)
