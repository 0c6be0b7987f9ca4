"""The short hashes that find URLs and keys."""

from __future__ import annotations

from hashlib import blake2b


def short_hash(value: str | bytes) -> int:
    """Return blake2b-64 as a signed integer, as SQLite stores it."""
    data = value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big", signed=True)


def key_hash(key: str) -> bytes:
    """Return eight bytes that find a git-annex key.

    They are the first bytes of the digest in the key, so that a lookup by digest finds the key too,
    or of the blake2b of a key without digest.
    """
    try:
        head = bytes.fromhex(key.partition("--")[2][:16])
        if len(head) == 8:
            return head
    except ValueError:
        pass
    return blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest()
