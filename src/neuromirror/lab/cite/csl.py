"""CSL-JSON (csl-data.json of CSL 1.0.2), as Zotero, pandoc and citeproc read it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Any

from neuromirror.lab.cite.json_text import indented_json
from neuromirror.lab.cite.phrases import note
from neuromirror.lab.cite.works import Agent, CitationCollection, CitedWork, Person


def write_csl(collection: CitationCollection) -> Iterator[str]:
    """Yield the text of a CSL-JSON file: one list with one item per work."""
    items = [
        _item(key, work) for key, work in zip(collection.keys(), collection.works, strict=True)
    ]
    yield indented_json(items)


def _item(key: str, work: CitedWork) -> dict[str, Any]:
    fields = {
        "id": key,
        "type": "dataset",
        "title": work.title,
        "author": [_name(one) for one in work.authors],
        "issued": _date(work.citation_date),
        "version": work.version,
        "publisher": "" if work.publisher is None else work.publisher.name,
        "DOI": work.doi,
        "URL": work.url,
        "abstract": work.description,
        "keyword": ", ".join(work.keywords),
        "note": note(work),
    }
    return {name: value for name, value in fields.items() if value}


def _name(one: Agent) -> dict[str, str]:
    if not isinstance(one, Person):
        return {"literal": one.name}
    if not one.family:
        return {"literal": one.full_name}
    fields = {
        "family": one.family,
        "given": one.given,
        "non-dropping-particle": one.particle,
        "suffix": one.suffix,
    }
    return {name: value for name, value in fields.items() if value}


def _date(day: date | None) -> dict[str, Any] | None:
    return None if day is None else {"date-parts": [[day.year, day.month, day.day]]}
