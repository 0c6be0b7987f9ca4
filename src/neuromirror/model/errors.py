"""Errors, and texts for people: upstream text, counts and sizes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final


class NeuromirrorError(Exception):
    """An error whose message states what failed, on which object, why, and what to do next.

    Parameters
    ----------
    message
        The message, which may end with advice.
    hint
        Advice for the operator of the store, such as a command to run. It is part of
        ``str(error)``.
    suggestions
        Names that the user may have meant, the nearest first. They are part of ``str(error)``.

    Attributes
    ----------
    problem
        The message without hint and suggestions, for readers who have no access to the store.
    hint, suggestions
        The arguments of the same names.
    exit_code
        The exit code of the command line: 1 for a failure or a failed verification, 2 for wrong
        usage or configuration, 3 for a listing held for approval.
    """

    exit_code = 1
    suggestions: tuple[str, ...] = ()

    def __init__(
        self, message: str = "", *, hint: str = "", suggestions: Sequence[str] = ()
    ) -> None:
        nearest = f"did you mean {' or '.join(suggestions)}?" if suggestions else ""
        super().__init__("; ".join(filter(None, (message, hint, nearest))))
        self.problem = message
        self.hint = hint
        self.suggestions = tuple(suggestions)


class ConfigurationError(NeuromirrorError):
    """The configuration or the command line is invalid."""

    exit_code = 2


class UnknownAddressError(ConfigurationError):
    """A name or address is malformed or unknown.

    Parameters
    ----------
    message
        The message, without the suggestions.
    suggestions
        Names that the user may have meant, the nearest first.
    """

    def __init__(self, message: str, suggestions: Sequence[str] = ()) -> None:
        super().__init__(message, suggestions=suggestions)


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
