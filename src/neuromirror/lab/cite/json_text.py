"""Encode JSON as UTF-8 with invisible characters escaped; equal values give equal bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Final, TypeVar

_Value = TypeVar("_Value")

_UNSEEN: Final = re.compile(
    "[\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)
"""Invisible characters, and those that change the writing direction."""


def indented_json(value: Any) -> str:
    """Encode a value indented, with a newline at the end."""
    return _escaped(json.dumps(value, ensure_ascii=False, indent=2)) + "\n"


def compact_json(value: Any) -> str:
    """Encode a value on one line."""
    return _escaped(json.dumps(value, ensure_ascii=False))


def _escaped(text: str) -> str:
    return _UNSEEN.sub(lambda found: json.dumps(found[0])[1:-1], text)


def distinct(values: Iterable[_Value]) -> list[_Value]:
    """Return JSON values in their order, without duplicates."""
    found: list[_Value] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def without_empty(table: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON object without its members that are null or an empty text, list or object.

    Zeros and False are kept, and so is everything within the members: only the outermost object is
    filtered.
    """
    return {
        name: value
        for name, value in table.items()
        if value is not None and value not in ("", [], {}, ())
    }
