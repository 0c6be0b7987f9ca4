"""Responses with the content of a file: whole, one range, or several ranges as parts."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from starlette.responses import StreamingResponse
from starlette.types import Send

from neuromirror.model import NeuromirrorError
from neuromirror.web.gateway.byte_ranges import (
    RangeNotSatisfiableError,
    Span,
    is_not_modified,
    is_precondition_failed,
    is_range_current,
    parse_ranges,
)

Read = Callable[[int, int], AsyncIterator[bytes]]
"""Yields the bytes of a range; raises NeuromirrorError if they cannot be delivered."""

_BODY_HEADERS = ("content-length", "content-type", "content-disposition", "repr-digest")


class ContentResponse(StreamingResponse):
    """A response whose body is read while it is sent.

    If reading fails before the first bytes, :meth:`start` raises the error. If it fails later, the
    connection is closed before the announced length is reached, so that no client takes the body
    for complete.

    Parameters
    ----------
    status
        The HTTP status.
    headers
        The headers, with names in lower case.
    body
        The bytes; None for a response without a body.
    name
        The name of the file for the log.
    """

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        body: AsyncIterator[bytes] | None = None,
        name: str = "",
    ) -> None:
        super().__init__(body or _nothing(), status, headers)
        self._body, self._name = body, name
        self._first = b""

    async def start(self) -> None:
        """Read the first bytes of the body, before anything is sent; raises NeuromirrorError."""
        if self._body is not None:
            self._first = await anext(self._body, b"")

    async def stream_response(self, send: Send) -> None:
        """Send the response; a body is read on from the bytes that :meth:`start` has read."""
        status, headers = self.status_code, self.raw_headers
        await send({"type": "http.response.start", "status": status, "headers": headers})
        if self._body is not None:
            try:
                if self._first:
                    start = {"type": "http.response.body", "body": self._first, "more_body": True}
                    await send(start)
                async for block in self._body:
                    await send({"type": "http.response.body", "body": block, "more_body": True})
            except NeuromirrorError as error:
                # without the last message the server closes the connection
                logging.getLogger(__name__).warning("%s: aborted: %s", self._name, error)
                return
        await send({"type": "http.response.body", "body": b""})


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""


def content_response(
    request_headers: Mapping[str, str],
    headers: Mapping[str, str],
    size: int,
    read: Read,
    *,
    is_head: bool,
    name: str,
) -> ContentResponse:
    """Return the response to a request for a content, according to its conditions and ranges.

    Parameters
    ----------
    request_headers
        The headers of the request, with names in lower case. ``Range`` is ignored for HEAD.
    headers
        The headers of the whole content.
    size
        The size of the content in bytes.
    read
        Reads a range of the content.
    is_head
        Whether the method is HEAD, so that the body is omitted.
    name
        The name of the file for the log.

    Returns
    -------
    ContentResponse
        The content (200), ranges of it (206), or no content because of a condition (304, 412) or
        of ranges that cannot be delivered (416). Nothing is read yet.
    """
    etag = headers.get("etag", "")
    if early := conditional_response(request_headers, headers):
        return early
    spans = None
    if not is_head and is_range_current(request_headers, etag):
        try:
            spans = parse_ranges(request_headers.get("range", ""), size)
        except RangeNotSatisfiableError as error:
            return _refused_range(headers, size, error)
    if is_head or (spans is None and not size):
        return ContentResponse(200, headers)
    if spans is None:
        return ContentResponse(200, headers, read(0, size), name)
    if len(spans) > 1:
        return _parts_response(headers, size, spans, read, name)
    ((start, stop),) = spans
    own = {"content-range": _content_range(start, stop, size), "content-length": f"{stop - start}"}
    return ContentResponse(206, {**headers, **own}, read(start, stop), name)


def conditional_response(
    request_headers: Mapping[str, str], headers: Mapping[str, str]
) -> ContentResponse | None:
    """Return the response 412 or 304 if a condition of the request requires it; else None."""
    etag = headers.get("etag", "")
    without_body = {name: value for name, value in headers.items() if name not in _BODY_HEADERS}
    if is_precondition_failed(request_headers, etag):
        return ContentResponse(412, {**without_body, "content-length": "0"})
    if is_not_modified(request_headers, etag):
        return ContentResponse(304, without_body)
    return None


async def whole(content: bytes) -> AsyncIterator[bytes]:
    """Yield a content that is in memory."""
    yield content


def _content_range(start: int, stop: int, size: int) -> str:
    return f"bytes {start}-{stop - 1}/{size}"


def _refused_range(
    headers: Mapping[str, str], size: int, error: RangeNotSatisfiableError
) -> ContentResponse:
    message = f"{error}\n".encode()
    kept = {name: value for name, value in headers.items() if name not in _BODY_HEADERS}
    own = {
        "content-range": f"bytes */{size}",
        "content-type": "text/plain; charset=utf-8",
        "content-length": f"{len(message)}",
        "cache-control": "no-store",
    }
    return ContentResponse(416, {**kept, **own}, whole(message))


def _parts_response(
    headers: Mapping[str, str], size: int, spans: Sequence[Span], read: Read, name: str
) -> ContentResponse:
    """Return several ranges as ``multipart/byteranges`` (RFC 9110, section 14.6)."""
    boundary = secrets.token_hex(16)
    kind = headers["content-type"]
    heads = [
        f"--{boundary}\r\nContent-Type: {kind}\r\n"
        f"Content-Range: {_content_range(start, stop, size)}\r\n\r\n".encode()
        for start, stop in spans
    ]
    end = f"--{boundary}--\r\n".encode()
    length = sum(
        len(head) + stop - start + 2 for head, (start, stop) in zip(heads, spans, strict=True)
    )

    async def parts() -> AsyncIterator[bytes]:
        for head, (start, stop) in zip(heads, spans, strict=True):
            is_first = True
            async for block in read(start, stop):
                # the head is sent with verified bytes only, so that a first failure is a status
                yield head + block if is_first else block
                is_first = False
            yield b"\r\n"
        yield end

    own = {
        "content-type": f"multipart/byteranges; boundary={boundary}",
        "content-length": f"{length + len(end)}",
    }
    return ContentResponse(206, {**headers, **own}, parts(), name)
