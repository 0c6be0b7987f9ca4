"""How upstream's documents are read for a citation.

Documents come from outside: nothing in them is sure to be there, or to be of the kind it should be.
What is not understood is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol


class Documents(Protocol):
    """The documents of one version."""

    def parsed(self, path: str) -> Mapping[str, Any]:
        """The JSON object in a document; empty where there is none."""


MAX_MEMBERS: Final = 10_000
"""Members of one list that are read: twice the authors of the longest author list known."""
_MAX_DOCUMENT_BYTES: Final = 8 << 20
"""Bytes of a document that is read; of a larger one, what the mirror gathered is cited."""


def parse_object(content: bytes) -> Mapping[str, Any]:
    """A JSON object; empty for what is none, or is too large."""
    if len(content) > _MAX_DOCUMENT_BYTES:
        return {}
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return mapping(value)


def mapping(value: Any) -> Mapping[str, Any]:
    """The value, if it is an object; else an empty one."""
    return value if isinstance(value, dict) else {}


def mappings(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yields the objects in a list, of :data:`MOST` members at most."""
    for one in value[:MAX_MEMBERS] if isinstance(value, list) else []:
        if isinstance(one, dict):
            yield one
