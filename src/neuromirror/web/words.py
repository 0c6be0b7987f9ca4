"""Numbers, times and the words of proof, as people read them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

EVIDENCE: Mapping[str, str] = {
    "sha256": "known by their SHA-256: any change of a byte would be seen",
    "md5": "known by their MD5: accidents would be seen, a forgery might not",
    "etag": "known by S3's checksum of an upload in parts: accidents would be seen",
    "size": "known by their size alone",
    "none": "nothing is known to compare them with",
}
RETENTION: Mapping[str, str] = {
    "published": "upstream promises to keep these bytes for ever",
    "versioned-bucket": "the bucket keeps this very version, until somebody removes it",
    "mutable-bucket": "upstream may put other bytes in their place at any time",
    "draft": "of a draft: upstream may delete what it no longer lists",
}


def size(count: int | None) -> str:
    """A size: ``189.5 kB`` (SI units, as archives state them)."""
    if count is None:
        return "unknown"
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} PB"


def number(count: int | None) -> str:
    """A number with its thousands apart: ``1,200``."""
    return "unknown" if count is None else f"{count:,}"


def moment(text: str | None) -> str:
    """A time of the journal: ``2024-03-01 12:00 UTC``."""
    if not text:
        return "never"
    return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M UTC")


def printable(text: object) -> str:
    """Text from upstream as it may be shown: signs that are not seen, or turn others, as escapes.

    HTML's own signs are left to the template.
    """
    return _UNPRINTABLE.sub(lambda found: ascii(found.group())[1:-1], str(text))


FILTERS: Mapping[str, Callable[..., str]] = {
    "size": size,
    "number": number,
    "moment": moment,
    "printable": printable,
    "evidence": lambda word: EVIDENCE.get(word, word),
    "retention": lambda word: RETENTION.get(word, word),
}
