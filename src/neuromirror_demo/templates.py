"""Documents of archives as JSON files in ``data``, with places for values."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any


@cache
def read_data(name: str) -> Any:
    """Return the content of a file of ``data``, which must not be changed."""
    return json.loads((Path(__file__).parent / "data" / f"{name}.json").read_text("utf-8"))


def filled(node: Any, values: dict[str, Any]) -> Any:
    """Return a copy in which ``{name}`` in texts, and texts ``$name``, are replaced by values."""
    if isinstance(node, dict):
        return {filled(name, values): filled(one, values) for name, one in node.items()}
    if isinstance(node, list):
        return [filled(one, values) for one in node]
    if isinstance(node, str):
        return values[node[1:]] if node.startswith("$") else node.format(**values)
    return node
