"""Open the bytes of a content at any of its URLs: of the web, of a bucket, of a volume's block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from neuromirror.model import NeuromirrorError
from neuromirror.net import (
    AccessDeniedError,
    HostCircuitBreaker,
    IncompleteResponseError,
    OpenBody,
    UnreachableError,
)
from neuromirror.sources.volumes.errors import MalformedUrlError, WrongVoxelsError
from neuromirror.transfer.block_bodies import BlockBodies, is_block_url
from neuromirror.transfer.fetch_connections import FetchConnections


class ContentMismatchError(NeuromirrorError):
    """A URL returns bytes that are not the key's content."""


class ContentBodies:
    """Opens response bodies, and reports to a circuit breaker which hosts respond. Thread-safe.

    Parameters
    ----------
    blocks
        Opens blocks of volumes.
    breaker
        Circuit breaker for the other URLs.
    """

    def __init__(self, blocks: BlockBodies, breaker: HostCircuitBreaker) -> None:
        self._blocks = blocks
        self._breaker = breaker

    @contextmanager
    def open(
        self,
        connections: FetchConnections,
        url: str,
        key: str,
        size: int | None,
        *,
        start: int = 0,
        stop: int | None = None,
        total: float | None = None,
    ) -> Iterator[OpenBody]:
        """Open the response body of a URL; that of a block of a volume always starts at 0.

        Parameters
        ----------
        connections
            The connections of the calling thread.
        url, key, size
            The URL, and the key and size of its content.
        start, stop
            Offsets of the first byte, and after the last byte; None for the end.
        total
            Time limit for the whole body, in seconds.

        Yields
        ------
        OpenBody
            The body, which may start before ``start`` and end after ``stop``.

        Raises
        ------
        NetError
            If the request fails.
        ContentMismatchError
            If the URL is malformed, or has other voxels.
        """
        if is_block_url(url):
            try:
                with self._blocks.open(url, key, size) as body:
                    yield body
            except WrongVoxelsError as error:
                if error.transient:
                    raise IncompleteResponseError(str(error), url=url) from error
                raise ContentMismatchError(str(error)) from error
            except MalformedUrlError as error:
                raise ContentMismatchError(str(error)) from error
            return
        target = connections.target(url)
        self._breaker.check(target.url)
        request = partial(
            target.connection.stream,
            target.url,
            start=start,
            stop=stop,
            headers=target.headers,
            total=total,
        )
        with ExitStack() as stack:
            try:
                try:
                    body = stack.enter_context(request())
                except AccessDeniedError as error:
                    if not connections.authorize(url, target, error):
                        raise
                    body = stack.enter_context(request())
            except UnreachableError:
                self._breaker.record_failure(target.url)
                raise
            self._breaker.record_success(target.url)
            yield body
