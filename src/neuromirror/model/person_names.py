"""Names of several people in one text."""

from __future__ import annotations

import re
from typing import Final

GENERATIONS: Final = frozenset({"jr", "sr", "ii", "iii", "iv"})
"""Generational suffixes of a name, without dots, in lower case."""

DEGREES: Final = frozenset(
    {
        *("phd", "dphil", "md", "dsc", "msc", "mphil", "mph", "mba", "bsc", "edd", "psyd"),
        *("dvm", "vmd", "dds", "dmd", "pharmd", "jd", "rn", "facs", "frcp"),
    }
)
"""Academic degrees after a name, without dots, in lower case, except those that are also names."""

# The look-behind prevents quadratic time on long white space in untrusted texts.
_SEPARATOR: Final = re.compile(r"(?:(?<!\s)\s+)?[;&]\s*|(?<!\s)\s+(?:and|und|et)\s+")


def is_degree(text: str) -> bool:
    """Return whether a text is an academic degree: ``PhD``, ``Ph.D.``, ``M.D.``."""
    return _letters(text) in DEGREES


def is_generation(text: str) -> bool:
    """Return whether a text is a generational suffix: ``Jr.``, ``III``."""
    return _letters(text) in GENERATIONS


def split_person_names(text: str) -> list[str]:
    """Split a text into the names of people in it.

    Semicolons, ``and`` and ``&`` separate people. A comma separates people, except before a degree
    or a generational suffix (``José Núñez, PhD``) and between family and given name
    (``Doe, Jane``).

    Parameters
    ----------
    text
        One name or several, as written upstream.

    Returns
    -------
    list of str
        The names, as written; empty if there are none.
    """
    return [name for part in _SEPARATOR.split(text) for name in _split_at_commas(part)]


def _split_at_commas(text: str) -> list[str]:
    names: list[str] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        if names and (is_degree(part) or is_generation(part)):
            names[-1] += f", {part}"
        else:
            names.append(part)
    pairs = list(zip(names[::2], names[1::2], strict=False))
    if len(names) % 2 == 0 and all(_is_inverted(family, given) for family, given in pairs):
        return [f"{family}, {given}" for family, given in pairs]
    return names


def without_degrees(name: str) -> str:
    """Return one person's name without the academic degrees after it."""
    parts = [part.strip() for part in name.split(",")]
    return ", ".join(part for at, part in enumerate(parts) if not at or not is_degree(part))


def _is_inverted(family: str, given: str) -> bool:
    """Return whether two parts are the family and the given names of one person."""
    return not (_is_full(family) and _is_full(given))


def _is_full(name: str) -> bool:
    """Return whether a name has more than one word and does not end with an initial."""
    tokens = [token for token in name.partition(",")[0].split() if not token[:1].islower()]
    return len(tokens) > 1 and len(tokens[-1].rstrip(".")) > 1


def _letters(text: str) -> str:
    return text.replace(".", "").replace(" ", "").casefold()
