"""Responses as a session returns them, and the parsing of their headers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

from msgspec import Struct

from neuromirror.net.errors import WebPageError
from neuromirror.net.urls import clean_url

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


def case_insensitive(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return a copy of response headers with case-insensitive names."""
    from requests.structures import CaseInsensitiveDict

    return CaseInsensitiveDict(headers)


def content_length(headers: Mapping[str, str]) -> int | None:
    """Return the value of ``Content-Length`` in bytes; None if missing or invalid.

    Parameters
    ----------
    headers
        The headers of a response, with case-insensitive names (:func:`case_insensitive`).

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
