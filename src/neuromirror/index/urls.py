"""URLs with and without the object version, and the short hashes they and keys are found by."""

from __future__ import annotations

from hashlib import blake2b

_VERSION = "versionId="


def plain_url(url: str) -> str:
    """The URL without its ``versionId`` parameter: the address of the object as it now is."""
    if _VERSION not in url:
        return url
    # by hand: urlsplit costs more than the rest of recording a file
    address, _, query = url.partition("?")
    if "&" not in query and query.startswith(_VERSION):
        return address
    kept = [pair for pair in query.split("&") if not pair.startswith(_VERSION)]
    return f"{address}?{'&'.join(kept)}" if kept else address


def url_version_id(url: str) -> str | None:
    """The ``versionId`` of a URL, None where it has none."""
    for pair in url.partition("?")[2].split("&"):
        if pair.startswith(_VERSION):
            return pair[len(_VERSION) :]
    return None


def short_hash(value: str | bytes) -> int:
    """blake2b-64 as the signed integer that SQLite stores; the same on every machine."""
    data = value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big", signed=True)


def key_hash(key: str) -> bytes:
    """Eight bytes to find a git-annex key by.

    The first of the digest that names it, so that the same look-up serves the digest; for a key
    that is not named by one, those of its blake2b.
    """
    try:
        head = bytes.fromhex(key.partition("--")[2][:16])
        if len(head) == 8:
            return head
    except ValueError:
        pass
    return blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest()
