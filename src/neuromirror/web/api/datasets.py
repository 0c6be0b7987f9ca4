"""API version 1: mirrors, datasets, events and searches.

The shapes are in :mod:`neuromirror.index.shapes`; operations on versions and files are in
:mod:`neuromirror.web.api.versions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from starlette.routing import Route

from neuromirror.index import SIZES, SORTS, Index, Tombstone
from neuromirror.index.shapes import Link
from neuromirror.web.addresses import dataset_address
from neuromirror.web.api import responses
from neuromirror.web.api import versions as of_versions
from neuromirror.web.api.operations import (
    ROOT,
    Call,
    Operation,
    Parameter,
    of_index,
    openapi_document,
)
from neuromirror.web.api.versions import CHECKSUM, LIST, MAX_PAGE_SIZE, dataset_path
from neuromirror.web.request import CatalogueRequest, view

_TERMS = Parameter("q", "search terms, as for `search`", "mouse")
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
        ("project", "project", "Brain Wide Circuits"),
        ("species", "species", "Mus musculus"),
        ("subject", "subject", "625749"),
        ("brain_region", "brain region", "hippocampus"),
        ("modality", "modality, as the archive names it", "behavior-videos"),
        ("technique", "technique", "calcium imaging"),
        ("data_type", "kind of files", "NWB"),
        ("level", "level of processing", "raw"),
        ("license", "license", "CC-BY-4.0"),
        ("size", "class of sizes", SIZES[0][0]),
        ("year", "year of acquisition, else of the latest version", "2024"),
        ("status", "status of the latest version: published, draft or observed", "published"),
        ("volume", "property: `yes` for volumes", "yes"),
    )
)
_MIRROR = Parameter("mirror", "only datasets of this mirror", "dandi", names_resource=True)
_KIND = Parameter("kind", "a kind of event: tombstone, return, incident, takedown, …", "tombstone")
_DATASET = Parameter("dataset", "a dataset's name", "dandi:000027", names_resource=True)

_Number = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
_Start = Annotated[int, msgspec.Meta(ge=0, le=1 << 31)]


async def root(call: Call) -> responses.RootResponse:
    """List the operations of the API."""
    base = call.request.site_url + ROOT
    return responses.RootResponse(
        version=1,
        title=call.request.site.title,
        description=f"{base}/openapi.json",
        addresses={
            one.handler.__name__: base + one.path + _template(one.parameters)
            for one in OPERATIONS
            if one.handler is not root
        },
    )


def _template(parameters: Sequence[Parameter]) -> str:
    return f"{{?{','.join(one.name for one in parameters)}}}" if parameters else ""


@of_index
def datasets(call: Call, index: Index) -> responses.DatasetsResponse:
    """List datasets by name: all, those of a mirror, or those that match search terms.

    Subdatasets are not included.
    """
    terms, mirror, last = call["q"].strip(), call["mirror"], call.cursor(str, "")
    rows = index.datasets.select(mirror or None, text=terms or None, subdatasets=False, after=last)
    found, more = call.page(rows, "/datasets", lambda row: row.name, q=terms, mirror=mirror)
    return responses.DatasetsResponse.of(datasets=found, next=more)


@of_index
def search(call: Call, index: Index) -> responses.SearchResponse:
    """Search datasets by metadata, file paths and facets.

    The ranking may change over time; `datasets` has a stable order.
    """
    terms, sort, limit = call["q"].strip(), call["sort"], call.limit
    filters = {one.name: call.all(one.name) for one in _FILTERS}
    start = call.cursor(_Start, 0)
    found = index.search.datasets(terms, filters=filters, sort=sort, start=start, limit=limit)
    more = None
    if found.next is not None:
        more = call.next_url("/search", found.next, q=terms, **filters, sort=sort, limit=limit)
    return responses.SearchResponse.of(found, found=list(found.rows), next=more)


@of_index
def dataset(call: Call, index: Index) -> responses.DatasetResponse:
    """Return a dataset with its versions."""
    name = call["name"]
    row = index.datasets.get(name)
    versions = list(index.versions.of(name, limit=MAX_PAGE_SIZE + 1))
    more = None
    if len(versions) > MAX_PAGE_SIZE:
        cursor = versions[MAX_PAGE_SIZE - 1].seq
        more = call.next_url(f"{dataset_path(name)}/versions", cursor)
    return responses.DatasetResponse.of(
        row,
        all_versions=versions[:MAX_PAGE_SIZE],
        more_versions=more,
        links=[Link(*one) for one in index.datasets.links(name)],
        within=index.datasets.superdatasets(name),
        page=call.request.site_url + dataset_address(name),
    )


@of_index
def versions(call: Call, index: Index) -> responses.VersionsResponse:
    """List the versions of a dataset, in the order in which they were minted."""
    name = call["name"]
    rows = index.versions.of(name, call.cursor(_Number, 0), call.limit + 1)
    path = f"{dataset_path(name)}/versions"
    found, more = call.page(rows, path, lambda row: row.seq)
    return responses.VersionsResponse.of(versions=found, next=more)


@of_index
def find(call: Call, index: Index) -> responses.OccurrencesResponse:
    """Find all current and past occurrences of a content."""
    checksum = call["checksum"].strip()
    last = call.cursor(tuple[_Number, _Number, str, _Number], (0, 0, "", 0))
    rows = index.files.find(checksum, last)
    found, more = call.page(rows, "/find", lambda row: row.position, checksum=checksum)
    return responses.OccurrencesResponse.of(found=found, next=more)


@of_index
def events(call: Call, index: Index) -> responses.EventsResponse:
    """List events, newest first: tombstones, returns, incidents, takedowns."""
    kind, name, mirror = call["kind"], call["dataset"], call["mirror"]
    last, most = call.cursor(_Number, 1 << 62), call.limit + 1
    rows = index.crawl.events(name or None, kind or None, most, mirror=mirror or None, before=last)
    filters = {"kind": kind, "dataset": name, "mirror": mirror}
    found, more = call.page(rows, "/events", lambda row: row.id, **filters)
    return responses.EventsResponse.of(events=found, next=more)


@of_index
def mirrors(call: Call, index: Index) -> responses.MirrorsResponse:
    """Return the status of each mirror."""
    return responses.MirrorsResponse.of(
        mirrors=list(index.crawl.mirrors()), failures=index.crawl.failures()
    )


@of_index
def holds(call: Call, index: Index) -> responses.HoldsResponse:
    """List the open holds, oldest first."""
    return responses.HoldsResponse.of(holds=list(index.crawl.open_holds(call["dataset"] or None)))


@of_index
def tombstones(call: Call, index: Index) -> responses.TombstonesResponse:
    """List withdrawn datasets by name, with time and reason.

    Datasets that the archive has removed remain visible; `events` lists their tombstones.
    """
    mirror, last = call["mirror"], call.cursor(tuple[str, str], ("", ""))

    def cursor(row: Tombstone) -> tuple[str, ...]:
        return tuple(row.dataset.split(":", 1))

    rows = (row for row in index.datasets.tombstones(mirror or None) if cursor(row) > last)
    found, more = call.page(rows, "/tombstones", cursor, mirror=mirror)
    return responses.TombstonesResponse.of(tombstones=found, next=more)


# The more specific paths first.
OPERATIONS: Sequence[Operation] = (
    Operation("/", responses.RootResponse, root),
    Operation("/mirrors", responses.MirrorsResponse, mirrors),
    Operation("/datasets", responses.DatasetsResponse, datasets, (_TERMS, _MIRROR, *LIST)),
    Operation(
        "/search", responses.SearchResponse, search, (_SEARCH_TERMS, *_FILTERS, _SORT, *LIST)
    ),
    *of_versions.OPERATIONS,
    Operation("/datasets/{name}/versions", responses.VersionsResponse, versions, LIST),
    Operation("/datasets/{name}", responses.DatasetResponse, dataset),
    Operation("/find", responses.OccurrencesResponse, find, (CHECKSUM, *LIST)),
    Operation("/events", responses.EventsResponse, events, (_KIND, _DATASET, _MIRROR, *LIST)),
    Operation("/holds", responses.HoldsResponse, holds, (_DATASET,)),
    Operation("/tombstones", responses.TombstonesResponse, tombstones, (_MIRROR, *LIST)),
)


@view
async def openapi_view(request: CatalogueRequest) -> Any:
    """Return the OpenAPI document."""
    title, address = request.site.title, request.site_url
    document = await request.site.reader.run_in_thread(
        lambda: openapi_document(OPERATIONS, title, address)
    )
    return request.json_response(document)


ROUTES: Sequence[Route] = (
    Route(f"{ROOT}/openapi.json", openapi_view),
    OPERATIONS[0].route(ROOT),
    *(one.route() for one in OPERATIONS),
)
