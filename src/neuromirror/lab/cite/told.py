"""What one of upstream's documents says for a citation, and how such documents are read.

Documents come from outside: nothing in them is sure to be there, or to be of the kind it should be.
What is not understood is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Protocol

from neuromirror.lab.cite.works import Agent, Funder, License, Organisation, Related


@dataclass(frozen=True, slots=True)
class Told:
    """What a document says; the fields are those of :class:`~neuromirror.lab.cite.works.Work`."""

    authors: tuple[Agent, ...] = ()
    publisher: Organisation | None = None
    published: date | None = None
    created: date | None = None
    address: str = ""
    identifiers: tuple[tuple[str, str], ...] = ()
    licenses: tuple[License, ...] = ()
    description: str = ""
    keywords: tuple[str, ...] = ()
    funders: tuple[Funder, ...] = ()
    related: tuple[Related, ...] = ()
    asked: tuple[str, ...] = ()


class Documents(Protocol):
    """The documents of one version."""

    def parsed(self, path: str) -> Mapping[str, Any]:
        """The JSON object in a document; empty where there is none."""


def parse(content: bytes) -> Mapping[str, Any]:
    """A JSON object; empty for what is none."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return mapping(value)


def mapping(value: Any) -> Mapping[str, Any]:
    """The value, if it is an object; else an empty one."""
    return value if isinstance(value, dict) else {}


def mappings(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yields the objects in a list."""
    for one in value if isinstance(value, list) else []:
        if isinstance(one, dict):
            yield one
