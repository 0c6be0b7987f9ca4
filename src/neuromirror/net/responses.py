"""Responses as a session returns them, and the parsing of their headers."""

from __future__ import annotations

import base64
import html
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from neuromirror.model import Traffic
from neuromirror.net.errors import (
    IncompleteResponseError,
    InvalidJsonError,
    RequestTimeoutError,
    ResponseTooLargeError,
    WebPageError,
)
from neuromirror.net.traffic import record_traffic
from neuromirror.net.urls import clean_url, display_host

if TYPE_CHECKING:
    import urllib3

_LENGTH: Final = re.compile(r"[0-9]{1,18}")
_KMS: Final = frozenset({"aws:kms", "aws:kms:dsse", "aws:fsx"})


class ResponseHead(Struct, frozen=True):
    """The status and headers of a response without its body.

    Attributes
    ----------
    status
        The HTTP status.
    headers
        The headers; their names are case-insensitive.
    """

    status: int
    headers: Mapping[str, str]


class Response(ResponseHead, frozen=True):
    """A complete response.

    Attributes
    ----------
    content
        The body.
    """

    content: bytes


class ResponseStream(Struct, frozen=True):
    """An open response.

    Attributes
    ----------
    status
        The HTTP status.
    headers
        The headers; their names are case-insensitive.
    chunks
        The body; raises NetError if it ends before its stated length.
    """

    status: int
    headers: Mapping[str, str]
    chunks: Iterator[bytes]


class Reply(Struct, frozen=True):
    """A response whose body was not read yet, to the request for ``url``."""

    raw: urllib3.BaseHTTPResponse
    url: str
    is_authenticated: bool
    """Whether the request had a token."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.raw.status

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers; their names are case-insensitive."""
        return self.raw.headers

    def __enter__(self) -> Reply:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection unless the body was read to its end."""
        self.raw.close()


def content_length(headers: Mapping[str, str]) -> int | None:
    """Return the value of ``Content-Length`` in bytes; None if missing or invalid.

    Parameters
    ----------
    headers
        The headers of a response, with case-insensitive names.

    Returns
    -------
    int | None
        The length in bytes.
    """
    stated = headers.get("Content-Length", "").strip()
    return int(stated) if _LENGTH.fullmatch(stated) else None


def check_object_head(reply: ResponseHead, url: str) -> None:
    """Check that a successful reply describes an object of a bucket, not a proxy's web page.

    Parameters
    ----------
    reply
        The reply to a HEAD request for the object.
    url
        The URL of the object, for the message.

    Raises
    ------
    WebPageError
        If it is a web page without an ETag, which every object has.
    """
    kind = reply.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if 200 <= reply.status < 300 and kind == "text/html" and "ETag" not in reply.headers:
        raise WebPageError(
            f"{clean_url(url)} returned a web page instead of the object, perhaps a login or error"
            " page of a proxy; check the network and try again",
            url=clean_url(url),
            status=reply.status,
        )


def parse_http_date(value: str) -> datetime | None:
    """Parse the date in a header into UTC; None if it is invalid.

    Parameters
    ----------
    value
        The value of a header such as ``Last-Modified``.

    Returns
    -------
    datetime | None
        The time in UTC.
    """
    from email.utils import parsedate_to_datetime

    try:
        moment = parsedate_to_datetime(value)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        return None


_CHECKSUMS: Final = {"sha256": 32, "crc64nvme": 8, "crc32c": 4, "crc32": 4}
"""Length in bytes of each checksum that S3 can state of a whole object; the best is first."""


def stated_checksums(headers: Mapping[str, str]) -> dict[str, str]:
    """Return S3's checksums of the whole object, in hex by algorithm, the best first.

    They are requested with ``x-amz-checksum-mode``. Those of the parts' checksums are left out.

    Parameters
    ----------
    headers
        The headers of a response of S3, with case-insensitive names.
    """
    found: dict[str, str] = {}
    if headers.get("x-amz-checksum-type", "FULL_OBJECT") != "FULL_OBJECT":
        return found
    for algorithm, length in _CHECKSUMS.items():
        with suppress(ValueError):
            raw = base64.b64decode(headers.get(f"x-amz-checksum-{algorithm}", ""), validate=True)
            if len(raw) == length:
                found[algorithm] = raw.hex()
    return found


def has_encrypted_etag(headers: Mapping[str, str]) -> bool:
    """Return whether an object's headers show an encryption with which its ETag is no MD5.

    Parameters
    ----------
    headers
        The headers of a response of S3, with case-insensitive names.

    Returns
    -------
    bool
        Whether the object is encrypted with a KMS key or with a key of the uploader.
    """
    return (
        headers.get("x-amz-server-side-encryption", "") in _KMS
        or "x-amz-server-side-encryption-customer-algorithm" in headers
    )


_CHUNK: Final = 1 << 16


def raw_chunks(reply: Reply, url: str) -> Iterator[bytes]:
    """Yield the bytes of a reply's body as sent, without decompression; ``url`` is for messages.

    Raises
    ------
    RequestTimeoutError
        If the server is too slow.
    IncompleteResponseError
        If the body ends before its stated length.
    """
    from urllib3.exceptions import HTTPError as TransportError
    from urllib3.exceptions import ReadTimeoutError

    received = 0
    try:
        while chunk := reply.raw.read(_CHUNK, decode_content=False):
            received += len(chunk)
            yield chunk
    except (ReadTimeoutError, TimeoutError):
        raise RequestTimeoutError(
            f"{url}: timed out after {received} bytes; try again", url=url
        ) from None
    except (TransportError, OSError):
        raise IncompleteResponseError(
            f"{url}: connection lost after {received} bytes; try again", url=url
        ) from None
    finally:
        record_traffic(display_host(reply.url), Traffic(bytes=received))
    stated = content_length(reply.headers)
    if stated is not None and stated != received:
        raise IncompleteResponseError(
            f"{url}: received {received} of {stated} bytes; try again", url=url, status=reply.status
        )


def _decompress(chunks: Iterator[bytes], url: str, limit: int) -> Iterator[bytes]:
    inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    try:
        for chunk in chunks:
            rest = chunk
            while rest and not inflate.eof:
                yield inflate.decompress(rest, min(limit + 1, 1 << 20))
                rest = inflate.unconsumed_tail
    except zlib.error as error:
        raise IncompleteResponseError(f"{url}: corrupt gzip body; try again", url=url) from error
    if not inflate.eof:
        raise IncompleteResponseError(f"{url}: truncated gzip body; try again", url=url)


def read_bounded(reply: Reply, url: str, limit: int) -> bytes:
    """Return the whole body of a reply, decompressed; ``url`` is for messages.

    Raises
    ------
    ResponseTooLargeError
        If it has more than ``limit`` bytes. Memory use stays near the limit.
    InvalidJsonError
        If it has an unknown content coding.
    """
    coding = reply.headers.get("Content-Encoding", "identity").strip().lower()
    chunks = raw_chunks(reply, url)
    if coding in ("gzip", "x-gzip"):
        chunks = _decompress(chunks, url, limit)
    elif coding not in ("identity", ""):
        raise InvalidJsonError(f"{url}: unexpected content encoding {coding[:40]!r}", url=url)
    body = bytearray()
    for chunk in chunks:
        body += chunk
        if len(body) > limit:
            raise ResponseTooLargeError(
                f"{url}: response larger than the limit of {limit} bytes; request smaller pages",
                url=url,
                status=reply.status,
            )
    return bytes(body)


_FIELD: Final = re.compile(rb"<(Code|Message|Region|Endpoint)>([^<>]{1,1000})</\1>")
_REGION: Final = "x-amz-bucket-region"


def error_fields(body: bytes, headers: Mapping[str, str]) -> dict[str, str]:
    """Return the elements of an S3 error document; empty for any other body.

    The region of the bucket may be in a header instead. Format: S3 API reference, "REST error
    responses".
    """
    found: dict[str, str] = {}
    if b"<Error" in body[:200]:
        for name, text in _FIELD.findall(body):
            found.setdefault(name.decode(), html.unescape(text.decode(errors="replace")))
    if headers.get(_REGION):
        found["Region"] = headers[_REGION]
    return found


def _reject_constant(constant: str) -> Any:
    raise ValueError(f"{constant} is not valid JSON")


def parse_json(body: bytes, content_type: str, url: str) -> Any:
    """Return the value of a JSON body; raise :class:`InvalidJsonError` if it is not JSON.

    A web page in place of JSON is mentioned in the message, for which ``content_type`` and ``url``
    are needed.
    """
    start = body[:200].lstrip().lower()
    kind = content_type.partition(";")[0].strip().lower()
    if start.startswith(b"<") or kind in ("text/html", "application/xhtml+xml"):
        raise InvalidJsonError(
            f"{url} returned a web page instead of JSON, perhaps a login page or an error page of"
            " a proxy; check the address and the network",
            url=url,
            status=200,
        )
    if not start:
        empty_error = InvalidJsonError(
            f"{url} returned an empty body instead of JSON; try again", url=url, status=200
        )
        empty_error.transient = True
        raise empty_error
    try:
        return json.loads(body, parse_constant=_reject_constant)
    except RecursionError:
        raise InvalidJsonError(f"{url}: JSON nested too deeply", url=url, status=200) from None
    except ValueError as error:
        truncated_error = InvalidJsonError(
            f"{url} returned a body that is not JSON or is truncated ({len(body)} bytes received);"
            " try again",
            url=url,
            status=200,
        )
        truncated_error.transient = True
        raise truncated_error from error


ARCHIVE_CLASSES: Final = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""Storage classes of S3 whose objects cannot be read before they are restored.

``GLACIER_IR`` is not one of them. Objects of ``INTELLIGENT_TIERING`` may be archived too: only the
headers state that.
"""


def archived_message(storage_class: str = "", *, is_restoring: bool = False) -> str:
    """Return the message for an object that cannot be read before it is restored."""
    archive = f"the archive storage class {storage_class}" if storage_class else "an archive class"
    if is_restoring:
        return f"it is in {archive} and being restored; try again in some hours"
    return (
        f"it is in {archive}, and cannot be read until somebody with the permission"
        " s3:RestoreObject, such as the owner of the bucket, restores it ('aws s3api"
        " restore-object'), which takes hours; ask the owner, then try again"
    )


def archive_problem(headers: Mapping[str, str]) -> str | None:
    """Return why an object cannot be read although ``HEAD`` succeeds; None if it can be."""
    storage_class = headers.get("x-amz-archive-status") or headers.get("x-amz-storage-class", "")
    is_archived = "x-amz-archive-status" in headers or storage_class in ARCHIVE_CLASSES
    restore = headers.get("x-amz-restore", "")
    if not is_archived or 'ongoing-request="false"' in restore:
        return None
    return archived_message(storage_class, is_restoring=bool(restore))
