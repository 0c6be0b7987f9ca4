"""What is cited of a version, read from git once: citations, people, words for search engines."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Any

from neuromirror.index import VersionRow
from neuromirror.lab import Collection, Work, cite, read_work, state_of_version
from neuromirror.lab.cite.works import Agent, Person
from neuromirror.store import Store

FORMATS = ("text", "bibtex", "csl", "cff")
_KEPT = 1000


@dataclass(frozen=True, slots=True)
class Cited:
    """Citations by format, the names of people, upstream's description."""

    formats: dict[str, str]
    people: tuple[str, ...]
    description: str
    keywords: tuple[str, ...]
    work: Work


class _Version:
    """A version, equal to every other one of its commit: what is cited depends on no more."""

    def __init__(self, row: VersionRow) -> None:
        self.row = row

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Version) and other.row.commit == self.row.commit

    def __hash__(self) -> int:
        return hash(self.row.commit)


def cited(store: Store, row: VersionRow) -> Cited:
    """What is cited of a version; raises what reading git raises."""
    return _cited(store, _Version(row))


@functools.lru_cache(maxsize=_KEPT)
def _cited(store: Store, version: _Version) -> Cited:
    work = read_work(state_of_version(store, version.row))
    collection = Collection((work,))
    return Cited(
        {form: "".join(cite(collection, form)) for form in FORMATS},
        tuple(_name(one) for one in work.authors),
        work.description,
        work.keywords,
        work,
    )


def _name(one: Agent) -> str:
    return one.whole if isinstance(one, Person) else one.name


def linked_data(found: Cited, address: str) -> str:
    """The version as a schema.org Dataset (JSON-LD), safe inside of a ``script`` element."""
    work = found.work
    told: dict[str, Any] = {
        "@context": "https://schema.org/",
        "@type": "Dataset",
        "name": work.title or work.state.name,
        "description": work.description or f"{work.title or work.state.name}: {work.files} files",
        "url": address,
        "version": work.state.label,
        "identifier": [
            *([f"https://doi.org/{work.doi}"] if work.doi else []),
            f"swh:1:rev:{work.state.commit}",
        ],
        "license": [one.url or one.name for one in work.licenses],
        "creator": [
            {"@type": "Person" if isinstance(one, Person) else "Organization", "name": _name(one)}
            for one in work.authors
        ],
        "keywords": list(work.keywords),
        "isBasedOn": work.address or work.source,
        "dateModified": work.state.time.isoformat(),
    }
    text = json.dumps({key: value for key, value in told.items() if value})
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
