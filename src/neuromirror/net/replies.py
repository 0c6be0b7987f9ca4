"""What a session gives: a reply without its body, with it, or still open."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import requests.structures


@dataclass(frozen=True, slots=True)
class Reply:
    """The status and headers (names in any case) of a reply without its body."""

    status: int
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Body(Reply):
    """A whole reply."""

    content: bytes


@dataclass(frozen=True, slots=True)
class Stream:
    """An open reply; ``chunks`` raises a NetError when the body ends before its stated length."""

    status: int
    headers: Mapping[str, str]
    chunks: Iterator[bytes]


def dict_of(headers: Mapping[str, str]) -> Mapping[str, str]:
    """A copy of reply headers whose names are found in any case."""
    return requests.structures.CaseInsensitiveDict(headers)
