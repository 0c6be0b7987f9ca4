"""Read documents of upstream for a citation.

Documents are untrusted: every field may be missing or have a wrong type, and is then ignored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol


class Documents(Protocol):
    """The documents of one version, as the readers of citation metadata need them."""

    def parsed(self, path: str) -> Mapping[str, Any]:
        """Return the JSON object in a document; empty without a document."""


MAX_MEMBERS: Final = 10_000
"""Maximum number of list members that are read: twice the longest known list of authors."""
_MAX_DOCUMENT_BYTES: Final = 8 << 20
"""Maximum size of a document in bytes; for a larger one, the fields of the mirror are cited."""


def parse_object(content: bytes) -> Mapping[str, Any]:
    """Parse a JSON object; empty if it is invalid or too large."""
    if len(content) > _MAX_DOCUMENT_BYTES:
        return {}
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return mapping(value)


def mapping(value: Any) -> Mapping[str, Any]:
    """Return the value if it is a JSON object (``dict``), else ``{}``."""
    return value if isinstance(value, dict) else {}


def mappings(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the JSON objects (``dict``) among the first :data:`MAX_MEMBERS` members of a list."""
    for one in value[:MAX_MEMBERS] if isinstance(value, list) else []:
        if isinstance(one, dict):
            yield one
