"""Read a content that can only be verified as a whole: it is downloaded before the first read."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO, Final, cast

from neuromirror.cache import PieceCache
from neuromirror.lab.lock_manifests import ListedFile
from neuromirror.model import BlockDigests, BlockHasher, NeuromirrorError
from neuromirror.net import IncompleteResponseError, RequestTimeoutError
from neuromirror.stream.errors import StreamError, WrongBytesError
from neuromirror.stream.piece_checks import NoCheck, WholeCheck
from neuromirror.stream.piece_reader import FAILURES, MAX_IDLE_ATTEMPTS, Piece, PieceReader
from neuromirror.stream.stored_pieces import content_name
from neuromirror.stream.transport import Transport
from neuromirror.transfer.content_bodies import ContentMismatchError

_PIECE: Final = 1 << 20


class WholeReader:
    """Reads pieces of a content after it was downloaded and verified as a whole. Thread-safe.

    Parameters
    ----------
    file
        The file, with its locations.
    check
        Verifies the content.
    transport
        Requests it.
    pieces
        The reader of the same file, which knows in which order to try its locations.
    cache
        The cache, which gets the content; without, it is in a temporary file.
    local
        The path of a local copy, whose bytes are not trusted; None for none.
    """

    def __init__(
        self,
        file: ListedFile,
        check: WholeCheck,
        transport: Transport,
        pieces: PieceReader,
        cache: PieceCache | None,
        local: Path | None,
    ) -> None:
        self.check = NoCheck(check.size, _PIECE, is_verified=True)
        self._file, self._whole_check = file, check
        self._transport = transport
        self._pieces = pieces
        self._cache = cache
        self._local = local
        name = content_name(file)
        self._cached = None if cache is None or name is None else cache.content(name)
        self._lock = threading.Lock()
        self._content: BinaryIO | None = None
        self._digests: BlockDigests | None = None

    def read(self, run: range) -> Iterator[Piece]:
        """Yield consecutive pieces; the first call downloads the content.

        Parameters
        ----------
        run
            The numbers of the pieces.

        Yields
        ------
        Piece
            The number and the bytes of a piece.

        Raises
        ------
        StreamError
            No location has the right bytes.
        """
        with self._lock:
            if self._content is None:
                self._content = self._stored() or self._download()
        assert self._digests is not None
        for number in run:
            start = number * _PIECE
            piece = bytearray(min(_PIECE, self.check.size - start))
            os.preadv(self._content.fileno(), [piece], start)
            # another program may have changed the file since it was verified
            if not self._digests.is_piece(number, piece):
                raise WrongBytesError(
                    f"{self._file.path}: its content on this machine was changed after it was "
                    "verified; open it again",
                    self._file.path,
                    str(self._local or ""),
                    start,
                    start + len(piece),
                )
            yield number, piece

    def _stored(self) -> BinaryIO | None:
        """Return the content from this machine, verified; None if it is not there."""
        cached = self._cached
        descriptor = None if cached is None else cached.open_whole()
        if descriptor is not None:
            file: BinaryIO = os.fdopen(descriptor, "rb")
            if self._is_right(file):
                return file
            file.close()
            assert cached is not None
            cached.discard(0, self.check.size)
        if self._local is not None:
            with suppress(OSError):
                file = self._local.open("rb")
                if self._is_right(file):
                    return file
                file.close()
        return None

    def _is_right(self, file: BinaryIO) -> bool:
        hashing, left = _WholeHashing(self._whole_check), self.check.size
        file.seek(0)
        while left and (block := file.read(min(_PIECE, left))):
            hashing.update(block)
            left -= len(block)
        self._digests = hashing.finish()
        return self._digests is not None

    def _download(self) -> BinaryIO:
        failures: list[tuple[str, NeuromirrorError]] = []
        for url in self._pieces.locations():
            try:
                return self._download_from(url)
            except FAILURES as error:
                failures.append((url, error))
        raise self._pieces.error(0, failures)

    def _download_from(self, url: str) -> BinaryIO:
        name = content_name(self._file)
        if self._cache is not None and name is not None and self._cache.accepts(name.size):
            try:
                with self._cache.new_content(name) as cached:
                    self._receive(url, cached)
                    return os.fdopen(os.dup(cached.fileno()), "rb")
            except OSError:
                self._cache = None  # a full disk, or no permission: read without the cache
        try:
            with ExitStack() as stack:
                made = stack.enter_context(tempfile.TemporaryFile(prefix="neuromirror-"))
                file = cast(BinaryIO, made)
                self._receive(url, file)
                stack.pop_all()
                return file
        except OSError as error:
            raise StreamError(
                f"{self._file.path}: its {self.check.size} bytes cannot be stored in "
                f"{tempfile.gettempdir()}: {error.strerror or error}; set TMPDIR or "
                "NEUROMIRROR_CACHE to a folder with enough space",
                self._file.path,
            ) from error

    def _receive(self, url: str, file: BinaryIO) -> None:
        """Write the content to a file and verify it; a response that is cut off is resumed."""
        hashing, position, idle = _WholeHashing(self._whole_check), 0, 0
        size = self.check.size
        while position < size:
            before = position
            try:
                with self._transport.open(url, self._file.key, size, position, size) as chunks:
                    for chunk in chunks:
                        file.write(chunk)
                        hashing.update(chunk)
                        position += len(chunk)
            except (IncompleteResponseError, RequestTimeoutError):
                idle = 0 if position > before else idle + 1
                if idle == MAX_IDLE_ATTEMPTS:
                    raise
        file.flush()
        self._digests = hashing.finish()
        if self._digests is None:
            raise ContentMismatchError("its bytes differ from those of the version")


class _WholeHashing:
    """Hashes a content as a whole, and its pieces for later reads."""

    def __init__(self, check: WholeCheck) -> None:
        hasher = check.checksum.hasher()
        assert hasher is not None
        self._check, self._hasher = check, hasher
        self._pieces = BlockHasher(_PIECE)
        self._count = 0

    def update(self, data: bytes | memoryview) -> None:
        self._hasher.update(data)
        self._pieces.update(data)
        self._count += len(data)

    def finish(self) -> BlockDigests | None:
        """Return the digests of the pieces; None if the content is wrong."""
        if self._count != self._check.size or not self._check.checksum.matches(
            self._hasher.hexdigest(), self._count
        ):
            return None
        return self._pieces.finish("")
