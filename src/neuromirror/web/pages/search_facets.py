"""The links of the facets on the page of results: each adds or removes one value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from msgspec import Struct
from msgspec.structs import replace

from neuromirror.index import FACETS, SORTS, FacetCount, canonical_value
from neuromirror.web.addresses import search_address
from neuromirror.web.request import CatalogueRequest
from neuromirror.web.site import Site

_TITLES: Final = {
    **{"archive": "Archive", "species": "Species", "subject": "Subject"},
    **{"brain_region": "Brain region", "technique": "Technique", "level": "Processing"},
    **{
        "data_type": "Data type",
        "license": "License",
        "size": "Size",
        "year": "Year of the latest version",
    },
    **{"status": "Status", "volume": "Volume"},
}
_VALUE_LABELS: Final = {
    ("status", "published"): "Published",
    ("status", "draft"): "Draft",
    ("status", "observed"): "Observed state",
    ("volume", "yes"): "Volumes",
}
SORT_LABELS: Final = {
    "relevance": "best match",
    "newest": "newest",
    "size": "largest",
    "title": "title",
}
_OPEN: Final = frozenset({"archive", "species", "technique", "status"})
"""Facets whose values are shown at once."""
_SHOWN: Final = 8
"""Number of values before the others are folded."""
_MAX_LISTED: Final = 60
"""Number of values of a facet that a page lists; a search finds datasets by any other value."""
_MAX_SELECTED: Final = 50


class SearchQuery(Struct, frozen=True):
    """A search, as the URL of a page of results contains it.

    Attributes
    ----------
    terms
        The text of the search.
    filters
        The selected values by facet.
    sort
        The order of the results; empty for the default.
    page
        The number of the page, from 1.
    """

    terms: str
    filters: Mapping[str, tuple[str, ...]]
    sort: str
    page: int

    @classmethod
    def of(cls, request: CatalogueRequest) -> SearchQuery:
        """Read the query of a request; raises BadRequestError."""
        # invisible characters are no part of a term and must not be shown
        plain = (one if one.isprintable() else " " for one in request.query_parameter("q"))
        given = request.query_parameters()
        filters = {
            name: tuple(
                dict.fromkeys(
                    canonical_value(name, one) for one in given[name][:_MAX_SELECTED] if one
                )
            )
            for name in FACETS
            if name in given
        }
        return cls(
            "".join(plain).strip(),
            {name: values for name, values in filters.items() if values},
            request.query_parameter("sort"),
            request.integer_parameter("page", 1, 20_000),
        )

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The selected values, as facet and value."""
        return [(name, value) for name, values in self.filters.items() for value in values]

    @property
    def archive(self) -> str:
        """The selected archive; empty for none or several."""
        selected = self.filters.get("archive", ())
        return selected[0] if len(selected) == 1 else ""

    @property
    def is_plain(self) -> bool:
        """Whether the query has search terms only: no filter, sort order or later page."""
        return not self.filters and not self.sort and self.page == 1

    def address(self, **changes: Any) -> str:
        """Return the address of a changed query; without changes, of this query's first page."""
        other = replace(self, **{"page": 1, **changes})
        return search_address(other.terms, other.pairs, other.sort, other.page)

    def csv_address(self) -> str:
        """Return the address of all results as CSV."""
        return search_address(self.terms, [*self.pairs, ("format", "csv")], self.sort)

    def feed_address(self) -> str:
        """Return the address of the feed of the results, of an archive, or of all datasets."""
        if self.archive and not self.terms and len(self.pairs) == 1:
            return f"/feed/{quote(self.archive)}.atom"
        return search_address(self.terms, self.pairs).replace("/search", "/feed.atom", 1)

    def toggled(self, facet: str, value: str) -> str:
        """Return the address with a value added, or removed if it is selected."""
        values = self.filters.get(facet, ())
        changed = (
            tuple(one for one in values if one != value) if value in values else (*values, value)
        )
        filters = {**self.filters, facet: changed}
        pairs = [(name, one) for name, selected in filters.items() for one in selected]
        return search_address(self.terms, pairs, self.sort)

    def sorts(self) -> dict[str, str]:
        """Return the labels of the orders by name."""
        return {name: SORT_LABELS[name] for name in SORTS if self.terms or name != "relevance"}


def facet_context(
    site: Site, query: SearchQuery, facets: Mapping[str, Sequence[FacetCount]], total: int
) -> list[dict[str, Any]]:
    """Return the facets of a search for the template: their values, with counts and links.

    The link of a value adds it to the search or removes it. A facet is left out if all its values
    are those of every result.

    Parameters
    ----------
    site
        The site, for titles of archives.
    query
        The search.
    facets
        The values with their counts, by facet.
    total
        The number of results.
    """
    found = []
    for name, counts in facets.items():
        is_selected = any(one.is_selected for one in counts)
        values = [
            {
                "label": value_label(site, name, one.value),
                "count": one.count,
                "selected": one.is_selected,
                "address": query.toggled(name, one.value),
            }
            for position, one in enumerate(counts)
            if one.is_selected or (one.count and position < _MAX_LISTED)
        ]
        # a value that every result has selects nothing
        if values and (is_selected or any(one.count < total for one in counts)):
            found.append(
                {
                    "title": _TITLES[name],
                    "open": name in _OPEN or is_selected,
                    "values": values[:_SHOWN],
                    "more": values[_SHOWN:],
                }
            )
    return found


def value_label(site: Site, facet: str, value: str) -> str:
    """Return the text that visitors see for a value of a facet."""
    if facet == "archive":
        return site.archive_title(value)
    return _VALUE_LABELS.get((facet, value), value)
