"""What a session gives: a reply without its body, with it, or still open; headers are read here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

import requests.structures

_LENGTH: Final = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """The status and headers (names in any case) of a reply without its body."""

    status: int
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Response(ResponseHead):
    """A whole reply."""

    content: bytes


@dataclass(frozen=True, slots=True)
class ResponseStream:
    """An open reply; ``chunks`` raises a NetError when the body ends before its stated length."""

    status: int
    headers: Mapping[str, str]
    chunks: Iterator[bytes]


def case_insensitive(headers: Mapping[str, str]) -> Mapping[str, str]:
    """A copy of reply headers whose names are found in any case."""
    return requests.structures.CaseInsensitiveDict(headers)


def content_length(headers: Mapping[str, str]) -> int | None:
    """The bytes of a body as ``Content-Length`` states them; None where it states no number."""
    stated = headers.get("Content-Length", "").strip()
    return int(stated) if _LENGTH.fullmatch(stated) else None


def parse_http_date(value: str) -> datetime | None:
    """The time in a header, in UTC; None for what is no date of any calendar."""
    try:
        moment = parsedate_to_datetime(value)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        return None
