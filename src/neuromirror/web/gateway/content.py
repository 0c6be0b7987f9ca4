"""Content of files over HTTP: conditions and ranges, headers, and responses.

The content may be hostile: HTML and SVG of an archive must not run with the origin of the
catalogue, its pages must not load a script of an archive, and no browser may guess another type
than the stated one.
"""

from __future__ import annotations

import logging
import mimetypes
import re
import secrets
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from itertools import pairwise
from typing import Final
from urllib.parse import quote

from starlette.responses import StreamingResponse
from starlette.types import Send

from neuromirror.model import NeuromirrorError

MAX_RANGES: Final = 16
"""Maximum number of ranges per request."""
_RANGE: Final = re.compile(r"(?:(\d+)-(\d+)?|-(\d+))", re.ASCII)
_MAX_DIGITS: Final = 19
_TAG: Final = re.compile(r'(W/)?("[^"]*")')

Span = tuple[int, int]
"""Offsets of the first byte, and after the last byte."""


class RangeNotSatisfiableError(NeuromirrorError):
    """The requested ranges are beyond the end, too many, or overlap; the status is 416."""


def parse_ranges(header: str, size: int) -> list[Span] | None:
    """Parse a ``Range`` header for a content of a size in bytes.

    Parameters
    ----------
    header
        The value of the header; empty without one.
    size
        The size of the content in bytes.

    Returns
    -------
    list or None
        The ranges in ascending order, each as the offsets of the first byte and after the last
        byte. None for the whole content: also for a header that is malformed or has another unit
        than bytes, which RFC 9110 ignores.

    Raises
    ------
    RangeNotSatisfiableError
        If no range is within the content, or the ranges are more than :data:`MAX_RANGES`, overlap
        or are not in ascending order. The RFC also permits to return the whole content instead,
        but that may be very large.
    """
    unit, equals, text = header.partition("=")
    if unit.strip().lower() != "bytes" or not equals:
        return None
    found: list[Span] = []
    for one in text.split(","):
        match = _RANGE.fullmatch(one.strip())
        if match is None:
            return None
        first, last, tail = map(_number, match.groups())
        if first is None:
            span = max(0, size - (tail or 0)), size
        elif last is not None and last < first:
            return None
        else:
            span = first, size if last is None else min(last + 1, size)
        if span[0] < span[1]:
            found.append(span)
        if len(found) > MAX_RANGES:
            raise RangeNotSatisfiableError(f"more than {MAX_RANGES} ranges in one request")
    if not found:
        raise RangeNotSatisfiableError(f"the range is beyond the end: the file has {size} bytes")
    if any(one[1] > other[0] for one, other in pairwise(found)):
        raise RangeNotSatisfiableError("the ranges overlap or are not in ascending order")
    return found


def _number(digits: str | None) -> int | None:
    """Return the value of digits; values beyond any size of a file are all the same."""
    significant = (digits or "").lstrip("0")
    if len(significant) > _MAX_DIGITS:
        return int("9" * _MAX_DIGITS)
    return None if digits is None else int(significant or "0")


def has_etag(known: str, etag: str) -> bool:
    """Return whether a list of ETags has one, weak or not, or is ``*``."""
    return known.strip() == "*" or etag in [tag for _, tag in _TAG.findall(known)]


def is_precondition_failed(headers: Mapping[str, str], etag: str) -> bool:
    """Return whether ``If-Match`` is present without the ETag, so that the response is 412.

    A weak ETag never matches. ``headers`` have names in lower case.
    """
    known = headers.get("if-match", "").strip()
    if not known or known == "*":
        return False
    return etag not in [tag for weak, tag in _TAG.findall(known) if not weak]


def is_range_current(headers: Mapping[str, str], etag: str) -> bool:
    """Return whether ``If-Range`` is absent or has the ETag, so that ``Range`` applies.

    A date never matches. ``headers`` have names in lower case.
    """
    known = headers.get("if-range", "").strip()
    return not known or (bool(etag) and known == etag)


CORS_HEADERS: Final = {
    "access-control-allow-origin": "*",
    "access-control-expose-headers": (
        "Accept-Ranges, Content-Disposition, Content-Length, Content-Range, ETag, Link, Location, "
        "Neuromirror-Digest, Neuromirror-Key, Neuromirror-Verified, Neuromirror-Version, "
        "Repr-Digest, Retry-After"
    ),
    "cross-origin-resource-policy": "cross-origin",
}
PREFLIGHT_HEADERS: Final = {
    "access-control-allow-origin": "*",
    "access-control-allow-methods": "GET, HEAD, OPTIONS",
    "access-control-allow-headers": (
        "Accept, Cache-Control, If-Match, If-Modified-Since, If-None-Match, If-Range, Range"
    ),
    "access-control-max-age": "86400",
    "allow": "GET, HEAD, OPTIONS",
    "content-length": "0",
}
SANDBOX: Final = "sandbox; default-src 'none'; frame-ancestors 'none'"
"""Content-Security-Policy of content: it has an origin of its own, and runs and loads nothing."""

PINNED: Final = "public, max-age=31536000, immutable, no-transform"
"""Cache-Control for content of a version whose name always means the same state."""
MOVING: Final = "public, max-age=60, must-revalidate, no-transform"
"""Cache-Control for names that move, such as ``@draft``."""
REDIRECTED: Final = "public, max-age=300, no-transform"
"""Cache-Control of a redirect of a pinned version: the location of a content may change."""

_TYPES: Final = mimetypes.MimeTypes(filenames=())  # the same on every machine
_OTHER_TYPES: Final = {
    ".css": "text/plain",
    ".csv": "text/csv",
    ".dat": "application/octet-stream",
    ".h5": "application/x-hdf5",
    ".hdf5": "application/x-hdf5",
    ".js": "text/plain",  # a script of the catalogue's origin otherwise, which its policy allows
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".md": "text/markdown",
    ".mjs": "text/plain",
    ".mkv": "video/x-matroska",
    ".nwb": "application/x-hdf5",
    ".py": "text/plain",
    ".toml": "application/toml",
    ".tsv": "text/tab-separated-values",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
}
_JSON_NAMES: Final = frozenset(
    {".zarray", ".zattrs", ".zgroup", ".zmetadata", "zarr.json", "info", "attributes.json"}
)
"""Metadata files of Zarr, precomputed layers and N5."""
_ENCODINGS: Final = {"gzip": "gzip", "bzip2": "x-bzip2", "xz": "x-xz"}
_SHOWN: Final = re.compile(
    r"image/(?:png|jpeg|gif|webp|avif)|text/(?:plain|csv|markdown|tab-separated-values)"
    r"|application/(?:json|jsonl|yaml|toml)|video/(?:mp4|webm)|audio/.+"
)
"""Types that browsers may show; all others are saved."""
_OPENED: Final = re.compile(
    r"(?:audio|image|text|video)/.+|application/(?:json|pdf|xml|xhtml\+xml)"
)
"""Types that browsers open if an archive sends them."""
_UNSAFE: Final = re.compile(r"[^\w.+ -]", re.ASCII)


def media_type(path: str) -> str:
    """Return the media type of a file by its name, without a character set."""
    name = path.rpartition("/")[2]
    if name in _JSON_NAMES:
        return "application/json"
    ending = name[name.rindex(".") :].lower() if "." in name else ""
    if ending in _OTHER_TYPES:
        return _OTHER_TYPES[ending]
    found, encoding = _TYPES.guess_type(f"x{ending}" if ending else name)
    if encoding is not None:  # a compressed file is delivered as it is, not as an encoding
        return f"application/{_ENCODINGS.get(encoding, 'octet-stream')}"
    return found or "application/octet-stream"


def may_open_in_browser(path: str) -> bool:
    """Return whether a browser may open a file of an archive instead of saving it.

    The name of the file decides, because the type that the archive states is not known.
    """
    return bool(_OPENED.fullmatch(media_type(path)))


def content_disposition(path: str, kind: str, *, is_saved: bool = False) -> str:
    """Return the value of ``Content-Disposition`` for a file (RFC 6266).

    Parameters
    ----------
    path
        The path of the file, whose name the value contains.
    kind
        The media type, which decides whether a browser shows the file or saves it.
    is_saved
        Whether a browser is to save the file also if it could show it.
    """
    name = path.rpartition("/")[2]
    shown = "inline" if _SHOWN.fullmatch(kind) and not is_saved else "attachment"
    plain = _UNSAFE.sub("_", name)
    extended = "" if plain == name else f"; filename*=UTF-8''{quote(name, safe='')}"
    return f'{shown}; filename="{plain}"{extended}'


def representation_digest(digest: str) -> dict[str, str]:
    """Return the header ``Repr-Digest`` (RFC 9530) for ``<algorithm>:<hex>``.

    No header for algorithms other than sha256 and md5.
    """
    algorithm, _, value = digest.partition(":")
    name = {"sha256": "sha-256", "md5": "md5"}.get(algorithm)
    if name is None:
        return {}
    return {"repr-digest": f"{name}=:{b64encode(bytes.fromhex(value)).decode()}:"}


def content_headers(
    path: str, size: int | None, digest: str, *, is_saved: bool = False
) -> dict[str, str]:
    """Return the headers of a file that do not depend on the request.

    Parameters
    ----------
    path
        The path of the file, from which its media type and name follow.
    size
        Size in bytes; None if unknown, without ``Content-Length``.
    digest
        ``<algorithm>:<hex>``; empty if unknown, without ``ETag`` and digests.
    is_saved
        Whether a browser is to save the file, whatever its type.

    Returns
    -------
    dict[str, str]
        The headers, with names in lower case.
    """
    kind = media_type(path)
    charset = "; charset=utf-8" if kind.startswith("text/") else ""
    headers = {
        **CORS_HEADERS,
        "content-type": kind + charset,
        "content-disposition": content_disposition(path, kind, is_saved=is_saved),
        "content-security-policy": SANDBOX,
        "accept-ranges": "bytes",
    }
    if size is not None:
        headers["content-length"] = str(size)
    if digest:
        headers |= {"etag": f'"{digest}"', "neuromirror-digest": digest}
        headers |= representation_digest(digest)
    return headers


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
        super().__init__(body or (), status, headers)
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
    if etag and has_etag(request_headers.get("if-none-match", ""), etag):
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
