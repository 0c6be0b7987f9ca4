"""JSON for files that people keep: indented, UTF-8, the same bytes for the same content."""

from __future__ import annotations

import json
from typing import Any


def dumped(value: Any) -> str:
    """The value on lines of its own, with a newline at the end."""
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def compact(value: Any) -> str:
    """The value in one line."""
    return json.dumps(value, ensure_ascii=False)


def kept(table: dict[str, Any]) -> dict[str, Any]:
    """The table without what is None or empty; zeros stay."""
    return {
        name: value
        for name, value in table.items()
        if value is not None and value not in ("", [], {}, ())
    }
