"""Read pieces of a content by range requests, from the first location that has the right bytes."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final, cast

from neuromirror.annex import strip_claim_prefix
from neuromirror.cache import PieceCache
from neuromirror.lab.lock_manifests import ListedFile
from neuromirror.model import BlockDigests, BlockHasher, NeuromirrorError
from neuromirror.net import (
    CredentialsError,
    HttpError,
    IncompleteResponseError,
    NetError,
    NotFoundError,
    RequestLimits,
    RequestTimeoutError,
)
from neuromirror.stream.errors import (
    ContentGoneError,
    CopyUnreadableError,
    DamagedCopyError,
    LocationsFailedError,
    StreamError,
    WrongBytesError,
)
from neuromirror.stream.git_tree import AccessRules
from neuromirror.stream.pieces import NoCheck, PieceCheck, StoredPieces, WholeCheck, content_name
from neuromirror.transfer.content_bodies import (
    BLOCK_LIMITS,
    ContentBodies,
    ContentMismatchError,
    FetchConnections,
)
from neuromirror.transfer.outcomes import displayed_url
from neuromirror.transfer.url_sessions import SCHEME, MalformedS3UrlError, host_tokens, no_token

STREAM_LIMITS: Final = RequestLimits(attempts=3, wait=0.5, read=30.0, per_host=16)
"""Limits of requests: a reader waits less long than a download does."""

PARALLEL: Final = 8
"""Maximum number of concurrent requests of one transport."""

_RETRY_SECONDS: Final = 30.0
"""Seconds after which a service of blocks that failed is requested again."""

_MIN_BYTES_PER_SECOND: Final = 1 << 14
"""Rate below which a server counts as stalled."""


class Transport:
    """Reads ranges of contents over persistent connections. Thread-safe.

    Parameters
    ----------
    access
        The rules for requests.
    limits, block_limits
        Timeouts, retries and concurrency limits; ``block_limits`` for blocks of volumes.
    has_credentials
        Whether tokens, configured headers and signatures are sent. If not, ``s3://`` URLs are
        refused.
    seconds
        Seconds from now after which all requests fail; None for no limit.
    parallel
        Maximum number of concurrent requests.
    """

    def __init__(
        self,
        access: AccessRules,
        *,
        limits: RequestLimits = STREAM_LIMITS,
        block_limits: RequestLimits = BLOCK_LIMITS,
        has_credentials: bool = True,
        seconds: float | None = None,
        parallel: int = PARALLEL,
    ) -> None:
        settings = access.settings
        self._limits = limits
        self._has_credentials = has_credentials
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._bodies = ContentBodies(
            *(settings, limits, block_limits),
            headers=settings.headers if has_credentials else {},
            allowed_hosts=access.allowed_hosts,
            vaults=access.vaults,
            host_token=host_tokens(settings) if has_credentials else no_token,
            has_credentials=has_credentials,
            retry_after=_RETRY_SECONDS,
            deadline=self._deadline,
        )
        self._lock = threading.Lock()
        self._idle: list[FetchConnections] = []
        self._busy: set[FetchConnections] = set()
        self._closed = False
        self.pool = ThreadPoolExecutor(parallel, thread_name_prefix="neuromirror-stream")

    @contextmanager
    def open(
        self, url: str, key: str, size: int | None, start: int = 0, stop: int | None = None
    ) -> Generator[Generator[memoryview, None, None], None, None]:
        """Open a range of a content.

        Parameters
        ----------
        url, key, size
            The location, and the key and size in bytes of its content.
        start, stop
            Offsets of the first byte, and after the last byte; None for the end.

        Yields
        ------
        Generator[memoryview, None, None]
            The bytes of exactly this range, in parts. Copy a part before you take the next one,
            which reuses its memory.

        Raises
        ------
        NetError
            A request failed, or the response ended early.
        ContentMismatchError
            The location has too few bytes, sent another range than requested, or needs credentials
            that are not used.
        """
        if url.startswith(f"{SCHEME}:") and not self._has_credentials:
            raise ContentMismatchError("it needs credentials, which are not used here")
        connections = self._check_out(url)
        try:
            total = self._seconds_for((stop if stop is not None else size or 0) - start)
            with self._bodies.open(
                connections, url, key, size, start=start, stop=stop, total=total
            ) as body:
                expected = None if stop is None else stop - start
                yield _exactly(body.chunks, start - body.start, expected)
        finally:
            self._check_in(connections)

    def close(self) -> None:
        """Cancel the requests in progress; all later ones fail."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            busy = list(self._busy)
        for connections in busy:
            connections.abort()
        self.pool.shutdown(wait=False, cancel_futures=True)
        for connections in idle:
            connections.close()
        self._bodies.close()

    @property
    def is_over(self) -> bool:
        """Whether the transport was closed, or its time is over."""
        return self._closed or (self._deadline is not None and time.monotonic() > self._deadline)

    def _seconds_for(self, count: int) -> float:
        seconds = self._limits.read + max(count, 0) / _MIN_BYTES_PER_SECOND
        if self._deadline is None:
            return seconds
        return max(0.001, min(seconds, self._deadline - time.monotonic()))

    def _check_out(self, url: str) -> FetchConnections:
        """Return connections for the calling thread; the most recently used ones are open."""
        with self._lock:
            if self._closed:
                raise IncompleteResponseError("the file was closed", url=url)
            if self._deadline is not None and time.monotonic() > self._deadline:
                raise RequestTimeoutError("the time for this request is over", url=url)
            found = self._idle.pop() if self._idle else self._bodies.new_connections()
            self._busy.add(found)
        return found

    def _check_in(self, connections: FetchConnections) -> None:
        with self._lock:
            self._busy.discard(connections)
            if not self._closed:
                self._idle.append(connections)
                return
        connections.close()


def _exactly(
    chunks: Iterator[memoryview], skip: int, count: int | None
) -> Generator[memoryview, None, None]:
    """Yield ``count`` bytes after the first ``skip``; None for all."""
    if skip < 0:
        raise ContentMismatchError("the server sent another range than requested")
    for chunk in chunks:
        part = chunk[skip:]
        skip = max(0, skip - len(chunk))
        if count is not None:
            part = part[:count]
            count -= len(part)
        if len(part):
            yield part
        if count == 0:
            return
    if count or skip:
        raise ContentMismatchError("the location has fewer bytes than the version")


MAX_IDLE_ATTEMPTS: Final = 3
"""Consecutive attempts at one location that may be cut off without a new byte."""

_PAUSE: Final = 0.2
"""Seconds to wait after a response was cut off without a new byte."""

FAILURES: Final = (
    *(NetError, CredentialsError, MalformedS3UrlError, ContentMismatchError, CopyUnreadableError),
)
"""Errors of one location, after which the next one is tried."""

Piece = tuple[int, bytearray]
"""The number of a piece, and its bytes."""


class PieceReader:
    """Reads pieces of one content, verified, from any of its locations. Thread-safe.

    Parameters
    ----------
    file
        The file, with its locations.
    check
        Verifies its pieces.
    transport
        Requests them.
    version
        The name of the version, for messages.
    stored
        The pieces on this machine, which are tried first, and to which others are written.
    """

    def __init__(
        self,
        file: ListedFile,
        check: PieceCheck,
        transport: Transport,
        version: str,
        stored: StoredPieces,
    ) -> None:
        self._stored = stored
        self._file = file
        self._check = check
        self._transport = transport
        self._version = version
        self._lock = threading.Lock()
        self._urls = [*dict.fromkeys(strip_claim_prefix(url) for url in file.urls)]

    def read(self, run: range) -> Iterator[Piece]:
        """Yield pieces, each as soon as it is verified: those on this machine first.

        Parameters
        ----------
        run
            The consecutive numbers of the pieces.

        Yields
        ------
        Piece
            The number and the bytes of a piece.

        Raises
        ------
        StreamError
            No location has the right bytes.
        """
        missing: list[range] = []
        for number in run:
            piece = self._stored.read(number)
            if piece is not None:
                yield number, piece
            elif missing and missing[-1].stop == number:
                missing[-1] = range(missing[-1].start, number + 1)
            else:
                missing.append(range(number, number + 1))
        for some in missing:
            for number, piece in self._download(some):
                yield number, piece
                self._stored.write(number, piece)

    def _download(self, run: range) -> Iterator[Piece]:
        failures: list[tuple[str, NeuromirrorError]] = []
        for url in self.locations():
            try:
                for number, piece in self._read_from(url, run):
                    run = range(number + 1, run.stop)
                    yield number, piece
                return
            except FAILURES as error:
                failures.append((url, error))
                self._demote(url)
        raise self.error(run.start, failures)

    def locations(self) -> Sequence[str]:
        """Return the URLs, in the order in which to try them.

        Returns
        -------
        Sequence[str]
            The URLs.
        """
        with self._lock:
            return list(self._urls)

    def _demote(self, url: str) -> None:
        """Try a location last from now on, because it failed."""
        with self._lock:
            self._urls.remove(url)
            self._urls.append(url)

    def _read_from(self, url: str, run: range) -> Iterator[Piece]:
        """Yield pieces from one location; a response that is cut off is resumed."""
        unfinished = _UnfinishedPiece(self._check, run.start)
        idle = 0
        while unfinished.number < run.stop:
            before = unfinished.resume()
            try:
                with closing(self._receive(url, unfinished, run.stop)) as pieces:
                    for piece in pieces:
                        if not self._check.is_piece(piece[0], piece[1]):
                            raise _WrongPieceError(piece[0])
                        yield piece
            except (IncompleteResponseError, RequestTimeoutError):
                idle = 0 if unfinished.position > before else idle + 1
                # a request without a reply was repeated by the session
                if idle == MAX_IDLE_ATTEMPTS or not unfinished.has_reply:
                    raise
                if idle:
                    time.sleep(_PAUSE)
            except _WrongPieceError as error:
                # the bytes before an interruption may be those of another response
                if unfinished.is_resumed(error.number):
                    unfinished = _UnfinishedPiece(self._check, error.number)
                    continue
                raise ContentMismatchError("its bytes differ from those of the version") from None

    def _receive(
        self, url: str, unfinished: _UnfinishedPiece, stop: int
    ) -> Generator[Piece, None, None]:
        end = min(stop * self._check.piece_size, self._check.size)
        key = self._file.key
        with self._transport.open(url, key, self._check.size, unfinished.position, end) as chunks:
            unfinished.has_reply = True
            for chunk in chunks:
                yield from unfinished.add(chunk)

    def error(self, piece: int, failures: Sequence[tuple[str, NeuromirrorError]]) -> StreamError:
        """Return, without raising it, the error for a piece that no location has.

        Parameters
        ----------
        piece
            The number of the piece.
        failures
            Each location, and why it failed.

        Returns
        -------
        StreamError
            The error.
        """
        path, where = self._file.path, f"{self._version}: {self._file.path}"
        causes = [error for _, error in failures]
        texts = "; ".join(_describe(url, error) for url, error in failures)
        wrong = [url for url, error in failures if isinstance(error, ContentMismatchError)]
        if wrong:
            start = piece * self._check.piece_size
            stop = min(start + self._check.piece_size, self._check.size)
            return WrongBytesError(
                f"{where}: no location has the bytes {start} to {stop - 1} of its "
                f"{self._check.basis}: {texts}",
                path,
                displayed_url(wrong[0]),
                start,
                stop,
                causes,
            )
        if not failures:
            return ContentGoneError(
                f"{where}: no location of its content is known; 'neuromirror sync' may find one",
                path,
            )
        if all(_is_gone(error) for error in causes):
            return ContentGoneError(f"{where}: its content no longer exists: {texts}", path, causes)
        return LocationsFailedError(f"{where}: no location returned it: {texts}", path, causes)


class _WrongPieceError(Exception):
    def __init__(self, number: int) -> None:
        self.number = number


class _UnfinishedPiece:
    """The piece that is being received, from one response or several."""

    def __init__(self, check: PieceCheck, number: int) -> None:
        self._check = check
        self.number = number
        self._filled = 0
        self._resumed = -1
        self.has_reply = False
        self._buffer = bytearray(self._length)

    @property
    def _length(self) -> int:
        size = self._check.piece_size
        return max(0, min(size, self._check.size - self.number * size))

    @property
    def position(self) -> int:
        """The offset of the next byte."""
        return self.number * self._check.piece_size + self._filled

    def resume(self) -> int:
        """Prepare for another response; bytes before an interruption are kept.

        Returns
        -------
        int
            The offset of the next byte.
        """
        self.has_reply = False
        if self._filled:
            self._resumed = self.number
        return self.position

    def is_resumed(self, number: int) -> bool:
        """Return whether a piece is from several responses."""
        return number == self._resumed

    def add(self, chunk: memoryview) -> Iterator[Piece]:
        """Add bytes; yield the pieces that they complete."""
        while len(chunk):
            taken = min(len(chunk), self._length - self._filled)
            self._buffer[self._filled : self._filled + taken] = chunk[:taken]
            self._filled += taken
            chunk = chunk[taken:]
            if self._filled == self._length:
                done = self.number, self._buffer
                self.number += 1
                self._filled, self._buffer = 0, bytearray(self._length)
                yield done


def _is_gone(error: NeuromirrorError) -> bool:
    return isinstance(error, NotFoundError) or (
        isinstance(error, HttpError) and error.fields.get("Code") == "NoSuchVersion"
    )


def _describe(url: str, error: NeuromirrorError) -> str:
    text, shown = str(error), displayed_url(url)
    return text if shown in text else f"{shown}: {text}"


# --- read a content that can only be verified as a whole: it is downloaded before the first read


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
        self.check = NoCheck(check.size, _PIECE, is_verified=True, basis=check.basis)
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

    def copy_to(self, new_file: Callable[[], BinaryIO]) -> BinaryIO:
        """Return a new file with the content, from the local copy or one of the locations.

        Parameters
        ----------
        new_file
            Returns the file to write to; called for each attempt. The bytes are verified when this
            method returns, not before.

        Raises
        ------
        StreamError
            No location has the right bytes.
        """
        failures: list[tuple[str, NeuromirrorError]] = []
        copies = [] if self._local is None else [self._local]
        locations: list[Path | str] = [*copies, *self._pieces.locations()]
        for location in locations:
            file, hashing = new_file(), _WholeHashing(self._whole_check)
            try:
                if isinstance(location, Path):
                    for block in _read_copy(location):
                        file.write(block)
                        hashing.update(block)
                    if not hashing.is_right():
                        raise DamagedCopyError(str(location))
                    file.flush()
                else:
                    self._receive(location, file, hashing)
            except FAILURES as error:
                failures.append((str(location), error))
            else:
                return file
            file.close()
        raise self._pieces.error(0, failures)

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
        pieces = BlockHasher(_PIECE)
        hashing, left = _WholeHashing(self._whole_check, pieces), self.check.size
        file.seek(0)
        while left and (block := file.read(min(_PIECE, left))):
            hashing.update(block)
            left -= len(block)
        self._digests = pieces.finish("")
        return hashing.is_right()

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
                    self._receive_pieces(url, cached)
                    return os.fdopen(os.dup(cached.fileno()), "rb")
            except OSError:
                self._cache = None  # a full disk, or no permission: read without the cache
        try:
            with ExitStack() as stack:
                made = stack.enter_context(tempfile.TemporaryFile(prefix="neuromirror-"))
                file = cast(BinaryIO, made)
                self._receive_pieces(url, file)
                stack.pop_all()
                return file
        except OSError as error:
            raise StreamError(
                f"{self._file.path}: its {self.check.size} bytes cannot be stored in "
                f"{tempfile.gettempdir()}: {error.strerror or error}; set TMPDIR or "
                "NEUROMIRROR_CACHE to a folder with enough space",
                self._file.path,
            ) from error

    def _receive_pieces(self, url: str, file: BinaryIO) -> None:
        pieces = BlockHasher(_PIECE)
        self._receive(url, file, _WholeHashing(self._whole_check, pieces))
        self._digests = pieces.finish("")

    def _receive(self, url: str, file: BinaryIO, hashing: _WholeHashing) -> None:
        """Write the content to a file and verify it; a response that is cut off is resumed."""
        position = idle = 0
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
        if not hashing.is_right():
            raise ContentMismatchError("its bytes differ from those of the version")


def _read_copy(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as copy:
            while block := copy.read(_PIECE):
                yield block
    except OSError as error:
        raise CopyUnreadableError(f"{path}: {error.strerror}") from error


class _WholeHashing:
    """Hashes a content as a whole, and its pieces for later reads."""

    def __init__(self, check: WholeCheck, pieces: BlockHasher | None = None) -> None:
        self._check, self._hasher = check, check.checksum.hasher()
        self._pieces = pieces
        self._count = 0

    def update(self, data: bytes | memoryview) -> None:
        for one in (self._hasher, self._pieces):
            if one is not None:
                one.update(data)
        self._count += len(data)

    def is_right(self) -> bool:
        """Return whether the bytes are the content."""
        return self._count == self._check.size and (
            self._hasher is None
            or self._check.checksum.matches(self._hasher.hexdigest(), self._count)
        )
