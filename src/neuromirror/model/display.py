"""What is shown to people: text from upstream without tricks, and sizes they can read."""

from __future__ import annotations

import re
from typing import Final

UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What would move a cursor, start an escape sequence or turn the direction of writing."""


def escape_unprintable(text: str) -> str:
    """Text from upstream with escapes (``\\x1b``) in place of what is :data:`UNPRINTABLE`."""
    return UNPRINTABLE.sub(lambda found: ascii(found.group())[1:-1], text)


def format_bytes(count: int) -> str:
    """A size for people: ``189.5 kB`` (SI units, as archives state them)."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} PB"
