"""API version 1: mirrors, datasets, versions and their files, events and searches.

The shapes are in :mod:`neuromirror.index.shapes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
from starlette.routing import Route

from neuromirror.index import SIZES, SORTS, Index, Tombstone, VersionRow
from neuromirror.index.shapes import Link, folder_entry
from neuromirror.model import alias_of
from neuromirror.web.addresses import (
    dataset_address,
    file_address,
    gateway_address,
    version_address,
)
from neuromirror.web.api import responses
from neuromirror.web.api.operations import (
    ROOT,
    Call,
    Operation,
    Parameter,
    of_index,
    of_version,
    openapi_document,
)
from neuromirror.web.api.responses import Volume, describe_volume
from neuromirror.web.lookups import (
    FORMATS,
    compare_versions,
    other_occurrences,
    require_citation,
    split_version_name,
)
from neuromirror.web.request import BadRequestError, CatalogueRequest, resolve_version, view

MAX_PAGE_SIZE = 1000
_MAX_OTHER_LOCATIONS = 100

_LIMIT = Parameter(
    "limit", "maximum number of items per page", default="100", maximum=MAX_PAGE_SIZE
)
_AFTER = Parameter("after", "end of the previous page, as in its `next`")
LIST = (_LIMIT, _AFTER)
"""Parameters of a list that is returned in pages."""
CHECKSUM = Parameter(
    "checksum",
    "the content: sha256:…, md5:…, etag:…, a bare checksum, or a git-annex key",
    "md5:d41d8cd98f00b204e9800998ecf8427e",
    required=True,
)
_UNDER = Parameter("under", "only files below this folder", "sub-01")
_PATH = Parameter("path", "the file's path", "sub-01/sub-01_ecephys.nwb", required=True)
_PATH_TERMS = Parameter(
    "q", "search terms, all of which a path must match, ignoring case", "nwb", required=True
)
_FORMAT = Parameter("format", "format of the citation", default="text", choices=FORMATS)
_DEPTH = Parameter("depth", "number of generations to follow", default="1", maximum=5)
_OLD = Parameter(
    "a",
    "the old version, as <dataset>@<label>",
    "dandi:000027@0.1",
    required=True,
    names_resource=True,
)
_NEW = Parameter(
    "b", "the new version, in the same form", "dandi:000027@0.2", required=True, names_resource=True
)

_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]


def dataset_path(name: str) -> str:
    """Return the path of a dataset below the root of the API."""
    return f"/datasets/{quote(name, safe=':')}"


def _version_path(row: VersionRow, rest: str) -> str:
    """Return a path below a version, identified by its commit."""
    return f"{dataset_path(row.dataset_name)}@{row.commit}{rest}"


def _gateway_url(request: CatalogueRequest, row: VersionRow, path: str = "") -> str | None:
    """Return the URL of a file, or of the top folder, in the gateway; None if it is off."""
    if request.site.gateway.mode(row) == "off":
        return None
    return request.site_url + gateway_address(row.dataset_name, row.label, path)


@of_version
def version(call: Call, index: Index, row: VersionRow) -> responses.VersionResponse:
    """Return a version with its subdatasets and URLs for cloning and downloading."""
    page = version_address(row.dataset_name, row.label)
    manifest = call.request.site.store.manifest_path(row.state)
    kept = manifest.relative_to(call.request.site.store.root) if manifest.exists() else None
    return responses.VersionResponse.of(
        row,
        attributes=index.versions.attributes(row),
        left_out=index.versions.exceptions(row),
        documents=call.request.site.store.repositories.documents(row.dataset_ref, row.commit),
        subdatasets=list(index.versions.subdatasets(row)),
        clone=f"ria+{call.request.site_url}/#~{alias_of(row.dataset_name)}@{row.label}",
        checksums=call.request.site_url + page.replace("/dataset/", "/checksums/", 1),
        manifest=None if kept is None else f"{call.request.site_url}/{kept}",
        at=_gateway_url(call.request, row),
        page=call.request.site_url + page,
    )


@of_version
def files(call: Call, index: Index, row: VersionRow) -> responses.FilesResponse:
    """List the files of a version, sorted by the bytes of their paths."""
    under = call["under"]
    rows = index.files.of(row, under, call.cursor(str, ""), call.limit + 1)
    path = _version_path(row, "/files")
    found, more = call.page(rows, path, lambda one: one.path, under=under)
    return responses.FilesResponse.of(version=row.name, files=found, next=more)


@of_version
def folder(call: Call, index: Index, row: VersionRow) -> responses.FolderResponse:
    """List the files and subfolders of a folder, with recursive counts.

    Subdatasets are listed by the operation `version`.
    """
    under = call["under"].strip("/")
    rows = index.files.folder_entries(row, under, call.cursor(str, ""))
    path = _version_path(row, "/folder")
    found, more = call.page(rows, path, lambda one: one.next, under=under)
    return responses.FolderResponse(row.name, under, list(map(folder_entry, found)), more)


@of_version
def paths(call: Call, index: Index, row: VersionRow) -> responses.PathsResponse:
    """Search the paths of a version; at most 200 files per page."""
    terms = call["q"]
    found = index.search.files(row, terms, call.cursor(str, ""))
    more = None
    if found.next:
        more = call.next_url(_version_path(row, "/paths"), found.next, q=terms)
    return responses.PathsResponse.of(
        version=row.name, files=found.files, next=more, complete=found.is_complete
    )


@of_version
def file(call: Call, index: Index, row: VersionRow) -> responses.FileResponse:
    """Return a file with its locations, its history and other occurrences of its content."""
    found = index.files.get(row, call["path"])
    others, more = other_occurrences(index, row, found, _MAX_OTHER_LOCATIONS)
    all_occurrences = f"{call.request.site_url}{ROOT}/find?checksum={quote(found.key, safe='')}"
    return responses.FileResponse.of(
        found,
        version=row.name,
        locations=index.locations.of(found.content, limit=_MAX_OTHER_LOCATIONS),
        history=index.files.content_spans(row, found.path),
        other_occurrences=others,
        other_occurrences_url=all_occurrences if more else None,
        at=_gateway_url(call.request, row, found.path),
        page=call.request.site_url + file_address(row.dataset_name, row.label, found.path),
    )


async def volume(call: Call) -> Volume:
    """Describe a version as a volume, from its own metadata files."""
    row = await resolve_version(call.request, call["name"], call["version"])
    return Volume.describe(await describe_volume(call.request, row))


async def citation(call: Call) -> responses.CitationResponse:
    """Return a citation of a version in one format."""
    row = await resolve_version(call.request, call["name"], call["version"])
    site, form = call.request.site, call["format"]
    found = await site.reader.run_in_thread(lambda: require_citation(site.store, row))
    return responses.CitationResponse.of(
        version=row.name, format=form, citation=found.formats[form]
    )


@of_version
def ancestry(call: Call, index: Index, row: VersionRow) -> responses.AncestryResponse:
    """Return the ancestors of a version and the descendants of its dataset."""
    depth = int(call["depth"])
    return responses.AncestryResponse.of(
        version=row.name,
        ancestors=index.ancestry.ancestors(row, depth),
        descendants=index.ancestry.descendants(row, depth),
    )


async def diff(call: Call) -> responses.DiffResponse:
    """Compare two versions by path."""
    limit, first = call.limit, call.cursor(_Count, 0)
    names = [_parse_version_name(call[one]) for one in ("a", "b")]

    def look(index: Index) -> responses.DiffResponse:
        old, new = (index.versions.resolve(*one) for one in names)
        found = compare_versions(call.request.site.store, index, old, new, first, limit)
        more = None
        if found.total > first + limit:
            a, b = (f"{row.dataset_name}@{row.commit}" for row in (old, new))
            more = call.next_url("/diff", first + limit, a=a, b=b, limit=limit)
        return responses.DiffResponse.of(
            found.counts, old=old.name, new=new.name, changes=found.changes, next=more
        )

    return await call.request.site.reader.long_query(look)


def _parse_version_name(text: str) -> tuple[str, str]:
    name, label = split_version_name(text)
    if not name or not label:
        raise BadRequestError(f"a version must be given as <dataset>@<label>, not {text[:80]!r}")
    return name, label


_VERSION_PATH = "/datasets/{name}@{version}"

_VERSION_OPERATIONS: Sequence[Operation] = (
    Operation(f"{_VERSION_PATH}/files", responses.FilesResponse, files, (_UNDER, *LIST)),
    Operation(f"{_VERSION_PATH}/folder", responses.FolderResponse, folder, (_UNDER, *LIST)),
    Operation(f"{_VERSION_PATH}/paths", responses.PathsResponse, paths, (_PATH_TERMS, _AFTER)),
    Operation(f"{_VERSION_PATH}/file", responses.FileResponse, file, (_PATH,)),
    Operation(f"{_VERSION_PATH}/volume", Volume, volume),
    Operation(f"{_VERSION_PATH}/citation", responses.CitationResponse, citation, (_FORMAT,)),
    Operation(f"{_VERSION_PATH}/ancestry", responses.AncestryResponse, ancestry, (_DEPTH,)),
    Operation(_VERSION_PATH, responses.VersionResponse, version),
    Operation("/diff", responses.DiffResponse, diff, (_OLD, _NEW, *LIST)),
)


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
            operation.handler.__name__: base + operation.path + _template(operation.parameters)
            for operation in OPERATIONS
            if operation.handler is not root
        },
    )


def _template(parameters: Sequence[Parameter]) -> str:
    return f"{{?{','.join(parameter.name for parameter in parameters)}}}" if parameters else ""


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
        links=[Link(*link) for link in index.datasets.links(name)],
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
    *_VERSION_OPERATIONS,
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
    *(operation.route() for operation in OPERATIONS),
)
