"""Pieces that are on this machine, in the cache or in a clone: verified like all others."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from neuromirror.cache import CachedContent, ContentName, PieceCache
from neuromirror.lab.lock_manifests import ListedFile
from neuromirror.stream.piece_checks import PieceCheck
from neuromirror.stream.trees import content_checksum
from neuromirror.transfer.key_checksums import cache_name


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
