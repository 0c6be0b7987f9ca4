"""Content checked against its key while it arrives.

The backends whose names are hashes are those of git-annex (its page "backends"); an XS3ETAG key
names a multipart ETag and its part size. A VURL key stands for the keys that were recorded for it
(``.log.ek``); of it and of a URL key nothing else is known than, perhaps, the size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Protocol

from neuromirror.annex import EtagDigest, parse_key
from neuromirror.model import Evidence

Piece = bytes | bytearray | memoryview


class Hasher(Protocol):
    """What :mod:`hashlib` gives."""

    def update(self, data: Piece, /) -> None:
        """Takes more."""

    def hexdigest(self) -> str:
        """The digest of all so far."""


_HASHES: Final[dict[str, Callable[[], Hasher]]] = {
    "MD5": partial(hashlib.md5, usedforsecurity=False),
    "SHA1": partial(hashlib.sha1, usedforsecurity=False),
    **{f"SHA{size}": getattr(hashlib, f"sha{size}") for size in (224, 256, 384, 512)},
    **{f"SHA3_{size}": getattr(hashlib, f"sha3_{size}") for size in (224, 256, 384, 512)},
    **{
        f"BLAKE2B{size}": partial(hashlib.blake2b, digest_size=size // 8)
        for size in (160, 224, 256, 384, 512)
    },
    **{
        f"BLAKE2S{size}": partial(hashlib.blake2s, digest_size=size // 8)
        for size in (160, 224, 256)
    },
}
_WEAK: Final = frozenset({"MD5", "SHA1"})
_EVIDENCE: Final = {"SHA256": Evidence.SHA256, "MD5": Evidence.MD5}
_UNHASHED: Final = frozenset({"URL", "VURL"})
_EMPTY_ETAGS: Final = {"59adb24ef3cdbe0297f05b395827453f-1": "d41d8cd98f00b204e9800998ecf8427e-0"}
"""What S3 answers for an upload of one part that holds nothing: as dandi-etag counts it."""


class ContentCheck:
    """Takes the bytes of one key in order; ``evidence`` is what it proves of them (None: another
    hash than the words tell, named by ``how``)."""

    def __init__(
        self,
        digests: Sequence[tuple[Hasher, str]],
        size: int | None,
        algorithm: str,
        evidence: Evidence | None,
    ) -> None:
        self._digests = digests
        self.size = size
        self.algorithm = algorithm
        self.evidence = evidence
        self.bytes_seen = 0

    @property
    def has_digest(self) -> bool:
        """Whether content of the right size can still be found to be wrong."""
        return bool(self._digests)

    def update(self, piece: Piece) -> None:
        """The next bytes."""
        self.bytes_seen += len(piece)
        for digest, _ in self._digests:
            digest.update(piece)

    def mismatch(self) -> str | None:
        """Why what was seen is not the key's content, or None."""
        if self.size is not None and self.bytes_seen != self.size:
            return f"{self.bytes_seen} bytes came, not {self.size}"
        if not self._digests or any(digest.hexdigest() == want for digest, want in self._digests):
            return None
        return f"other bytes came: {self.algorithm} {self._digests[0][0].hexdigest()}"


class EquivalentKeyCheck(ContentCheck):
    """Of a VURL key for which no other is recorded: learns the one to record."""

    def __init__(self, size: int | None) -> None:
        super().__init__((), size, "size", Evidence.NONE if size is None else Evidence.SIZE)
        self._sha256 = hashlib.sha256()

    def update(self, piece: Piece) -> None:
        """The next bytes."""
        super().update(piece)
        self._sha256.update(piece)

    def equivalent_key(self) -> str:
        """The key of the bytes, as git-annex records it for a VURL key."""
        return f"SHA256E-s{self.bytes_seen}--{self._sha256.hexdigest()}"


def is_secure(key: str) -> bool:
    """Whether a key's hash is one that ``annex.securehashesonly`` allows."""
    backend = parse_key(key).backend
    return _hash_name(backend) in _HASHES.keys() - _WEAK


def check_for(key: str, recorded: Sequence[str] = ()) -> ContentCheck | None:
    """The check of a key's content; None where its backend is not known here.

    ``recorded`` are the keys recorded for a VURL key: content is good that is good for one of
    them, as git-annex has it. Raises ValueError for what is no key.
    """
    backend, size, name = parse_key(key)
    if backend in _UNHASHED:
        if backend == "VURL":
            return _recorded_check(size, recorded)
        return ContentCheck((), size, "size", Evidence.NONE if size is None else Evidence.SIZE)
    found = _digest(backend, name)
    if found is None:
        return None
    algorithm = "etag" if backend == "XS3ETAG" else _hash_name(backend).lower()
    evidence = Evidence.ETAG if algorithm == "etag" else _EVIDENCE.get(algorithm.upper())
    return ContentCheck([found], size, algorithm, evidence)


def _recorded_check(size: int | None, recorded: Sequence[str]) -> ContentCheck | None:
    if not recorded:
        return EquivalentKeyCheck(size)
    digests = []
    for other in recorded:
        backend, _, name = parse_key(other)
        found = _digest(backend, name)
        if found is None:
            return None
        digests.append(found)
    hashes = {_hash_name(parse_key(other).backend) for other in recorded}
    algorithm = hashes.pop() if len(hashes) == 1 else ""
    return ContentCheck(digests, size, algorithm.lower() or "hash", _EVIDENCE.get(algorithm))


def _digest(backend: str, name: str) -> tuple[Hasher, str] | None:
    """What makes the digest of a backend's content, and what it has to be."""
    if backend == "XS3ETAG":
        etag, dash, part_size = name.rpartition("-")
        if not dash or not part_size.isdecimal() or not int(part_size):
            return None
        return EtagDigest(int(part_size)), _EMPTY_ETAGS.get(etag, etag)
    make = _HASHES.get(_hash_name(backend))
    if make is None:
        return None
    return make(), name.partition(".")[0] if backend.endswith("E") else name


def _hash_name(backend: str) -> str:
    return backend.removesuffix("E")
