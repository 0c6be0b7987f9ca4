"""Fetching of a block's chunk file, with one request or several parallel ones."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from math import prod
from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace

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
    results_in_order,
)
from neuromirror.sources.volumes.decode import can_decode, decode_cutout
from neuromirror.sources.volumes.grid import Block
from neuromirror.sources.volumes.urls import (
    ITEM_SIZES,
    BlockReadError,
    BlockUrl,
    CutoutRefusedError,
    MalformedUrlError,
    Range,
    TokenRefusedError,
    WrongVoxelsError,
    is_secure,
    parse_url,
    token_variable,
)

PARALLEL: Final = 3
"""Parallel requests per block.

BOSS asks clients to stay below 25 requests; ``git annex get -J8`` fetches eight blocks at a time.
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

    def fetch_subrequest(self, dtype: str, subrequest: Subrequest) -> tuple[Subrequest, memoryview]:
        """Return a part with its voxels; repeat the request after a truncated reply."""
        for left in reversed(range(_ATTEMPTS)):
            try:
                pieces = list(self.pieces(subrequest.url, dtype))
            except (IncompleteResponseError, WrongVoxelsError) as error:
                if not left or self.stop.is_set():
                    error.transient = False
                if not error.transient:
                    raise
            else:
                voxels = memoryview(pieces[0] if len(pieces) == 1 else b"".join(pieces))
                return subrequest, voxels
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
    # parts as wide as the block need not be copied into a slab
    uncopied = url.shape[1:] == (high, wide) and all(part.url.shape[2] == wide for part in parts)
    arrived: list[tuple[Subrequest, memoryview]] = []
    slab = bytearray()
    pool = ContextThreadPool(parallel, thread_name_prefix="volume-part")
    try:
        fetch = partial(service.fetch_subrequest, dtype)
        for part, voxels in results_in_order(pool, parallel + 1, fetch, parts):
            if uncopied:
                arrived.append((part, voxels))
            else:
                slab = slab or bytearray(part.url.shape[0] * high * wide * item)
                copy_subrequest(slab, part, voxels, (wide, high), item)
            if part.ends_slab:
                yield from iter_planes(arrived, item) if uncopied else [memoryview(slab)]
                arrived, slab = [], bytearray()
    finally:
        service.stop.set()
        pool.shutdown(wait=False, cancel_futures=True)
    for _ in range(deep - url.shape[0]):
        yield bytes(wide * high * item)


# --- requests for blocks: their URLs, headers and encodings, and the division of large blocks


PUBLIC_TOKEN: Final = "public"
"""BossDB's token for anonymous access to public channels."""

BLOSC: Final = "application/blosc"
_NPYGZ: Final = "application/npygz"


class CutoutRequest(Struct, frozen=True):
    """A request for the voxels of a block.

    Attributes
    ----------
    address, headers
        The URL and headers.
    encoding
        The body's encoding, as in :func:`~neuromirror.sources.volumes.decode_cutout`, unless its
        Content-Type is ``application/blosc``.
    secret
        Whether the headers have a secret that no other host may receive.
    """

    address: str
    headers: Mapping[str, str]
    encoding: str
    secret: bool

    @property
    def accepted(self) -> str:
        """The content types that the reply may have."""
        return self.headers.get("Accept", "")


def cutout_request(
    url: BlockUrl, token: str | None = None, *, blosc: bool = False
) -> CutoutRequest:
    """Return the request for a block.

    A URL with plain HTTP to a public host gets no token, because third-party datasets could contain
    such URLs to make the token readable in transit. A URL with a port is exempt.

    Parameters
    ----------
    url
        The block.
    token
        The host's token; None for anonymous access.
    blosc
        Whether a BOSS may reply with blosc, which it encodes five times as fast.

    Returns
    -------
    CutoutRequest
        The URL and headers of the request.

    Raises
    ------
    MalformedUrlError
        The service has no such block.
    """
    if not url.secure and is_secure(url.host) and ":" not in url.host:
        token = None
    if url.scheme == "boss":
        return _boss(url, token, blosc)
    return _ndstore(url, token)


def _boss(url: BlockUrl, token: str | None, blosc: bool) -> CutoutRequest:
    """Return a request to BOSS's cutout service, version 1 (jhuapl-boss/boss, bossspatialdb).

    It bypasses the cache, as intern does for data that are read once.
    """
    *before, collection, experiment, channel = _segments(url, 3)
    prefix = "".join(f"{one}/" for one in before)
    (x0, x1), (y0, y1), (z0, z1) = url.box
    time = "" if url.time is None else f"{url.time}:{url.time + 1}/"
    return CutoutRequest(
        f"{url.origin}/{prefix}v1/cutout/{collection}/{experiment}/{channel}/{url.level}/"
        f"{x0}:{x1}/{y0}:{y1}/{z0}:{z1}/{time}?access-mode=no-cache",
        {
            "Accept": f"{BLOSC}, {_NPYGZ};q=0.9" if blosc else _NPYGZ,
            "Authorization": f"Token {token or PUBLIC_TOKEN}",
        },
        "npygz",
        secret=token is not None and token != PUBLIC_TOKEN,
    )


def token_probe(url: BlockUrl, token: str | None) -> CutoutRequest | None:
    """Return a request that a BOSS answers with 401 only if it refuses the token.

    It distinguishes a wrong token from a missing permission. For an ndstore it returns None,
    because there is no such request.
    """
    if url.scheme != "boss":
        return None
    request = cutout_request(url, token)
    prefix = "".join(f"{one}/" for one in url.path.split("/")[:-3])
    headers = {**request.headers, "Accept": "application/json"}
    return replace(request, address=f"{url.origin}/{prefix}v1/collection/", headers=headers)


def _ndstore(url: BlockUrl, token: str | None) -> CutoutRequest:
    """Return a request to ndstore's cutout service (neurodata/ndstore, data_api.rst)."""
    *before, project, channel = _segments(url, 2)
    prefix = "".join(f"{one}/" for one in before)
    (x0, x1), (y0, y1), (z0, z1) = url.box
    time = "" if url.time is None else f"{url.time},{url.time + 1}/"
    headers = {} if token is None else {"Authorization": f"Token {token}"}
    return CutoutRequest(
        f"{url.origin}/{prefix}{project}/{channel}/npz/{url.level}/"
        f"{x0},{x1}/{y0},{y1}/{z0},{z1}/{time}",
        headers,
        "npz",
        secret=token is not None,
    )


def _segments(url: BlockUrl, least: int) -> list[str]:
    segments = url.path.split("/")
    if len(segments) < least:
        raise MalformedUrlError(
            f"{url} names no channel: {url.scheme} has {least} names before the resolution"
        )
    return segments


CUBOID: Final = (512, 512, 16)
"""Shape of a BOSS cuboid along x, y, z (spdb/c_lib/ndtype.py)."""

PART_BYTES: Final = 16 << 20
"""Maximum bytes of voxels per part, unless a cuboid has more."""


class Subrequest(Struct, frozen=True):
    """A part of a block with a request of its own.

    Attributes
    ----------
    url
        The part.
    corner
        Where the part starts, along x and y, within its slab. A slab is the whole x and y extent of
        the block over the part's range along z.
    ends_slab
        Whether the part is the last one of its slab.
    """

    url: BlockUrl
    corner: tuple[int, int]
    ends_slab: bool


def split_block(url: BlockUrl, dtype: str | None) -> list[Subrequest]:
    """Return the parts of a block, slab by slab.

    A small block, one with voxels of unknown type, and any block of an ndstore is not divided.

    Parameters
    ----------
    url
        The block.
    dtype
        Numpy's name of the type of a voxel; None if unknown.
    """
    whole = [Subrequest(url, (0, 0), ends_slab=True)]
    if dtype is None or url.scheme != "boss":
        return whole
    item = ITEM_SIZES[dtype]
    if prod(url.shape) * item <= PART_BYTES:
        return whole
    xs, ys, zs = url.box
    x_step, y_step = _steps(url, item)
    columns = [xs] if x_step is None else [*_grid_ranges(xs, x_step)]
    parts: list[Subrequest] = []
    for z in _grid_ranges(zs, CUBOID[2]):
        boxes = [(x, y, z) for y in _grid_ranges(ys, y_step) for x in columns]
        for number, box in enumerate(boxes):
            (x0, x1), (y0, y1), (z0, z1) = box
            parts.append(
                Subrequest(
                    replace(url, box=box, chunk=(x1 - x0, y1 - y0, z1 - z0)),
                    (x0 - xs[0], y0 - ys[0]),
                    ends_slab=number == len(boxes) - 1,
                )
            )
    return parts


def iter_planes(slab: Sequence[tuple[Subrequest, memoryview]], item: int) -> Iterator[memoryview]:
    """Yield a slab plane by plane without copying; its parts must be as wide as the slab.

    Parameters
    ----------
    slab
        The parts of the slab with their voxels, in order.
    item
        Bytes per voxel.
    """
    for z in range(slab[0][0].url.shape[0]):
        for part, voxels in slab:
            _, high, wide = part.url.shape
            length = high * wide * item
            yield voxels[z * length : (z + 1) * length]


def copy_subrequest(
    slab: bytearray, subrequest: Subrequest, voxels: memoryview, plane: tuple[int, int], item: int
) -> None:
    """Copy a part's voxels to their place in a slab.

    Parameters
    ----------
    slab
        The slab, which is changed.
    subrequest
        The part.
    voxels
        The part's voxels.
    plane
        Number of voxels of the slab along x and y.
    item
        Bytes per voxel.
    """
    wide, high = plane
    x, y = subrequest.corner
    deep, tall, broad = subrequest.url.shape
    # rows as wide as the plane are contiguous in both
    rows = tall if broad == wide else 1
    length = rows * broad * item
    taken = 0
    for z in range(deep):
        for row in range(0, tall, rows):
            at = ((z * high + y + row) * wide + x) * item
            slab[at : at + length] = voxels[taken : taken + length]
            taken += length


def _steps(url: BlockUrl, item: int) -> tuple[int | None, int]:
    """Return a part's size along x (None: the block's width) and y, in whole cuboids."""
    wide, high, deep = CUBOID
    row = url.shape[2] * high * deep * item
    if row <= PART_BYTES:
        return None, PART_BYTES // row * high
    return max(1, PART_BYTES // (wide * high * deep * item)) * wide, high


def _grid_ranges(whole: Range, step: int) -> Iterator[Range]:
    """Yield the ranges of a grid with origin 0, clipped to ``whole``."""
    start, stop = whole
    while start < stop:
        end = min(stop, start + step - start % step)
        yield start, end
        start = end


# --- hashing of blocks: parallel streams, of which nothing is stored


_QUEUED_PER_WORKER: Final = 2
"""Queued blocks per worker, so that a slow block does not stop the others."""

Numbered = tuple[int, Block]


class _StoppedError(Exception):
    """Another block failed, so this one is cancelled."""


class BlockHasher:
    """Reads blocks from a service in parallel and computes the sha256 of their chunk files.

    Nothing is stored. ``name`` is the dataset's, for messages; ``workers`` the number of blocks
    that are read in parallel.
    """

    def __init__(self, session: Session, name: str, workers: int) -> None:
        self._session = session
        self._name = name
        self._workers = workers

    def digests(
        self, numbered_blocks: Iterable[Numbered], note: Callable[[int, bytes], None] | None = None
    ) -> Generator[tuple[int, bytes], None, None]:
        """Yield number and sha256 (32 bytes) of each block, in the given order.

        ``note`` is called with each as soon as it is known, in a worker thread.

        Raises
        ------
        BlockReadError
            At the first block that cannot be read; the others are cancelled.
        """
        stop = threading.Event()
        pool = ContextThreadPool(self._workers, thread_name_prefix="volume-block")

        def read(numbered: Numbered) -> tuple[int, bytes]:
            number, block = numbered
            digest = self._read_with_retries(block, stop)
            if note is not None:
                note(number, digest)
            return number, digest

        most = self._workers * (1 + _QUEUED_PER_WORKER)
        try:
            yield from results_in_order(pool, most, read, numbered_blocks)
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _read_with_retries(self, block: Block, stop: threading.Event) -> bytes:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._read(block, stop)
            except (NetError, WrongVoxelsError) as error:
                broken = (
                    isinstance(error, IncompleteResponseError | WrongVoxelsError)
                    and error.transient
                )
                if not broken or attempt == _ATTEMPTS:
                    raise BlockReadError(
                        f"{self._name}: the block {block.path.decode()} ({block.url}) cannot be"
                        f" read: {error}; nothing was changed"
                    ) from error
                limits = self._session.limits
                stop.wait(min(limits.wait_max, limits.wait * 2**attempt))
        raise AssertionError("the last attempt returns or raises")

    def _read(self, block: Block, stop: threading.Event) -> bytes:
        digest = hashlib.sha256()
        with closing(fetch_block(self._session, parse_url(block.url), size=block.size)) as pieces:
            for piece in pieces:
                if stop.is_set():
                    raise _StoppedError
                digest.update(piece)
        return digest.digest()
