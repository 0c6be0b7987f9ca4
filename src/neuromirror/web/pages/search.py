"""The front page, search results, and files by checksum."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby, islice
from typing import Any, Final
from urllib.parse import quote

from msgspec import Struct
from msgspec.structs import replace
from starlette.responses import Response

from neuromirror.index import (
    FACETS,
    SORTS,
    FacetCount,
    FoundDataset,
    FoundDatasets,
    Index,
    MalformedQueryError,
    MatchedText,
    canonical_value,
    is_checksum,
    shapes,
    without_general_techniques,
)
from neuromirror.web.addresses import (
    dataset_address,
    file_address,
    find_address,
    search_address,
    version_address,
)
from neuromirror.web.pages.downloads import csv_response, is_csv
from neuromirror.web.pages.status import front_page
from neuromirror.web.request import CatalogueRequest, redirect, view
from neuromirror.web.site import Site

_TITLES: Final = {
    **{"archive": "Archive", "project": "Project", "species": "Species", "subject": "Subject"},
    **{"brain_region": "Brain region", "modality": "Modality", "technique": "Technique"},
    **{"level": "Processing", "data_type": "Data type", "license": "License", "size": "Size"},
    **{"year": "Year of acquisition, or of the latest version"},
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
        return self.address(filters={**self.filters, facet: changed})

    def results(self, index: Index, start: int, limit: int) -> FoundDatasets:
        """Return results from position ``start``; raises MalformedQueryError."""
        return index.search.datasets(
            self.terms, filters=self.filters, sort=self.sort, start=start, limit=limit
        )

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
        is_selected = any(count.is_selected for count in counts)
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
        if values and (is_selected or any(count.count < total for count in counts)):
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


_DOI: Final = re.compile(
    r"(?:https?://(?:dx\.)?doi\.org/|doi:\s*)?10\.\d{4,9}/\S+\Z", re.IGNORECASE
)
_PAGE_SIZE = 50
_RESULTS_PER_PAGE = 20
_MAX_SCANNED_FILES = 200_000
"""Number of files that a version's page searches at once."""
_MAX_SHOWN_TERMS = 600
_MAX_MATCHES = 4
"""Number of matching fields of a result."""
_FIELD_LABELS: Final = {"other": "details"}
"""Names of fields of the metadata that visitors would not understand."""
_CSV_COLUMNS: Final = (
    *("name", "title", "version", "published", "time", "files", "bytes", "versions"),
    *("archive", "species", "subject", "brain_region", "technique", "level", "data_type"),
    *("license", "doi", "status", "removed_upstream", "found_in", "path", "source", "url"),
)
_MAX_CSV_ROWS: Final = 10_000
_CSV_BATCH: Final = 200
_FACTS: Final = {"species": "", "subject": "subject ", "technique": "", "level": ""}
"""The facets whose values describe a result, with the words before a value."""
_MAX_FACTS = 2


@view
async def front(request: CatalogueRequest) -> Response:
    """Show the front page, or redirect a request that contains a search query.

    The redirect leads to the search results. A query that is only the name, id, DOI or URL of
    something in the store leads directly to its page; one that is only a checksum leads to the
    page of the files that have it.
    """
    query = SearchQuery.of(request)
    if not query.terms and query.is_plain:
        return await front_page(request)
    direct = await _direct_url(request, query.terms) if query.terms and query.is_plain else ""
    address = direct or query.address(page=query.page)
    return redirect(request.basket.carry_address(address))


@view
async def search(request: CatalogueRequest) -> Response:
    """Show the datasets that match terms and facets; a name leads directly to its page."""
    query = SearchQuery.of(request)
    if is_csv(request):
        return await _results_csv(request, query)
    if query.terms and query.is_plain:
        address = await _direct_url(request, query.terms)
        if address:
            return redirect(request.basket.carry_address(address))
    return await _results_page(request, query)


async def _direct_url(request: CatalogueRequest, terms: str) -> str:
    """Return the page of a name, an id or a checksum; empty for search terms."""
    found = await request.query_index(lambda index: index.names.match(terms))
    if found is None:
        return find_address(terms) if is_checksum(terms) else ""
    if found.key:
        return find_address(found.key)
    if found.label:
        return version_address(found.dataset, found.label)
    return dataset_address(found.dataset)


async def _results_page(request: CatalogueRequest, query: SearchQuery) -> Response:
    """Show the matching datasets with facets; without a result, the number for each term."""

    before = (query.page - 1) * _RESULTS_PER_PAGE

    def look(index: Index) -> dict[str, Any]:
        try:
            found = query.results(index, before, _RESULTS_PER_PAGE)
        except MalformedQueryError as error:
            return {"error": str(error), "status": 400}
        context: dict[str, Any] = {
            "found": [_result_context(row) for row in found.rows],
            "facets": facet_context(request.site, query, found.facets, found.total),
            "selected": [
                (value_label(request.site, name, value.value), query.toggled(name, value.value))
                for name, values in found.facets.items()
                for value in values
                if value.is_selected
            ],
            "total": found.total,
            "exact": found.exact,
            "more": found.next is not None,
        }
        if query.terms and not found.total:
            context["counts_by_term"] = index.search.count_terms(query.terms)
        return context

    context = await request.query_index(look)
    status = context.pop("status", 200)
    return await request.render_page(
        "search",
        status,
        query=query,
        terms=query.terms[:_MAX_SHOWN_TERMS],
        archive=query.archive,
        first=before + 1,
        is_doi=_DOI.match(query.terms) is not None,
        has_operators=not {"OR", "NOT"}.isdisjoint(query.terms.split()),
        **context,
    )


async def _results_csv(request: CatalogueRequest, query: SearchQuery) -> Response:
    """Return all matching datasets as CSV, in the order of the pages."""
    rows: list[dict[str, Any]] = []
    start: int | None = 0
    while start is not None and len(rows) < _MAX_CSV_ROWS:
        read = partial(query.results, start=start, limit=_CSV_BATCH)
        index = await request.query_index(read)
        rows += (_csv_row(request.site_url, row) for row in index.rows)
        start = index.next
    return csv_response(request, "datasets", _CSV_COLUMNS, rows[:_MAX_CSV_ROWS])


def _csv_row(site: str, one: FoundDataset) -> dict[str, Any]:
    row = one.dataset
    return {
        **dict.fromkeys(_CSV_COLUMNS),
        **one.values,
        **shapes.Dataset.of(row).plain(),
        "status": one.values.get("status"),
        "archive": row.mirror,
        "found_in": one.version,
        "path": one.path,
        "url": site + dataset_address(row.name),
    }


def _result_context(one: FoundDataset) -> dict[str, Any]:
    """Return a dataset with its matching texts and links to matching files."""
    row = one.dataset
    files = path = ""
    if one.version is not None:
        # in a large version, start the search at the match
        start = one.path if one.path and row.files > _MAX_SCANNED_FILES else ""
        files = version_address(row.name, one.version, start=start, match=" ".join(one.in_paths))
        if one.path:
            path = file_address(row.name, one.version, one.path)
    title = next((text for text in one.matched if text.field == "title"), None)
    others: dict[str, list[list[tuple[str, bool]]]] = {}
    for text in one.matched:
        if text.field not in ("name", "title"):
            label = _FIELD_LABELS.get(text.field, text.field)
            others.setdefault(label, []).append(_pieces(text))
    shown = shapes.Dataset.of(row).plain()
    return {
        **shown,
        "is_titled": shown["title"] not in ("", row.name, row.name.partition(":")[2]),
        "facts": [
            f"{_FACTS[name]}{value}"
            for name in _FACTS
            for value in without_general_techniques(one.values.get(name, ()))[:_MAX_FACTS]
        ],
        "state": next(iter(one.values.get("status", ())), ""),
        "title_pieces": None if title is None else _pieces(title),
        "matched": list(others.items())[:_MAX_MATCHES],
        "in_paths": one.in_paths,
        "found_in": one.version,
        "files_address": files,
        "path": one.path,
        "path_address": path,
    }


def _pieces(text: MatchedText) -> list[tuple[str, bool]]:
    """Return the pieces of a text, each with whether it matches."""
    pieces: list[tuple[str, bool]] = []
    last = 0
    for start, end in text.spans:
        pieces += [(text.value[last:start], False), (text.value[start:end], True)]
        last = end
    return [one for one in [*pieces, (text.value[last:], False)] if one[0]]


@view
async def find(request: CatalogueRequest) -> Response:
    """Show all occurrences of a checksum, grouped by content."""
    checksum = request.query_parameter("checksum").strip()
    page = request.integer_parameter("page", 1, 20_000)
    first = (page - 1) * _PAGE_SIZE

    def look(index: Index) -> dict[str, Any]:
        rows = index.files.find(checksum)
        found = [
            shapes.Occurrence.of(row).plain() for row in islice(rows, first, first + _PAGE_SIZE + 1)
        ]
        shown = found[:_PAGE_SIZE]
        return {
            "contents": [list(some) for _, some in groupby(shown, key=lambda one: one["key"])],
            "more": len(found) > _PAGE_SIZE,
            "not_indexed": [] if shown else index.files.unindexed(),
        }

    context = await request.query_index(look) if checksum else {}
    return await request.render_page("find", checksum=checksum, page=page, **context)
