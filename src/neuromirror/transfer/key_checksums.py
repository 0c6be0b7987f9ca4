"""The checksum in an annex key, and the hash functions to compute it.

Backends: git-annex, page "backends". ``XS3ETAG`` is neuromirror's own backend (annex.backend): the
ETag of an S3 multipart upload, with its part size. Keys of any other backend (WORM, URL, VURL,
those of external programs) have a size at most.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, Protocol

from msgspec import Struct

from neuromirror.annex import EtagDigest, parse_key
from neuromirror.annex.etags import DANDI_EMPTY_ETAG, S3_EMPTY_ETAG
from neuromirror.cache import ContentName
from neuromirror.model import Evidence

Chunk = bytes | bytearray | memoryview


class Hasher(Protocol):
    """An incremental hash, with the interface of :mod:`hashlib`."""

    def update(self, data: Chunk, /) -> None:
        """Add the next bytes."""
        ...

    def hexdigest(self) -> str:
        """Return the checksum of all bytes so far."""
        ...


_HASHES: Final[Mapping[str, Callable[[], Hasher]]] = {
    "md5": partial(hashlib.md5, usedforsecurity=False),
    "sha1": partial(hashlib.sha1, usedforsecurity=False),
    **{f"sha{bits}": getattr(hashlib, f"sha{bits}") for bits in (224, 256, 384, 512)},
    **{f"sha3_{bits}": getattr(hashlib, f"sha3_{bits}") for bits in (224, 256, 384, 512)},
    **{
        f"blake2b{bits}": partial(hashlib.blake2b, digest_size=bits // 8)
        for bits in (160, 224, 256, 384, 512)
    },
    **{
        f"blake2s{bits}": partial(hashlib.blake2s, digest_size=bits // 8)
        for bits in (160, 224, 256)
    },
}
"""Hash constructors by algorithm: the name of a git-annex backend in lower case, without ``E``."""

_INSECURE: Final = frozenset({"", "md5", "sha1", "etag"})
_ETAG: Final = re.compile(r"([0-9a-f]{32}-[0-9]{1,5})-([1-9][0-9]{0,14})")
_EVIDENCE: Final = {"sha256": Evidence.SHA256, "md5": Evidence.MD5, "etag": Evidence.ETAG}


class KeyChecksum(Struct, frozen=True):
    """The checksum and size in a key.

    Attributes
    ----------
    algorithm
        ``sha256``, ``sha3_512``, ``blake2b256``, …, or ``etag``; empty if the key has no checksum.
    value
        The checksum, in hexadecimal.
    size
        Size in bytes, None if the key does not have it.
    part_size
        Part size of an ``etag``, in bytes.
    """

    algorithm: str
    value: str
    size: int | None
    part_size: int = 0

    @property
    def evidence(self) -> Evidence | None:
        """The evidence that matching bytes give; None for an algorithm without a category."""
        if self.algorithm:
            return _EVIDENCE.get(self.algorithm)
        return Evidence.NONE if self.size is None else Evidence.SIZE

    @property
    def is_secure(self) -> bool:
        """Whether ``annex.securehashesonly`` accepts the algorithm."""
        return self.algorithm not in _INSECURE

    def hasher(self) -> Hasher | None:
        """Return a new hash for the bytes, None if the key has no checksum."""
        if self.algorithm == "etag":
            return EtagDigest(self.part_size)
        return _HASHES[self.algorithm]() if self.algorithm else None

    def matches(self, checksum: str, size: int) -> bool:
        """Return whether ``checksum``, computed over ``size`` bytes, is the one in the key."""
        if self.algorithm == "etag" and size == 0:
            return self.value in (DANDI_EMPTY_ETAG, S3_EMPTY_ETAG)
        return checksum == self.value


def key_checksum(key: str) -> KeyChecksum:
    """Return the checksum in a key.

    Raises
    ------
    ValueError
        The text is not an annex key.
    """
    backend, size, name = parse_key(key)
    if backend == "XS3ETAG":
        if (etag := _ETAG.fullmatch(name)) is None:
            return KeyChecksum("", "", size)
        return KeyChecksum("etag", etag[1], size, int(etag[2]))
    algorithm = backend.removesuffix("E").lower()
    if backend != backend.upper() or algorithm not in _HASHES:
        return KeyChecksum("", "", size)
    value = name.partition(".")[0] if backend.endswith("E") else name
    return KeyChecksum(algorithm, value, size)


def cache_name(checksum: KeyChecksum) -> ContentName | None:
    """Return the name in the cache of the content with a checksum.

    Parameters
    ----------
    checksum
        The checksum and the size of the content.

    Returns
    -------
    ContentName or None
        The name; None if the checksum or the size is unknown.
    """
    if not checksum.algorithm or checksum.size is None:
        return None
    value = checksum.value
    if checksum.algorithm == "etag":
        value = f"{value}-{checksum.part_size}"
    name = ContentName(checksum.algorithm, value, checksum.size)
    return name if name.is_valid else None
