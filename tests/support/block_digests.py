"""Block digests of contents in memory."""

import hashlib
from io import BytesIO

from neuromirror.annex import etag_of, key_digest, parse_key
from neuromirror.annex.keys import xs3etag_key
from neuromirror.model import BlockDigests, BlockHasher, default_piece_size


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


def claimed_digests(key: str) -> BlockDigests:
    """Return block digests that agree with a SHA256E key, but not with any content."""
    checksum = key_digest(key)
    assert checksum is not None
    assert checksum[0] == "sha256"
    size = parse_key(key).size
    assert size is not None
    piece_size = default_piece_size(size)
    while piece_size < size:
        piece_size *= 2
    root = bytes(32) if not size else hashlib.sha256(key.encode()).digest()
    return BlockDigests(size, checksum[1], piece_size, root, b"")
