"""How the pieces of a content are verified: by block digests, by its parts, or as a whole."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal, Protocol

from msgspec import Struct

from neuromirror.cache import CachedContent, ContentName, PieceCache
from neuromirror.lab.lock_manifests import ListedFile
from neuromirror.model import BlockDigests
from neuromirror.stream.errors import UnverifiableError
from neuromirror.stream.git_tree import content_checksum
from neuromirror.transfer.content_bodies import KeyChecksum, cache_name

Verify = Literal["require", "whole-objects", "off"]
"""``require``: unverifiable reads are errors. ``whole-objects``: a content without block digests is
downloaded and verified as a whole before the first byte is returned. ``off``: no verification."""

MAX_WHOLE: Final = 64 << 20
"""Maximum size in bytes of a content that is downloaded as a whole to read a part of it."""

_UNVERIFIED_PIECE: Final = 1 << 18
_MD5_BYTES: Final = 16

Data = bytes | bytearray | memoryview


class PieceCheck(Protocol):
    """Verifies the pieces of one content."""

    @property
    def size(self) -> int:
        """Size of the content in bytes."""

    @property
    def piece_size(self) -> int:
        """Size of a piece in bytes; the last one may be shorter."""

    @property
    def is_verified(self) -> bool:
        """Whether :meth:`is_piece` detects wrong bytes, or they were verified before."""

    @property
    def basis(self) -> str:
        """What the verification relies on, for messages."""

    def is_piece(self, piece: int, data: Data) -> bool:
        """Return whether bytes are those of a piece.

        Parameters
        ----------
        piece
            The number of the piece.
        data
            As many bytes as the piece has.
        """


class LayerCheck(Struct, frozen=True):
    """Verifies the pieces of a content with its block digests.

    Attributes
    ----------
    digests
        The block digests.
    is_verified
        True: wrong bytes are recognized.
    """

    digests: BlockDigests
    is_verified: bool = True

    @property
    def size(self) -> int:
        """Size of the content in bytes."""
        return self.digests.size

    @property
    def piece_size(self) -> int:
        """Size of a piece in bytes."""
        return self.digests.piece_size

    @property
    def basis(self) -> str:
        """Block digests, and who claims them unless they were computed here."""
        claim = f", which {self.digests.sender} claims" if self.digests.sender else ""
        return f"block digests{claim}"

    def is_piece(self, piece: int, data: Data) -> bool:
        """Return whether bytes are those of a piece."""
        return self.digests.is_piece(piece, data)


class PartCheck(Struct, frozen=True):
    """Verifies the parts of an upload as pieces, with their MD5s, from which its ETag is computed.

    Attributes
    ----------
    size
        Size of the content in bytes.
    piece_size
        Size of a part in bytes.
    md5s
        The MD5s of the parts, 16 bytes each.
    is_verified
        True: wrong bytes are recognized.
    basis
        What the verification relies on.
    """

    size: int
    piece_size: int
    md5s: bytes
    is_verified: bool = True
    basis: str = "the MD5s of the parts in its ETag"

    def is_piece(self, piece: int, data: Data) -> bool:
        """Return whether bytes are those of a part."""
        start = piece * _MD5_BYTES
        found = hashlib.md5(data, usedforsecurity=False).digest()
        return found == self.md5s[start : start + _MD5_BYTES]


class WholeCheck(Struct, frozen=True):
    """Verifies a content as one piece, with the checksum of the whole.

    Attributes
    ----------
    checksum
        The checksum.
    size
        Size of the content in bytes.
    is_verified
        True: wrong bytes are recognized.
    """

    checksum: KeyChecksum
    size: int
    is_verified: bool = True

    @property
    def piece_size(self) -> int:
        """The size of the content: it is one piece."""
        return max(self.size, 1)

    @property
    def basis(self) -> str:
        """The checksum of the whole content."""
        return self.checksum.algorithm

    def is_piece(self, piece: int, data: Data) -> bool:
        """Return whether bytes are the content."""
        hasher = self.checksum.hasher()
        assert hasher is not None
        hasher.update(data)
        return self.checksum.matches(hasher.hexdigest(), len(data))


class NoCheck(Struct, frozen=True):
    """Accepts any bytes: for reads without verification, or of a content that was verified before.

    Attributes
    ----------
    size
        Size of the content in bytes.
    piece_size
        Size of a piece in bytes.
    is_verified
        True if the bytes were verified before.
    basis
        What that verification relied on.
    """

    size: int
    piece_size: int = _UNVERIFIED_PIECE
    is_verified: bool = False
    basis: str = ""

    def is_piece(self, piece: int, data: Data) -> bool:
        """Return True."""
        return True


def piece_check(
    file: ListedFile, digests: BlockDigests | None, verify: Verify, version: str, command: str
) -> PieceCheck:
    """Return how to verify the pieces of a file.

    Parameters
    ----------
    file
        The file.
    digests
        Its block digests, if there are any. Those that a sender claims are used only where the
        checksum of the key cannot replace them: for contents of more than :data:`MAX_WHOLE`.
    verify
        The mode of verification.
    version, command
        The name of the version, and the command that makes the file verifiable, for messages.

    Returns
    -------
    PieceCheck
        The check.

    Raises
    ------
    UnverifiableError
        No digest is known, or the size is unknown. With ``require`` also if only the digest of the
        whole content is known, and it is larger than :data:`MAX_WHOLE`.
    """
    checksum, size = content_checksum(file), file.size
    if verify == "off":
        if size is None:
            raise UnverifiableError(
                f"{version}: {file.path}: its size is unknown, so parts of it cannot be requested; "
                "download it with 'neuromirror get'",
                file.path,
            )
        return NoCheck(size)
    if digests is not None and _belongs_to(digests, checksum):
        if not digests.sender:
            return LayerCheck(digests)
        if checksum.algorithm == "etag" and 0 < (digests.part_size or 0) <= MAX_WHOLE:
            # the parts give the ETag of the key, which the layer need not do
            return PartCheck(digests.size, digests.part_size or 0, digests.part_md5s)
        if not checksum.algorithm or size is None or size > MAX_WHOLE:
            return LayerCheck(digests)
    if not checksum.algorithm or size is None:
        raise UnverifiableError(
            f"{version}: {file.path}: no digest of its content is known, so it cannot be verified; "
            f'run {command}, or read it without verification with verify="off"',
            file.path,
        )
    if verify == "whole-objects" or size <= MAX_WHOLE:
        return WholeCheck(checksum, size)
    raise UnverifiableError(
        f"{version}: {file.path}: only the digest of the whole content of {size} bytes is known, "
        f'so a part of it cannot be verified; download it first with verify="whole-objects", or '
        f"run: {command}",
        file.path,
    )


def _belongs_to(digests: BlockDigests, checksum: KeyChecksum) -> bool:
    """Return whether block digests are those of a content with this checksum."""
    if checksum.size is not None and digests.size != checksum.size:
        return False
    if checksum.algorithm == "sha256":
        return digests.sha256 == checksum.value
    etag = digests.parts_etag()
    if checksum.algorithm == "etag" and etag is not None:
        return etag == checksum.value and digests.part_size == checksum.part_size
    return True


# --- pieces that are on this machine, in the cache or in a clone: verified like all others


class StoredPieces:
    """The pieces of one content that are on this machine. Thread-safe.

    Parameters
    ----------
    file
        The file.
    check
        Verifies its pieces.
    cache
        The cache; None for none.
    local
        The path of a copy, such as in a clone; None for none.
    """

    def __init__(
        self, file: ListedFile, check: PieceCheck, cache: PieceCache | None, local: Path | None
    ) -> None:
        self._check = check
        self._cache = cache
        self._local = local
        self._cached: CachedContent | None = None
        if cache is not None and check.is_verified and (name := content_name(file)) is not None:
            self._cached = cache.content(name)

    def read(self, number: int) -> bytearray | None:
        """Return a piece from the cache or the copy, verified.

        Parameters
        ----------
        number
            The number of the piece.

        Returns
        -------
        bytearray or None
            The bytes; None if the piece has to be requested.
        """
        start = number * self._check.piece_size
        stop = min(start + self._check.piece_size, self._check.size)
        if self._cached is not None:
            data = self._cached.read(start, stop)
            if data is not None:
                if self._check.is_piece(number, data):
                    return data
                self._cached.discard(start, stop)
        if self._local is not None:
            with suppress(OSError), open(self._local, "rb") as file:
                file.seek(start)
                data = bytearray(file.read(stop - start))
                if len(data) == stop - start and self._check.is_piece(number, data):
                    return data
        return None

    def write(self, number: int, piece: bytearray) -> None:
        """Write a verified piece to the cache.

        Parameters
        ----------
        number
            The number of the piece.
        piece
            Its bytes.
        """
        if self._cached is not None and self._cache is not None:
            self._cache.write(self._cached, number * self._check.piece_size, piece)


def content_name(file: ListedFile) -> ContentName | None:
    """Return the name of a file's content in the cache; None without digest or size.

    Parameters
    ----------
    file
        The file.

    Returns
    -------
    ContentName or None
        The name.
    """
    return cache_name(content_checksum(file))
