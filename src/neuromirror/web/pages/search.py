"""The front page, search results, and files by checksum."""

from __future__ import annotations

import re
from functools import partial
from itertools import groupby, islice
from typing import Any, Final

from starlette.responses import Response

from neuromirror.index import (
    FoundDataset,
    Index,
    MalformedQueryError,
    MatchedText,
    NameMatch,
    is_checksum,
    shapes,
    without_general_techniques,
)
from neuromirror.web.addresses import (
    dataset_address,
    file_address,
    find_address,
    version_address,
)
from neuromirror.web.pages.csv_tables import csv_response, is_csv
from neuromirror.web.pages.front import front_page
from neuromirror.web.pages.search_facets import SearchQuery, facet_context, value_label
from neuromirror.web.request import CatalogueRequest, redirect, view

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
    found = await request.query_index(lambda index: index.match_name(terms))
    if found is not None:
        return _named_url(found)
    return find_address(terms) if is_checksum(terms) else ""


def _named_url(named: NameMatch) -> str:
    if named.key:
        return find_address(named.key)
    if named.label:
        return version_address(named.dataset, named.label)
    return dataset_address(named.dataset)


async def _results_page(request: CatalogueRequest, query: SearchQuery) -> Response:
    """Show the matching datasets with facets; without a result, the number for each term."""

    def look(index: Index) -> dict[str, Any]:
        try:
            found = index.find_datasets(
                query.terms,
                filters=query.filters,
                sort=query.sort,
                start=(query.page - 1) * _RESULTS_PER_PAGE,
                limit=_RESULTS_PER_PAGE,
            )
        except MalformedQueryError as error:
            return {"error": str(error), "status": 400}
        context: dict[str, Any] = {
            "found": [_result_context(one) for one in found.rows],
            "facets": facet_context(request.site, query, found.facets, found.total),
            "selected": [
                (value_label(request.site, name, one.value), query.toggled(name, one.value))
                for name, values in found.facets.items()
                for one in values
                if one.is_selected
            ],
            "total": found.total,
            "exact": found.exact,
            "more": found.next is not None,
        }
        if query.terms and not found.total:
            context["counts_by_term"] = index.count_terms(query.terms)
        return context

    context = await request.query_index(look)
    status = context.pop("status", 200)
    return await request.render_page(
        "search",
        status,
        query=query,
        terms=query.terms[:_MAX_SHOWN_TERMS],
        archive=query.archive,
        first=(query.page - 1) * _RESULTS_PER_PAGE + 1,
        is_doi=_DOI.match(query.terms) is not None,
        has_operators=not {"OR", "NOT"}.isdisjoint(query.terms.split()),
        **context,
    )


async def _results_csv(request: CatalogueRequest, query: SearchQuery) -> Response:
    """Return all matching datasets as CSV, in the order of the pages."""
    rows: list[dict[str, Any]] = []
    start: int | None = 0
    while start is not None and len(rows) < _MAX_CSV_ROWS:
        read = partial(
            Index.find_datasets,
            text=query.terms,
            filters=query.filters,
            sort=query.sort,
            start=start,
            limit=_CSV_BATCH,
        )
        found = await request.query_index(read)
        rows += (_csv_row(request.site_url, one) for one in found.rows)
        start = found.next
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
    checksum, page = (
        request.query_parameter("checksum").strip(),
        request.integer_parameter("page", 1, 20_000),
    )
    first = (page - 1) * _PAGE_SIZE

    def look(index: Index) -> dict[str, Any]:
        rows = index.find(checksum)
        found = [
            shapes.Occurrence.of(one).plain() for one in islice(rows, first, first + _PAGE_SIZE + 1)
        ]
        shown = found[:_PAGE_SIZE]
        return {
            "contents": [list(some) for _, some in groupby(shown, key=lambda one: one["key"])],
            "more": len(found) > _PAGE_SIZE,
            "not_indexed": [] if shown else index.unindexed_files(),
        }

    context = await request.query_index(look) if checksum else {}
    return await request.render_page("find", checksum=checksum, page=page, **context)
