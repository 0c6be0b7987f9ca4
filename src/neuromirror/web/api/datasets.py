"""API version 1: mirrors, datasets, events and searches.

The shapes are in :mod:`neuromirror.index.shapes`; operations on versions and files are in
:mod:`neuromirror.web.api.versions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Annotated, Any

import msgspec

from neuromirror.index import SIZES, SORTS, DatasetRow, Index
from neuromirror.index.shapes import Link
from neuromirror.web.addresses import dataset_address
from neuromirror.web.api import responses
from neuromirror.web.api import versions as of_versions
from neuromirror.web.api.openapi import openapi_document
from neuromirror.web.api.operations import (
    ROOT,
    Arguments,
    Operation,
    Parameter,
    next_page_url,
    routes,
)
from neuromirror.web.api.versions import AFTER, CHECKSUM, LIMIT, MAX_PAGE_SIZE, dataset_path
from neuromirror.web.request import CatalogueRequest, view

_TERMS = Parameter(
    "q",
    "search terms, as for `search`",
    "mouse",
)
_SEARCH_TERMS = Parameter(
    "q",
    "search terms; each matches the stem or the start of a word in metadata, or the start of a "
    "word in a path; words in double quotes are a phrase; without terms, all datasets match",
    "hippocampus",
)
_SORT = Parameter(
    "sort",
    "the order of the results; by default relevance, without terms newest",
    choices=("", *SORTS),
)
_FILTERS = tuple(
    Parameter(
        name,
        f"only datasets with this {what}, or with one of several",
        example,
        repeatable=True,
        names_resource=name == "archive",
    )
    for name, what, example in (
        ("archive", "mirror", "dandi"),
        ("species", "species", "Mus musculus"),
        ("subject", "subject", "625749"),
        ("brain_region", "brain region", "hippocampus"),
        ("technique", "technique", "calcium imaging"),
        ("data_type", "kind of files", "NWB"),
        ("level", "level of processing", "raw"),
        ("license", "license", "CC-BY-4.0"),
        ("size", "class of sizes", SIZES[0][0]),
        ("year", "year of the latest version", "2024"),
        ("status", "status of the latest version: published, draft or observed", "published"),
        ("volume", "property: `yes` for volumes", "yes"),
    )
)
_MIRROR = Parameter("mirror", "only datasets of this mirror", "dandi", names_resource=True)
_KIND = Parameter("kind", "a kind of event: tombstone, return, incident, takedown, …", "tombstone")
_DATASET = Parameter("dataset", "a dataset's name", "dandi:000027", names_resource=True)

_Number = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
_Start = Annotated[int, msgspec.Meta(ge=0, le=1 << 31)]


async def root(request: CatalogueRequest, arguments: Arguments) -> responses.RootResponse:
    """List the operations of the API."""
    base = request.base_url + ROOT
    return responses.RootResponse(
        version=1,
        title=request.site.title,
        description=f"{base}/openapi.json",
        addresses={
            one.handler.__name__: base + one.path + _template(one.parameters)
            for one in OPERATIONS
            if one.handler is not root
        },
    )


def _template(parameters: Sequence[Parameter]) -> str:
    return f"{{?{','.join(one.name for one in parameters)}}}" if parameters else ""


async def datasets(request: CatalogueRequest, arguments: Arguments) -> responses.DatasetsResponse:
    """List datasets by name: all, those of a mirror, or those that match search terms.

    Subdatasets are not included.
    """
    terms, mirror, limit = arguments["q"].strip(), arguments["mirror"], arguments.integer("limit")
    last = arguments.cursor(str, "")

    def look(index: Index) -> list[DatasetRow]:
        rows = index.datasets(mirror or None, text=terms or None, subdatasets=False, after=last)
        return list(islice(rows, limit + 1))

    found = await request.query_index(look)
    more = None
    if len(found) > limit:
        cursor = found[limit - 1].name
        more = next_page_url(request, "/datasets", cursor, q=terms, mirror=mirror, limit=limit)
    return responses.DatasetsResponse.of(datasets=found[:limit], next=more)


async def search(request: CatalogueRequest, arguments: Arguments) -> responses.SearchResponse:
    """Search datasets by metadata, file paths and facets.

    The ranking may change over time; `datasets` has a stable order.
    """
    terms, sort, limit = arguments["q"].strip(), arguments["sort"], arguments.integer("limit")
    filters = {one.name: arguments.all(one.name) for one in _FILTERS}
    start = arguments.cursor(_Start, 0)
    found = await request.query_index(
        lambda index: index.find_datasets(
            terms, filters=filters, sort=sort, start=start, limit=limit
        )
    )
    more = None
    if found.next is not None:
        more = next_page_url(
            request, "/search", found.next, q=terms, **filters, sort=sort, limit=limit
        )
    return responses.SearchResponse.of(
        found, found=list(found.rows), corrected=found.corrected or None, next=more
    )


async def dataset(request: CatalogueRequest, arguments: Arguments) -> responses.DatasetResponse:
    """Return a dataset with its versions."""
    name = arguments["name"]

    def look(index: Index) -> responses.DatasetResponse:
        row = index.dataset(name)
        versions = list(index.versions(name, limit=MAX_PAGE_SIZE + 1))
        more = None
        if len(versions) > MAX_PAGE_SIZE:
            more = next_page_url(
                request, f"{dataset_path(name)}/versions", versions[MAX_PAGE_SIZE - 1].seq
            )
        return responses.DatasetResponse.of(
            row,
            all_versions=versions[:MAX_PAGE_SIZE],
            more_versions=more,
            links=[Link(*one) for one in index.links(name)],
            within=index.superdatasets(name),
            page=request.base_url + dataset_address(name),
        )

    return await request.query_index(look)


async def versions(request: CatalogueRequest, arguments: Arguments) -> responses.VersionsResponse:
    """List the versions of a dataset, in the order in which they were minted."""
    name, limit = arguments["name"], arguments.integer("limit")
    last = arguments.cursor(_Number, 0)
    found = await request.query_index(lambda index: list(index.versions(name, last, limit + 1)))
    more = None
    if len(found) > limit:
        path = f"{dataset_path(name)}/versions"
        more = next_page_url(request, path, found[limit - 1].seq, limit=limit)
    return responses.VersionsResponse.of(versions=found[:limit], next=more)


async def find(request: CatalogueRequest, arguments: Arguments) -> responses.OccurrencesResponse:
    """Find all current and past occurrences of a content."""
    checksum, limit = arguments["checksum"].strip(), arguments.integer("limit")
    last = arguments.cursor(tuple[_Number, _Number, str, _Number], (0, 0, "", 0))
    found = await request.query_index(
        lambda index: list(islice(index.find(checksum, last), limit + 1))
    )
    more = None
    if len(found) > limit:
        cursor = found[limit - 1].position
        more = next_page_url(request, "/find", cursor, checksum=checksum, limit=limit)
    return responses.OccurrencesResponse.of(found=found[:limit], next=more)


async def events(request: CatalogueRequest, arguments: Arguments) -> responses.EventsResponse:
    """List events, newest first: tombstones, returns, incidents, takedowns."""
    kind, name, mirror = arguments["kind"], arguments["dataset"], arguments["mirror"]
    limit, last = arguments.integer("limit"), arguments.cursor(_Number, 1 << 62)
    found = await request.query_index(
        lambda index: list(
            index.events(name or None, kind or None, limit + 1, mirror=mirror or None, before=last)
        )
    )
    more = None
    if len(found) > limit:
        cursor, filters = found[limit - 1].id, {"kind": kind, "dataset": name, "mirror": mirror}
        more = next_page_url(request, "/events", cursor, **filters, limit=limit)
    return responses.EventsResponse.of(events=found[:limit], next=more)


async def mirrors(request: CatalogueRequest, arguments: Arguments) -> responses.MirrorsResponse:
    """Return the status of each mirror."""
    found, failures = await request.query_index(
        lambda index: (list(index.mirror_status()), index.failures())
    )
    return responses.MirrorsResponse.of(mirrors=found, failures=failures)


async def holds(request: CatalogueRequest, arguments: Arguments) -> responses.HoldsResponse:
    """List the open holds, oldest first."""
    name = arguments["dataset"] or None
    found = await request.query_index(lambda index: list(index.open_holds(name)))
    return responses.HoldsResponse.of(holds=found)


async def tombstones(
    request: CatalogueRequest, arguments: Arguments
) -> responses.TombstonesResponse:
    """List withdrawn datasets by name, with time and reason.

    Datasets that the archive has removed remain visible; `events` lists their tombstones.
    """
    mirror, limit = arguments["mirror"], arguments.integer("limit")
    last = arguments.cursor(tuple[str, str], ("", ""))
    rows = await request.query_index(lambda index: index.tombstones(mirror or None))
    cursors = [tuple(one.dataset.split(":", 1)) for one in rows]
    found = [one for one, cursor in zip(rows, cursors, strict=True) if cursor > last][: limit + 1]
    more = None
    if len(found) > limit:
        cursor = found[limit - 1].dataset.split(":", 1)
        more = next_page_url(request, "/tombstones", cursor, mirror=mirror, limit=limit)
    return responses.TombstonesResponse.of(tombstones=found[:limit], next=more)


_LIST = (LIMIT, AFTER)

# The more specific paths first.
OPERATIONS: Sequence[Operation] = (
    Operation("/", responses.RootResponse, root),
    Operation("/mirrors", responses.MirrorsResponse, mirrors),
    Operation("/datasets", responses.DatasetsResponse, datasets, (_TERMS, _MIRROR, *_LIST)),
    Operation(
        "/search", responses.SearchResponse, search, (_SEARCH_TERMS, *_FILTERS, _SORT, *_LIST)
    ),
    *of_versions.OPERATIONS,
    Operation("/datasets/{name}/versions", responses.VersionsResponse, versions, _LIST),
    Operation("/datasets/{name}", responses.DatasetResponse, dataset),
    Operation("/find", responses.OccurrencesResponse, find, (CHECKSUM, *_LIST)),
    Operation("/events", responses.EventsResponse, events, (_KIND, _DATASET, _MIRROR, *_LIST)),
    Operation("/holds", responses.HoldsResponse, holds, (_DATASET,)),
    Operation("/tombstones", responses.TombstonesResponse, tombstones, (_MIRROR, *_LIST)),
)


@view
async def openapi_view(request: CatalogueRequest) -> Any:
    """Return the OpenAPI document."""
    title, address = request.site.title, request.base_url
    document = await request.site.reader.run_in_thread(
        lambda: openapi_document(OPERATIONS, title, address)
    )
    return request.json_response(document)


ROUTES: Sequence[tuple[str, Any]] = (
    (rf"{ROOT}/openapi\.json$", openapi_view),
    (rf"{ROOT}$", OPERATIONS[0].route()),
    *routes(OPERATIONS),
)
