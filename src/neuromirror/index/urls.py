"""URLs with and without object version, and the short hashes that find URLs and keys."""

from __future__ import annotations

from hashlib import blake2b

_VERSION = "versionId="


def plain_url(url: str) -> str:
    """Return a URL without its ``versionId`` parameter: the current object."""
    if _VERSION not in url:
        return url
    # not urlsplit, which takes longer than all else in recording a file
    address, _, query = url.partition("?")
    if "&" not in query and query.startswith(_VERSION):
        return address
    kept = [pair for pair in query.split("&") if not pair.startswith(_VERSION)]
    return f"{address}?{'&'.join(kept)}" if kept else address


def url_version_id(url: str) -> str | None:
    """Return the ``versionId`` of a URL, or None."""
    for pair in url.partition("?")[2].split("&"):
        if pair.startswith(_VERSION):
            return pair[len(_VERSION) :]
    return None


def short_hash(value: str | bytes) -> int:
    """Return blake2b-64 as a signed integer, as SQLite stores it."""
    data = value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big", signed=True)


def key_hash(key: str) -> bytes:
    """Return eight bytes that find a git-annex key.

    The first bytes of the digest in the key, so that a lookup by digest finds it too; for a key
    without digest, those of its blake2b.
    """
    try:
        head = bytes.fromhex(key.partition("--")[2][:16])
        if len(head) == 8:
            return head
    except ValueError:
        pass
    return blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest()
