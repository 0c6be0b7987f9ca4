"""Checksums of annex keys, and checks of content against them.

The checksum in an annex key, and the hash functions to compute it.

Backends: git-annex, page "backends". ``XS3ETAG`` is neuromirror's own backend (annex.backend): the
ETag of an S3 multipart upload, with its part size. Keys of any other backend (WORM, URL, VURL,
those of external programs) have a size at most.

Checks of downloaded content against its key, while the bytes arrive.

A VURL key stands for the keys recorded for it in the ``.log.ek`` log. Without recorded keys, a VURL
or URL key can be checked for its size only.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Struct

from neuromirror.annex import EtagDigest, parse_key
from neuromirror.annex.keys import DANDI_EMPTY_ETAG, S3_EMPTY_ETAG
from neuromirror.cache import ContentName
from neuromirror.model import Evidence

if TYPE_CHECKING:
    from neuromirror.transfer.annex_objects import ContentDigester

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


class ContentCheck:
    """Compares the bytes of one key, fed in order, with its size and checksums.

    Parameters
    ----------
    checksums
        Accepted checksums: the content is right if one of them matches. Empty if only the size is
        known.
    size
        Expected size in bytes, None if unknown.
    algorithm
        Name of the algorithm for messages.
    evidence
        Evidence that a match gives; None for an algorithm without a category.

    Attributes
    ----------
    digester
        Receives the same bytes to compute their block digests; None not to.
    """

    def __init__(
        self,
        checksums: Sequence[KeyChecksum],
        size: int | None,
        algorithm: str,
        evidence: Evidence | None,
    ) -> None:
        self._hashers = [(one, hasher) for one in checksums if (hasher := one.hasher()) is not None]
        self.size = size
        self.algorithm = algorithm
        self.evidence = evidence
        self.bytes_seen = 0
        self.digester: ContentDigester | None = None

    @property
    def has_digest(self) -> bool:
        """Whether wrong content of the right size would be detected."""
        return bool(self._hashers)

    @property
    def is_too_long(self) -> bool:
        """Whether there are more bytes than the content has; there may be any number of others."""
        return self.size is not None and self.bytes_seen > self.size

    def update(self, chunk: Chunk) -> None:
        """Add the next bytes.

        Parameters
        ----------
        chunk
            The bytes that follow those of the last call.
        """
        self.bytes_seen += len(chunk)
        for _, hasher in self._hashers:
            hasher.update(chunk)
        if self.digester is not None:
            self.digester.update(chunk)

    def record_digests(self) -> None:
        """Record the block digests of the bytes, which match the key.

        A failure, such as a full disk, is ignored: the content itself is right.
        """
        if self.digester is not None:
            self.digester.finish(self._hashers[0][1].hexdigest() if self._hashers else "")

    def mismatch(self) -> str | None:
        """Return why the bytes so far are not the key's content, None if they are.

        Returns
        -------
        str | None
            The reason, for an error message.
        """
        if self.size is not None and self.bytes_seen != self.size:
            return f"received {self.bytes_seen} bytes, expected {self.size}"
        if not self._hashers:
            return None
        found = [(checksum, hasher.hexdigest()) for checksum, hasher in self._hashers]
        if any(checksum.matches(value, self.bytes_seen) for checksum, value in found):
            return None
        return f"received different bytes: {self.algorithm} {found[0][1]}"


class EquivalentKeyCheck(ContentCheck):
    """Checks the size of a VURL key's content, and computes the key to record for the content.

    A VURL key names a URL and no checksum. After its first download git-annex records the key with
    the checksum, to verify later downloads.
    """

    def __init__(self, size: int | None) -> None:
        super().__init__((), size, "size", Evidence.NONE if size is None else Evidence.SIZE)
        self._sha256 = hashlib.sha256()

    def update(self, chunk: Chunk) -> None:
        """Add the next bytes."""
        super().update(chunk)
        self._sha256.update(chunk)

    def equivalent_key(self) -> str:
        """Return the key of the bytes, in the form git-annex records for a VURL key."""
        return f"SHA256E-s{self.bytes_seen}--{self._sha256.hexdigest()}"


def check_for(key: str, recorded: Sequence[str] = ()) -> ContentCheck | None:
    """Return the check for a key's content, None if its backend is not supported.

    Parameters
    ----------
    key
        Annex key.
    recorded
        For a VURL key, which has no checksum, the keys with checksums that git-annex recorded for
        it. Content that matches one of them is right.

    Returns
    -------
    ContentCheck | None
        The check, to be fed with the content.

    Raises
    ------
    ValueError
        The text is not an annex key.
    """
    checksum = key_checksum(key)
    backend = parse_key(key).backend
    if backend == "VURL":
        return _recorded_check(checksum.size, [key_checksum(one) for one in recorded])
    if backend == "URL":
        return ContentCheck((), checksum.size, "size", checksum.evidence)
    if not checksum.algorithm:
        return None
    return ContentCheck([checksum], checksum.size, checksum.algorithm, checksum.evidence)


def _recorded_check(size: int | None, recorded: Sequence[KeyChecksum]) -> ContentCheck | None:
    if not recorded:
        return EquivalentKeyCheck(size)
    algorithms = {one.algorithm for one in recorded}
    if "" in algorithms:
        return None
    if len(algorithms) > 1:
        return ContentCheck(recorded, size, "hash", None)
    return ContentCheck(recorded, size, recorded[0].algorithm, recorded[0].evidence)
