"""By what the bytes of a git-annex key can be proved, and the hashing itself.

Backends: git-annex's backends page; ``XS3ETAG`` is neuromirror's own (annex.backend). A key of any
other kind (WORM, URL, VURL, a foreign program's) tells a size at most.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final, Protocol

from neuromirror.annex import EtagDigest, parse_key
from neuromirror.model import Evidence

_ALGORITHMS: Final = {
    **{"MD5": "md5", "SHA1": "sha1", "SHA224": "sha224", "SHA256": "sha256"},
    **{"SHA384": "sha384", "SHA512": "sha512", "SHA3_224": "sha3_224"},
    **{"SHA3_256": "sha3_256", "SHA3_384": "sha3_384", "SHA3_512": "sha3_512"},
}
_BLAKE2: Final = re.compile(r"BLAKE2([BS])([0-9]{3})")
_ETAG: Final = re.compile(r"([0-9a-f]{32}-[0-9]{1,5})-([1-9][0-9]{0,14})")
_EVIDENCE: Final = {"sha256": Evidence.SHA256, "md5": Evidence.MD5, "etag": Evidence.ETAG}

# dandi-etag's of no bytes, and what S3 answers for an upload of one part that holds none
_EMPTY_ETAGS: Final = ("d41d8cd98f00b204e9800998ecf8427e-0", "59adb24ef3cdbe0297f05b395827453f-1")


Piece = bytes | bytearray | memoryview


class KeyHasher(Protocol):
    """Bytes on their way into a checksum."""

    def update(self, data: Piece, /) -> None:
        """The next bytes."""
        ...

    def hexdigest(self) -> str:
        """The checksum of all so far."""
        ...


@dataclass(frozen=True, slots=True)
class KeyChecksum:
    """What a key says of its bytes.

    ``algorithm`` is a hash's name (``sha256``, ``sha3_512``, ``blake2b-32``; ``etag`` with
    ``part_size`` in bytes), empty where the key names none; ``value`` its checksum. ``size`` in
    bytes, None where the key does not say.
    """

    algorithm: str
    value: str
    size: int | None
    part_size: int = 0

    @property
    def evidence(self) -> Evidence | None:
        """The word for what equal bytes prove; None for a hash that has none."""
        if self.algorithm:
            return _EVIDENCE.get(self.algorithm)
        return Evidence.NONE if self.size is None else Evidence.SIZE

    def hasher(self) -> KeyHasher | None:
        """A new hash to feed the bytes to; None where there is nothing to compare one with."""
        if not self.algorithm:
            return None
        if self.algorithm == "etag":
            return EtagDigest(self.part_size)
        name, _, length = self.algorithm.partition("-")
        if name == "blake2b":
            return hashlib.blake2b(digest_size=int(length))
        if name == "blake2s":
            return hashlib.blake2s(digest_size=int(length))
        return hashlib.new(name, usedforsecurity=False)

    def matches(self, checksum: str, size: int) -> bool:
        """Whether the checksum of so many bytes is the one that the key names."""
        if self.algorithm == "etag" and size == 0:
            return self.value in _EMPTY_ETAGS
        return checksum == self.value


def key_checksum(key: str) -> KeyChecksum:
    """What a key says of its bytes; raises ValueError for text that is no key."""
    backend, size, name = parse_key(key)
    if backend == "XS3ETAG":
        etag = _ETAG.fullmatch(name)
        return (
            KeyChecksum("etag", etag[1], size, int(etag[2])) if etag else KeyChecksum("", "", size)
        )
    plain = backend.removesuffix("E")
    algorithm = _ALGORITHMS.get(plain, "")
    if not algorithm and (blake2 := _BLAKE2.fullmatch(plain)):
        most = 512 if blake2[1] == "B" else 256
        bits = int(blake2[2])
        if bits % 8 == 0 and 0 < bits <= most:
            algorithm = f"blake2{blake2[1].lower()}-{bits // 8}"
    if not algorithm:
        return KeyChecksum("", "", size)
    value = name.partition(".")[0] if backend.endswith("E") else name
    return KeyChecksum(algorithm, value, size)
