"""Random access to an object over HTTP: a read-only file whose reads are range requests."""

from __future__ import annotations

import io
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final

from neuromirror.model import NeuromirrorError
from neuromirror.net import NetError, Response, Session

_BLOCK: Final = 1 << 18
"""Bytes of one block, the unit of the cache."""
_MAX_BLOCKS_PER_REQUEST: Final = 16
_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


class ReadLimitError(NeuromirrorError):
    """A reader requested more bytes than it may."""


class RangeMismatchError(NeuromirrorError):
    """A server returned another range, or an object of another size, than expected."""


class RangeFile(io.RawIOBase):
    """A read-only, seekable file over HTTP range requests (RFC 9110, section 14).

    The bytes are *not* verified: a digest of the whole object says nothing about a part of it.
    Blocks are cached for the lifetime of the object, and sequential reads request increasingly many
    blocks at once. For one thread.

    Parameters
    ----------
    session_for
        Returns the session for a URL.
    urls
        URLs of the object, in the order in which to try them.
    size
        Size of the object in bytes.
    max_bytes
        Maximum number of bytes to request; a read beyond it raises :class:`ReadLimitError`.

    Attributes
    ----------
    failure
        The error of the first read that failed, after which all fail; None before. Libraries such
        as HDF5 replace it by an error of their own.
    """

    def __init__(
        self,
        session_for: Callable[[str], Session],
        urls: Sequence[str],
        size: int,
        *,
        max_bytes: int,
    ) -> None:
        super().__init__()
        self._session_for = session_for
        self._urls = list(urls)
        self._size, self._max_bytes = size, max_bytes
        self._position = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._next_block, self._read_ahead = -1, 1
        self.bytes_requested = 0
        self.failure: NeuromirrorError | None = None

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position; return it in bytes."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from the position; return the number of bytes, 0 at the end."""
        view = memoryview(buffer).cast("B")
        number, offset = divmod(self._position, _BLOCK)
        requested = min(len(view), self._size - self._position)
        if requested <= 0:
            return 0
        block = self._block(number, -(-(offset + requested) // _BLOCK))
        part = block[offset : offset + requested]
        view[: len(part)] = part
        self._position += len(part)
        return len(part)

    def _block(self, number: int, count: int) -> bytes:
        """Return a block; request up to ``count`` at once, or more while reads are sequential."""
        if number not in self._blocks:
            self._read_ahead = self._read_ahead * 2 if number == self._next_block else 1
            most = min(max(count, self._read_ahead), _MAX_BLOCKS_PER_REQUEST)
            last = number + 1
            while last < number + most and last * _BLOCK < self._size and last not in self._blocks:
                last += 1
            if self.failure is not None:  # a library may go on reading elsewhere
                raise self.failure
            try:
                self._request(number, last)
            except NeuromirrorError as error:
                self.failure = error
                raise
            self._next_block = last
        return self._blocks[number]

    def _request(self, first: int, stop: int) -> None:
        start, end = first * _BLOCK, min(stop * _BLOCK, self._size)
        self.bytes_requested += end - start
        if self.bytes_requested > self._max_bytes:
            raise ReadLimitError(
                f"reading needs more than the allowed {self._max_bytes} bytes of this file"
            )
        error: NeuromirrorError | None = None
        for url in list(self._urls):
            try:
                data = self._get(url, start, end)
            except (NetError, RangeMismatchError) as failed:
                error = failed
                self._urls.remove(url)  # a later read would fail again
                continue
            for number in range(first, stop):
                begin = number * _BLOCK - start
                self._blocks[number] = data[begin : begin + _BLOCK]
            return
        raise error or RangeMismatchError("no URL of the object returns its bytes")

    def _get(self, url: str, start: int, end: int) -> bytes:
        def parse(reply: Response) -> bytes:
            if reply.status == 200 and len(reply.content) == self._size:
                return reply.content[start:end]  # ranges are optional
            stated = _CONTENT_RANGE.fullmatch(reply.headers.get("Content-Range", ""))
            expected = (str(start), str(end - 1), str(self._size))
            if (
                reply.status != 206
                or stated is None
                or stated.groups()[:2] != expected[:2]
                or stated[3] not in (expected[2], "*")
                or len(reply.content) != end - start
            ):
                raise RangeMismatchError(
                    f"bytes {start} to {end - 1} were requested, but the server returned "
                    f"{stated[0] if stated else f'HTTP {reply.status}'}"
                )
            return reply.content

        return self._session_for(url).get_bytes(
            url,
            limit=min(self._max_bytes, max(end - start, _BLOCK)),
            headers={"Range": f"bytes={start}-{end - 1}"},
            parse=parse,
        )
