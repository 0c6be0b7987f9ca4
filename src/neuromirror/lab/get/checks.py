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


class Digest(Protocol):
    """What :mod:`hashlib` gives."""

    def update(self, data: Piece, /) -> None:
        """Takes more."""

    def hexdigest(self) -> str:
        """The digest of all so far."""


_HASHES: Final[dict[str, Callable[[], Digest]]] = {
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
_NO_BYTES: Final = {"59adb24ef3cdbe0297f05b395827453f-1": "d41d8cd98f00b204e9800998ecf8427e-0"}
"""What S3 answers for an upload of one part that holds nothing: as dandi-etag counts it."""


class Check:
    """Takes the bytes of one key in order; ``evidence`` is what it proves of them (None: another
    hash than the words tell, named by ``how``)."""

    def __init__(
        self,
        digests: Sequence[tuple[Digest, str]],
        size: int | None,
        how: str,
        evidence: Evidence | None,
    ) -> None:
        self._digests = digests
        self.size = size
        self.how = how
        self.evidence = evidence
        self.seen = 0

    @property
    def hashes(self) -> bool:
        """Whether content of the right size can still be found to be wrong."""
        return bool(self._digests)

    def update(self, piece: Piece) -> None:
        """The next bytes."""
        self.seen += len(piece)
        for digest, _ in self._digests:
            digest.update(piece)

    def fault(self) -> str | None:
        """Why what was seen is not the key's content, or None."""
        if self.size is not None and self.seen != self.size:
            return f"{self.seen} bytes came, not {self.size}"
        if not self._digests or any(digest.hexdigest() == want for digest, want in self._digests):
            return None
        return f"other bytes came: {self.how} {self._digests[0][0].hexdigest()}"


class LearningCheck(Check):
    """Of a VURL key for which no other is recorded: learns the one to record."""

    def __init__(self, size: int | None) -> None:
        super().__init__((), size, "size", Evidence.NONE if size is None else Evidence.SIZE)
        self._learnt = hashlib.sha256()

    def update(self, piece: Piece) -> None:
        """The next bytes."""
        super().update(piece)
        self._learnt.update(piece)

    def learnt(self) -> str:
        """The key of the bytes, as git-annex records it for a VURL key."""
        return f"SHA256E-s{self.seen}--{self._learnt.hexdigest()}"


def is_secure(key: str) -> bool:
    """Whether a key's hash is one that ``annex.securehashesonly`` allows."""
    backend = parse_key(key).backend
    return _hash_name(backend) in _HASHES.keys() - _WEAK


def check_for(key: str, recorded: Sequence[str] = ()) -> Check | None:
    """The check of a key's content; None where its backend is not known here.

    ``recorded`` are the keys recorded for a VURL key: content is good that is good for one of
    them, as git-annex has it. Raises ValueError for what is no key.
    """
    backend, size, name = parse_key(key)
    if backend in _UNHASHED:
        if backend == "VURL":
            return _recorded_check(size, recorded)
        return Check((), size, "size", Evidence.NONE if size is None else Evidence.SIZE)
    found = _digest(backend, name)
    if found is None:
        return None
    how = "etag" if backend == "XS3ETAG" else _hash_name(backend).lower()
    evidence = Evidence.ETAG if how == "etag" else _EVIDENCE.get(how.upper())
    return Check([found], size, how, evidence)


def _recorded_check(size: int | None, recorded: Sequence[str]) -> Check | None:
    if not recorded:
        return LearningCheck(size)
    digests = []
    for other in recorded:
        backend, _, name = parse_key(other)
        found = _digest(backend, name)
        if found is None:
            return None
        digests.append(found)
    hashes = {_hash_name(parse_key(other).backend) for other in recorded}
    how = hashes.pop() if len(hashes) == 1 else ""
    return Check(digests, size, how.lower() or "hash", _EVIDENCE.get(how))


def _digest(backend: str, name: str) -> tuple[Digest, str] | None:
    """What makes the digest of a backend's content, and what it has to be."""
    if backend == "XS3ETAG":
        etag, dash, part_size = name.rpartition("-")
        if not dash or not part_size.isdecimal() or not int(part_size):
            return None
        return EtagDigest(int(part_size)), _NO_BYTES.get(etag, etag)
    make = _HASHES.get(_hash_name(backend))
    if make is None:
        return None
    return make(), name.partition(".")[0] if backend.endswith("E") else name


def _hash_name(backend: str) -> str:
    return backend.removesuffix("E")
