"""Choose the keys at which ranges of a listing are split.

Any key is a valid split: one range ends with it and the next starts after it. A bad choice costs
a request, never a row.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from math import isqrt
from string import digits
from typing import Final

from msgspec import Struct

_DIGITS: Final = 16
_NOT_ASCII: Final = 0x80
_LOWEST: Final = 0x21
_HIGHEST: Final = 0x7E


def common_prefix_length(one: bytes, other: bytes) -> int:
    """Return the length of the common prefix of two names."""
    most = min(len(one), len(other))
    for at in range(most):
        if one[at] != other[at]:
            return at
    return most


def folder_below(key: bytes, above: bytes) -> bytes | None:
    """Return the subfolder of ``above`` that contains ``key``, with its slash.

    The result is None if the key is directly in ``above``, or not below it.
    """
    slash = key.find(b"/", len(above))
    return None if slash < 0 or not key.startswith(above) else key[: slash + 1]


class KeyInterpolator(Struct, frozen=True):
    """Estimates keys ahead in a range, by reading what follows their common prefix as numbers.

    Attributes
    ----------
    prefix
        The common prefix.
    alphabet
        The characters that are the digits of the numbers, in byte order.
    low, high
        The numbers of the current position and of the estimated end.
    page_distance
        The difference between ``low`` and the number of the first key of the last page.
    """

    prefix: bytes
    alphabet: bytes
    low: int
    high: int
    page_distance: int

    def estimate_pages(self) -> float:
        """Estimate the number of remaining pages, at the density of the last page."""
        return (self.high - self.low) / self.page_distance

    def key_ahead(self, *, misses: int) -> bytes:
        """Return a key at which to split the remaining range.

        Without ``misses`` (earlier splits with nothing after them) it is the middle, which suits
        hashes. After a miss it is the geometric mean of one page and the whole range, which suits
        numbers with constant leading digits.
        """
        far = self.high - self.low
        far = isqrt(self.page_distance * max(1, far)) if misses else far // 2
        number = min(self.low + far, len(self.alphabet) ** _DIGITS - 1)
        name = bytearray()
        for _ in range(_DIGITS):
            number, digit = divmod(number, len(self.alphabet))
            name.append(self.alphabet[digit])
        return self.prefix + bytes(reversed(name)).rstrip(self.alphabet[:1])


def fit_interpolator(
    at: bytes, until: bytes | None, *, above: bytes, seen: Sequence[bytes]
) -> KeyInterpolator | None:
    """Fit an interpolator to the keys of a page, to estimate where to split a range of keys.

    A split key is the common prefix of the keys of the range, which must be valid UTF-8, followed
    by printable ASCII characters that occur in the page: every store accepts such a start key.

    Parameters
    ----------
    at, until
        The range of keys that is still to be listed, without ``at``; ``until`` is None for an open
        range.
    above
        The folder that contains the range, with its slash.
    seen
        Keys of the last page.

    Returns
    -------
    KeyInterpolator or None
        The interpolator. None if the common prefix is not UTF-8, if ``at`` is outside of the
        folder, or if fewer than two different printable ASCII characters follow the prefix.
    """
    base = above
    if until is not None and until.startswith(above):
        base = at[: max(len(above), common_prefix_length(at, until))]
    while len(base) < len(at) and at[len(base)] >= _NOT_ASCII:
        base = at[: len(base) + 1]
    if base != at[: len(base)] or not _is_utf8(base):
        return None
    known = until is not None and until.startswith(base)
    tails = [key[len(base) :] for key in seen if key.startswith(base)]
    found = {byte for byte in b"".join(tails) if _LOWEST <= byte <= _HIGHEST}
    if not found.isdisjoint(digits.encode()):
        # If some digits occur, further pages may contain the others.
        found.update(digits.encode())
    letters = bytes(sorted(found))
    if len(letters) < 2:
        return None
    low = _number_of(at[len(base) :], letters)
    high = len(letters) ** _DIGITS
    if known and until is not None:
        high = _number_of(until[len(base) :], letters)
    return KeyInterpolator(base, letters, low, high, max(1, low - _number_of(tails[0], letters)))


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def _number_of(name: bytes, letters: bytes) -> int:
    value = 0
    for at in range(_DIGITS):
        digit = bisect_right(letters, name[at]) - 1 if at < len(name) else 0
        value = value * len(letters) + max(0, digit)
    return value
