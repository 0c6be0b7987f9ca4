"""Fetching of a block's chunk file, with one request or several parallel ones."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from itertools import islice
from math import prod
from typing import Final

from msgspec import Struct, field

from neuromirror.net import (
    AccessDeniedError,
    ContextThreadPool,
    HostCircuitBreaker,
    HttpError,
    IncompleteResponseError,
    NetError,
    ResponseStream,
    RetryAfterTooLongError,
    ServerError,
    Session,
    TooManyRequestsError,
    UnreachableError,
)
from neuromirror.sources.volumes.decode import decode_cutout
from neuromirror.sources.volumes.decode_blosc import can_decode
from neuromirror.sources.volumes.errors import (
    CutoutRefusedError,
    TokenRefusedError,
    WrongVoxelsError,
)
from neuromirror.sources.volumes.requests import (
    BLOSC,
    CutoutRequest,
    Subrequest,
    copy_subrequest,
    cutout_request,
    iter_planes,
    split_block,
    token_probe,
)
from neuromirror.sources.volumes.tokens import token_variable
from neuromirror.sources.volumes.urls import ITEM_SIZES, BlockUrl

PARALLEL: Final = 3
"""Parallel requests per block.

BOSS asks clients to stay below 25 requests; ``git annex get -J8`` runs eight of these processes.
"""

_NO_VOXELS: Final = ("text/", "application/json", "application/blosc", "image/")
"""Content types of replies that have no voxels."""

_SLOWEST: Final = 32 << 10
"""Bytes of voxels per second below which a request fails in the end."""

_ATTEMPTS: Final = 3
"""Attempts after truncated replies; the session itself retries failed requests."""

_NOT_ACCEPTABLE: Final = 406


def fetch_block(
    session: Session,
    url: BlockUrl,
    *,
    size: int | None = None,
    token: str | None = None,
    token_name: str | None = None,
    seconds: float | None = None,
    progress: Callable[[int], None] | None = None,
    breaker: HostCircuitBreaker | None = None,
    parallel: int = 1,
) -> Generator[bytes | memoryview, None, None]:
    """Yield the bytes of a block's chunk file from its service.

    A large block of a BOSS is fetched in parts along BOSS's cuboids, of which a few are held in
    memory. Connections stay open until the last byte, or until the generator is closed.

    Parameters
    ----------
    session
        Sends the requests.
    url
        The block.
    size
        The file's bytes, from its annex key. Together with the URL it determines the type of a
        voxel. None accepts the unsigned integer type that the reply states.
    token
        The token, which is sent only to the URL's host. None for the session's own token, or the
        service's public one.
    token_name
        The origin of the token, for messages; by default the host's environment variable.
    seconds
        Time limit for the block; None for one that depends on its size.
    progress
        Called with the number of bytes so far.
    breaker
        Records failures that affect the whole host, and refuses requests after one.
    parallel
        Number of parallel requests.

    Yields
    ------
    bytes | memoryview
        Bytes of the file, in order.

    Raises
    ------
    CutoutRefusedError, TokenRefusedError, NetError
        If the service refuses a request, or cannot be reached.
    WrongVoxelsError
        If the reply has other voxels. Bytes that were already yielded are useless then.
    MalformedUrlError
        If no file of this block has the size.
    """
    dtype = url.dtype if size is None else url.voxel_type(size)
    if seconds is None:
        voxels = prod(url.shape) * (8 if dtype is None else ITEM_SIZES[dtype])
        seconds = session.limits.read + session.limits.total + voxels / _SLOWEST
    deadline = time.monotonic() + seconds
    service = _Service(session, url, token, token_name, deadline, breaker or HostCircuitBreaker())
    parts = split_block(url, dtype)
    pieces: Generator[bytes | memoryview, None, None]
    if dtype is None or len(parts) == 1:
        pieces = service.pieces(url, dtype)
    else:
        pieces = _assemble(service, url, parts, dtype, parallel)
    done = 0
    with closing(pieces):
        for piece in pieces:
            yield piece
            done += len(piece)
            if progress is not None:
                progress(done)


class _Service(Struct, frozen=True):
    """Sends the requests for one block.

    ``deadline`` is a time of the monotonic clock; ``stop`` is set once the block is not needed.
    """

    session: Session
    block: BlockUrl
    token: str | None
    token_name: str | None
    deadline: float
    breaker: HostCircuitBreaker
    stop: threading.Event = field(default_factory=threading.Event)

    def pieces(self, url: BlockUrl, dtype: str | None) -> Generator[bytes | memoryview, None, None]:
        """Yield the chunk file of ``url``: the block, or a part of it."""
        where = str(self.block)
        with self._reply(url, blosc=dtype is not None and can_decode()) as (request, reply):
            kind = reply.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            encoding = "blosc" if kind == BLOSC and BLOSC in request.accepted else request.encoding
            if encoding != "blosc" and kind.startswith(_NO_VOXELS):
                raise WrongVoxelsError(
                    f"{where} returned {kind[:80]!r} instead of voxels", transient=True
                )
            chunks = self._until_stopped(reply.chunks)
            yield from decode_cutout(chunks, encoding, url.box, url.chunk, dtype, where=where)

    def fetch_subrequest(self, subrequest: Subrequest, dtype: str) -> memoryview:
        """Return the voxels of a part; repeat the request after a truncated reply."""
        for left in reversed(range(_ATTEMPTS)):
            try:
                pieces = list(self.pieces(subrequest.url, dtype))
            except (IncompleteResponseError, WrongVoxelsError) as error:
                if not left or self.stop.is_set():
                    error.transient = False
                if not error.transient:
                    raise
            else:
                return memoryview(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        raise AssertionError("the last attempt returns or raises")

    def _until_stopped(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            if self.stop.is_set():
                raise IncompleteResponseError(f"{self.block}: the request was cancelled")
            yield chunk

    @contextmanager
    def _reply(
        self, url: BlockUrl, *, blosc: bool
    ) -> Iterator[tuple[CutoutRequest, ResponseStream]]:
        """Open the reply for a block or part, if the circuit breaker allows the request."""
        request = cutout_request(url, self.token, blosc=blosc)
        with self.breaker.attempt(request.address) as answered:
            try:
                with self._open(request) as reply:
                    answered()
                    yield request, reply
                    return
            except HttpError as error:
                if not (blosc and error.status == _NOT_ACCEPTABLE):
                    raise self._failure_of(request, error) from error
            except UnreachableError as error:
                if not isinstance(error, IncompleteResponseError):
                    self.breaker.record_failure(request.address, error, decisive=True)
                raise
            answered()
        request = cutout_request(url, self.token)
        try:
            with self._open(request) as reply:
                yield request, reply
        except HttpError as error:
            raise self._failure_of(request, error) from error

    @contextmanager
    def _open(self, request: CutoutRequest) -> Iterator[ResponseStream]:
        """Open the reply to a request, with retries.

        BOSS returns 500 for an unknown token, so the token is checked before a retry.
        """
        attempts = 1 if request.secret else None
        opened = False
        try:
            with self._stream(request, attempts) as reply:
                opened = True
                yield reply
                return
        except (ServerError, TooManyRequestsError, UnreachableError) as error:
            if opened or attempts is None:
                raise
            if error.status == 500:
                self._try_token()
            wait = getattr(error, "retry_after", None) or self.session.limits.wait
            self.stop.wait(wait)
        with self._stream(request, None) as reply:
            yield reply

    @contextmanager
    def _stream(self, request: CutoutRequest, attempts: int | None) -> Iterator[ResponseStream]:
        with self.session.stream(
            request.address,
            total=max(self.deadline - time.monotonic(), 0.001),
            headers=request.headers,
            redirects=0 if request.secret else None,
            attempts=attempts,
        ) as reply:
            yield reply

    def _try_token(self) -> None:
        """Raise AccessDeniedError if the service refuses the token itself."""
        probe = token_probe(self.block, self.token)
        if probe is None:
            return
        try:
            with self._stream(probe, 1):
                pass
        except AccessDeniedError:
            raise
        except NetError:
            return

    def _failure_of(self, request: CutoutRequest, error: HttpError) -> NetError:
        """Return the error to raise for a failed request, and record it in the circuit breaker."""
        scheme, block, host = self.block.scheme, str(self.block), self.block.host
        failed: NetError
        if isinstance(error, AccessDeniedError) and request.secret:
            failed = TokenRefusedError(host, self.token_name or token_variable(host), error)
        elif isinstance(error, AccessDeniedError) and self.token_name is not None:
            hint = f"a token may be set in {self.token_name}"
            failed = CutoutRefusedError(scheme, block, error, hint)
        elif isinstance(error, RetryAfterTooLongError):
            failed = error
        else:
            failed = CutoutRefusedError(scheme, block, error)
        breaker, address = self.breaker, request.address
        if isinstance(error, ServerError) and error.status == 500:
            # possibly only this block
            breaker.record_failure(address, failed)
        elif isinstance(
            error, AccessDeniedError | RetryAfterTooLongError | ServerError | TooManyRequestsError
        ):
            breaker.record_failure(address, failed, decisive=True)
        else:
            breaker.record_success(address)
        return failed


def _assemble(
    service: _Service, url: BlockUrl, parts: list[Subrequest], dtype: str, parallel: int
) -> Generator[bytes | memoryview, None, None]:
    """Yield a block slab by slab, from its parts."""
    wide, high, deep = url.chunk
    item = ITEM_SIZES[dtype]
    waiting: deque[tuple[Subrequest, Future[memoryview]]] = deque()
    rest = iter(parts)
    # parts as wide as the block need not be copied into a slab
    uncopied = url.shape[1:] == (high, wide) and all(part.url.shape[2] == wide for part in parts)
    arrived: list[tuple[Subrequest, memoryview]] = []
    slab = bytearray()
    pool = ContextThreadPool(parallel, thread_name_prefix="volume-part")
    try:
        while True:
            for part in islice(rest, parallel + 1 - len(waiting)):
                waiting.append((part, pool.submit(service.fetch_subrequest, part, dtype)))
            if not waiting:
                break
            part, future = waiting.popleft()
            if uncopied:
                arrived.append((part, future.result()))
            else:
                slab = slab or bytearray(part.url.shape[0] * high * wide * item)
                copy_subrequest(slab, part, future.result(), (wide, high), item)
            if part.ends_slab:
                yield from iter_planes(arrived, item) if uncopied else [memoryview(slab)]
                arrived, slab = [], bytearray()
    finally:
        service.stop.set()
        pool.shutdown(wait=False, cancel_futures=True)
    for _ in range(deep - url.shape[0]):
        yield bytes(wide * high * item)
