"""JSON for files that people keep: indented, UTF-8, the same bytes for the same content."""

from __future__ import annotations

import json
import re
from typing import Any, Final

_UNSEEN: Final = re.compile(
    "[\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)
"""Characters that show nothing, or show others in another order."""


def indented_json(value: Any) -> str:
    """The value on lines of its own, with a newline at the end."""
    return _escaped(json.dumps(value, ensure_ascii=False, indent=2)) + "\n"


def compact_json(value: Any) -> str:
    """The value in one line."""
    return _escaped(json.dumps(value, ensure_ascii=False))


def _escaped(text: str) -> str:
    return _UNSEEN.sub(lambda found: json.dumps(found[0])[1:-1], text)


def without_empty(table: dict[str, Any]) -> dict[str, Any]:
    """The table without what is None or empty; zeros stay."""
    return {
        name: value
        for name, value in table.items()
        if value is not None and value not in ("", [], {}, ())
    }
