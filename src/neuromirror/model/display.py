"""Format upstream text and sizes for display."""

from __future__ import annotations

import re
from typing import Final

UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, surrogates and characters that change the direction of writing."""


def escape_unprintable(text: str) -> str:
    r"""Replace :data:`UNPRINTABLE` characters in a text by escapes such as ``\x1b``.

    Parameters
    ----------
    text
        The text.

    Returns
    -------
    str
        The text, safe for a terminal.
    """
    return UNPRINTABLE.sub(lambda found: ascii(found.group())[1:-1], text)


def escape_surrogates(text: str) -> str:
    """Return a text that can be encoded: JSON and names of files may have unpaired surrogates.

    Parameters
    ----------
    text
        The text.

    Returns
    -------
    str
        The text with escapes of the surrogates.
    """
    return text.encode("utf-8", "backslashreplace").decode()


def format_bytes(count: int) -> str:
    """Return a size in SI units, such as ``189.5 kB``.

    Parameters
    ----------
    count
        The size in bytes.

    Returns
    -------
    str
        The size with its unit.
    """
    size = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} PB"


def count_of(count: int, what: str) -> str:
    """Return a count with its noun.

    Parameters
    ----------
    count
        The number.
    what
        The noun in the singular.

    Returns
    -------
    str
        Such as ``2 files``.
    """
    return f"{count} {what}{'' if count == 1 else 's'}"
