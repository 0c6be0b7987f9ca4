"""The front page, search results, and files by checksum."""

from __future__ import annotations

from itertools import groupby, islice
from typing import Any

from datasette.utils.asgi import Response

from neuromirror.index import (
    FoundDataset,
    Index,
    MalformedQueryError,
    NameMatch,
    is_checksum,
    shapes,
)
from neuromirror.web.addresses import (
    dataset_address,
    file_address,
    find_address,
    version_address,
)
from neuromirror.web.pages.front import front_page
from neuromirror.web.request import CatalogueRequest, view

_PAGE_SIZE = 50
_RESULTS_PER_PAGE = 20
_MAX_SCANNED_FILES = 200_000
"""Number of files that a version's page searches at once."""
_MAX_VALUE_LENGTH = 120


@view
async def front(request: CatalogueRequest) -> Response:
    """Show the front page, a mirror's datasets, or search results."""
    # invisible characters are no part of a term and must not be shown
    plain = (one if one.isprintable() else " " for one in request.query_parameter("q"))
    terms, mirror = "".join(plain).strip(), request.query_parameter("mirror") or None
    page = request.integer_parameter("page", 1, 20_000)
    if terms and mirror is None and page == 1:
        address = await _direct_url(request, terms)
        if address:
            return Response.redirect(address)
    if terms:
        return await _results_page(request, terms, mirror, page)
    if mirror is not None:
        return await _mirror_page(request, mirror, page)

    return await front_page(request)


async def _direct_url(request: CatalogueRequest, terms: str) -> str:
    """Return the page of a name, an id or a checksum; empty for search terms."""
    if is_checksum(terms):
        return find_address(terms)
    found = await request.query_index(lambda index: index.match_name(terms))
    return _named_url(found) if found is not None else ""


def _named_url(named: NameMatch) -> str:
    if named.key:
        return find_address(named.key)
    if named.label:
        return version_address(named.dataset, named.label)
    return dataset_address(named.dataset)


async def _mirror_page(request: CatalogueRequest, mirror: str, page: int) -> Response:
    """Show the datasets of a mirror by name."""
    first = (page - 1) * _PAGE_SIZE

    def look(index: Index) -> dict[str, Any]:
        rows = index.datasets(mirror, subdatasets=False)
        found = [
            shapes.Dataset.of(row).plain() for row in islice(rows, first, first + _PAGE_SIZE + 1)
        ]
        return {"datasets": found[:_PAGE_SIZE], "more": len(found) > _PAGE_SIZE}

    return await request.render_page(
        "mirror", mirror=mirror, page=page, **await request.query_index(look)
    )


async def _results_page(
    request: CatalogueRequest, terms: str, mirror: str | None, page: int
) -> Response:
    """Show the matching datasets, or suggestions if no dataset matches."""

    def look(index: Index) -> dict[str, Any]:
        try:
            found = index.find_datasets(
                terms,
                filters={"archive": [mirror] if mirror else []},
                start=(page - 1) * _RESULTS_PER_PAGE,
                limit=_RESULTS_PER_PAGE,
            )
        except MalformedQueryError as error:
            return {"error": str(error), "status": 400}
        context: dict[str, Any] = {
            "found": [_result_context(one) for one in found.rows],
            "mirrors": {one.value: one.count for one in found.facets["archive"] if one.count},
            "total": found.total,
            "exact": found.exact,
            "total_in_all": sum(one.count for one in found.facets["archive"]),
            "more": found.next is not None,
        }
        if not found.rows and page == 1:
            context["counts_by_term"] = index.count_terms(terms)
            context["suggestion"] = index.suggest_terms(context["counts_by_term"])
        return context

    context = await request.query_index(look)
    status = context.pop("status", 200)
    return await request.render_page(
        "search", status, terms=terms[: _MAX_VALUE_LENGTH * 5], mirror=mirror, page=page, **context
    )


def _result_context(one: FoundDataset) -> dict[str, Any]:
    """Return a dataset with its matching fields and links to matching files."""
    row = one.dataset
    files = path = ""
    if one.version is not None:
        # in a large version, start the search at the match
        start = one.path if one.path and row.files > _MAX_SCANNED_FILES else ""
        files = version_address(row.name, one.version, start=start, match=" ".join(one.in_paths))
        if one.path:
            path = file_address(row.name, one.version, one.path)
    return {
        **shapes.Dataset.of(row).plain(),
        "matched": [
            (found.field, _shorten(found.value)) for found in one.matched if found.field != "name"
        ],
        "in_paths": one.in_paths,
        "found_in": one.version,
        "files_address": files,
        "path": one.path,
        "path_address": path,
    }


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_VALUE_LENGTH else f"{text[:_MAX_VALUE_LENGTH]}…"


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
