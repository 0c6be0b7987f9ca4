"""The short hashes that find URLs and keys."""

from __future__ import annotations

from hashlib import blake2b


def short_hash(value: str | bytes) -> int:
    """Return the hash by which a URL is looked up: blake2b-64 as a signed integer for SQLite."""
    data = value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big", signed=True)


def key_hash(key: str) -> bytes:
    """Return the eight bytes by which an annex key is looked up.

    They are the first bytes of the digest in the key, so that a lookup by digest finds the key too.
    For a key without a digest they are those of a blake2b of the key.
    """
    try:
        head = bytes.fromhex(key.partition("--")[2][:16])
        if len(head) == 8:
            return head
    except ValueError:
        pass
    return blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest()
