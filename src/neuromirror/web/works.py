"""What is cited of a version, read from git once: citations, people, upstream's own words."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from neuromirror.index import VersionRow
from neuromirror.lab import Collection, Work, cite, read_work, state_of_version
from neuromirror.lab.cite.errors import NotCitable
from neuromirror.lab.cite.works import Agent, Person
from neuromirror.model import NeuromirrorError
from neuromirror.store import Store

FORMATS = ("text", "bibtex", "csl", "cff")
_KEPT = 100


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


def cited(store: Store, row: VersionRow) -> Cited | None:
    """What is cited of a version; None where git cannot read its commit."""
    try:
        return _cited(store, _Version(row))
    except (NeuromirrorError, OSError):
        return None  # a page has more to tell than that


def citation_of(store: Store, row: VersionRow, form: str) -> str:
    """A citation of a version in one of :data:`FORMATS`; raises NotCitable."""
    found = cited(store, row)
    if found is None:
        raise NotCitable(f"the commit of {row.name} cannot be read, so that it cannot be cited")
    return found.formats[form]


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
