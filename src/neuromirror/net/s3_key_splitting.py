"""Where to cut a range of keys in two.

Any key may be a cut: a range ends with it and the next begins after it. So a cut chosen badly
costs a request, never a row.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from string import digits
from typing import Final

_DIGITS: Final = 16
_NOT_ASCII: Final = 0x80
_LOWEST: Final = 0x21
_HIGHEST: Final = 0x7E


def common_prefix_length(one: bytes, other: bytes) -> int:
    """How many bytes two names begin with alike."""
    most = min(len(one), len(other))
    for at in range(most):
        if one[at] != other[at]:
            return at
    return most


def folder_below(key: bytes, above: bytes) -> bytes | None:
    """The folder that holds ``key`` one level below ``above``; None if it is there itself."""
    slash = key.find(b"/", len(above))
    return None if slash < 0 or not key.startswith(above) else key[: slash + 1]


@dataclass(frozen=True, slots=True)
class KeyInterpolator:
    """Names below ``base`` as numbers whose digits are ``letters``; ``low`` is where one stands.

    ``page`` is the distance that one page went, ``high`` the end, as far as one knows.
    """

    prefix: bytes
    alphabet: bytes
    low: int
    high: int
    page_distance: int

    def estimate_pages(self) -> float:
        """How many pages lie ahead if names go on as densely as they did."""
        return (self.high - self.low) / self.page_distance

    def key_ahead(self, *, misses: int) -> bytes:
        """A name ahead: half way, as suits hashes, as long as there is something behind it.

        After ``misses`` it is the geometric middle between one page and all, as suits numbers
        whose first digits are always the same.
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
    """What names below the folder ``above`` are made of, going by the keys seen on a page.

    Only printable ASCII is made, which every store takes as a start key, and no key is cut
    inside a character. None where the names differ in other bytes.
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
        # A page of numbers may lack some, but the next will have them.
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
