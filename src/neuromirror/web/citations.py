"""Citations of versions, read from git and cached."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from neuromirror.index import VersionRow
from neuromirror.lab import CitationCollection, CitedWork, cite, read_work, state_of_version
from neuromirror.lab.cite.works import NotCitableError
from neuromirror.model import NeuromirrorError
from neuromirror.store import Store
from neuromirror.web.recent_results import RecentResults

FORMATS = ("text", "bibtex", "csl", "cff")


class CitationData(Struct, frozen=True):
    """The citations of a version in all formats, and the metadata for its page.

    Attributes
    ----------
    formats
        The citation by name of the format.
    people
        The names of the authors.
    description, keywords
        The description and keywords of upstream.
    work
        The whole metadata.
    """

    formats: dict[str, str]
    people: tuple[str, ...]
    description: str
    keywords: tuple[str, ...]
    work: CitedWork


_CITATIONS: Final[RecentResults[str, CitationData]] = RecentResults(500)
"""Citations by commit, on which they depend only."""


def read_citation(store: Store, row: VersionRow) -> CitationData | None:
    """Return the citations of a version; None if git cannot read its commit."""
    found = _CITATIONS.get(row.commit)
    if found is None:
        try:
            found = _read_citation(store, row)
        except (NeuromirrorError, OSError):
            return None  # the page is useful without citations
        _CITATIONS.put(row.commit, found)
    return found


def require_citation(store: Store, row: VersionRow) -> CitationData:
    """Return the citations of a version.

    Raises
    ------
    NotCitableError
        If the commit cannot be read.
    """
    found = read_citation(store, row)
    if found is None:
        raise NotCitableError(
            f"the commit of {row.name} cannot be read, so that it cannot be cited"
        )
    return found


def _read_citation(store: Store, row: VersionRow) -> CitationData:
    work = read_work(state_of_version(store, row))
    collection = CitationCollection((work,))
    return CitationData(
        {form: "".join(cite(collection, form)) for form in FORMATS},
        tuple(getattr(one, "full_name", one.name) for one in work.authors),
        work.description,
        work.keywords,
        work,
    )
