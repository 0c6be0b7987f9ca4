"""Byte ranges and conditions of a request (RFC 9110, sections 13 and 14)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Final

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


def is_not_modified(headers: Mapping[str, str], etag: str) -> bool:
    """Return whether ``If-None-Match`` has the ETag, so that the response is 304.

    A weak ETag matches, too, as RFC 9110 requires. ``headers`` have names in lower case.
    """
    return bool(etag) and has_etag(headers.get("if-none-match", ""), etag)


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
