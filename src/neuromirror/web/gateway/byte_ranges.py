"""Byte ranges and conditions of a request (RFC 9110, sections 13 and 14)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Final

from neuromirror.model import NeuromirrorError

MAX_RANGES: Final = 16
"""Maximum number of ranges per request."""
_RANGE: Final = re.compile(r"(?:(\d{1,18})-(\d{1,18})?|-(\d{1,18}))", re.ASCII)
_TAG: Final = re.compile(r'(W/)?("[^"]*")')

Span = tuple[int, int]
"""First byte and exclusive end."""


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
        The ranges in ascending order; None for the whole content, also if the header is malformed
        or has another unit than bytes, and must be ignored.

    Raises
    ------
    RangeNotSatisfiableError
        If no range is within the content, or the ranges are more than :data:`MAX_RANGES`, overlap
        or are not in ascending order: the whole content could be very large.
    """
    unit, equals, text = header.partition("=")
    if unit.strip().lower() != "bytes" or not equals:
        return None
    found: list[Span] = []
    for one in text.split(","):
        match = _RANGE.fullmatch(one.strip())
        if match is None:
            return None
        first, last, tail = match.groups()
        if last is not None and int(last) < int(first):
            return None
        span = (
            (max(0, size - int(tail)), size)
            if tail is not None
            else (int(first), size if last is None else min(int(last) + 1, size))
        )
        if span[0] < span[1]:
            found.append(span)
        if len(found) > MAX_RANGES:
            raise RangeNotSatisfiableError(f"more than {MAX_RANGES} ranges in one request")
    if not found:
        raise RangeNotSatisfiableError(f"the range is beyond the end: the file has {size} bytes")
    if any(one[1] > other[0] for one, other in pairwise(found)):
        raise RangeNotSatisfiableError("the ranges overlap or are not in ascending order")
    return found


def is_not_modified(headers: Mapping[str, str], etag: str) -> bool:
    """Whether ``If-None-Match`` has the ETag; the comparison is weak, as the standard requires."""
    known = headers.get("if-none-match", "").strip()
    return bool(etag) and (known == "*" or etag in [tag for _, tag in _TAG.findall(known)])


def is_precondition_failed(headers: Mapping[str, str], etag: str) -> bool:
    """Whether ``If-Match`` is present and has not the ETag; weak ETags never match."""
    known = headers.get("if-match", "").strip()
    if not known or known == "*":
        return False
    return etag not in [tag for weak, tag in _TAG.findall(known) if not weak]


def is_range_current(headers: Mapping[str, str], etag: str) -> bool:
    """Whether ``If-Range`` is absent or has the ETag; a date never matches."""
    known = headers.get("if-range", "").strip()
    return not known or (bool(etag) and known == etag)
