"""Recognize keys of content that consists of zero bytes, which needs no download."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Final

from neuromirror.annex.keys import key_digest, parse_key

_PIECE: Final = bytes(1 << 20)


def is_all_zeros(key: str) -> bool:
    """Return whether a key's sha256 is that of zero bytes of the key's size.

    The first call for a size hashes that many bytes; the digest is cached.

    Parameters
    ----------
    key
        A key of any backend.

    Returns
    -------
    bool
        Whether the content is known to consist of zero bytes; False for empty contents, and for
        keys without size or sha256.
    """
    size, digest = parse_key(key).size, key_digest(key)
    if not size or digest is None or digest[0] != "sha256":
        return False
    return digest[1] == _sha256_of_zeros(size)


@lru_cache(maxsize=64)
def _sha256_of_zeros(size: int) -> str:
    digest = hashlib.sha256()
    for _ in range(size // len(_PIECE)):
        digest.update(_PIECE)
    digest.update(_PIECE[: size % len(_PIECE)])
    return digest.hexdigest()
