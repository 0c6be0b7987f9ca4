"""API version 1: versions, their files, and comparisons.

A label such as ``latest`` may refer to another version later, so URLs of further pages identify the
version by its commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Annotated
from urllib.parse import quote

import msgspec

from neuromirror.index import Index, VersionRow
from neuromirror.index.shapes import folder_entry
from neuromirror.model import alias_of
from neuromirror.volume import NotAVolumeError
from neuromirror.web.addresses import file_address, gateway_address, version_address
from neuromirror.web.api import responses
from neuromirror.web.api.operations import ROOT, Arguments, Operation, Parameter, next_page_url
from neuromirror.web.citations import FORMATS, format_citation
from neuromirror.web.occurrences import other_occurrences
from neuromirror.web.request import BadRequestError, CatalogueRequest, PageNotFoundError
from neuromirror.web.version_comparison import compare_versions, split_version_name
from neuromirror.web.volume_shapes import Volume

MAX_PAGE_SIZE = 1000
_MAX_OTHER_LOCATIONS = 100

LIMIT = Parameter("limit", "maximum number of items per page", default="100", maximum=MAX_PAGE_SIZE)
AFTER = Parameter("after", "end of the previous page, as in its `next`")
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
    if request.site.gateway.modes.of(row.mirror) == "off":
        return None
    return request.base_url + gateway_address(row.dataset_name, row.label, path)


async def version(request: CatalogueRequest, arguments: Arguments) -> responses.VersionResponse:
    """Return a version with its subdatasets and URLs for cloning and downloading."""

    def look(index: Index) -> responses.VersionResponse:
        row = index.resolve(arguments["name"], arguments["version"])
        page = version_address(row.dataset_name, row.label)
        manifest = request.site.store.manifest_path(row.state)
        kept = manifest.relative_to(request.site.store.root) if manifest.exists() else None
        return responses.VersionResponse.of(
            row,
            attributes=index.attributes(row),
            left_out=index.exceptions(row),
            subdatasets=list(index.subdatasets(row)),
            clone=f"ria+{request.base_url}/#~{alias_of(row.dataset_name)}@{row.label}",
            checksums=request.base_url + page.replace("/dataset/", "/checksums/", 1),
            manifest=None if kept is None else f"{request.base_url}/{kept}",
            at=_gateway_url(request, row),
            page=request.base_url + page,
        )

    return await request.query_index(look)


async def files(request: CatalogueRequest, arguments: Arguments) -> responses.FilesResponse:
    """List the files of a version, sorted by the bytes of their paths."""
    under, limit = arguments["under"], arguments.integer("limit")
    last = arguments.cursor(str, "")

    def look(index: Index) -> responses.FilesResponse:
        row = index.resolve(arguments["name"], arguments["version"])
        found = list(index.files(row, under, last, limit + 1))
        more = None
        if len(found) > limit:
            path, cursor = _version_path(row, "/files"), found[limit - 1].path
            more = next_page_url(request, path, cursor, under=under, limit=limit)
        return responses.FilesResponse.of(version=row.name, files=found[:limit], next=more)

    return await request.query_index(look)


async def folder(request: CatalogueRequest, arguments: Arguments) -> responses.FolderResponse:
    """List the files and subfolders of a folder, with recursive counts.

    Subdatasets are listed by the operation `version`.
    """
    under, limit = arguments["under"].strip("/"), arguments.integer("limit")
    last = arguments.cursor(str, "")

    def look(index: Index) -> responses.FolderResponse:
        row = index.resolve(arguments["name"], arguments["version"])
        found = list(islice(index.folder_entries(row, under, last), limit + 1))
        more = None
        if len(found) > limit:
            path, cursor = _version_path(row, "/folder"), found[limit - 1].next
            more = next_page_url(request, path, cursor, under=under, limit=limit)
        entries = [folder_entry(one) for one in found[:limit]]
        return responses.FolderResponse(row.name, under, entries, more)

    return await request.query_index(look)


async def paths(request: CatalogueRequest, arguments: Arguments) -> responses.PathsResponse:
    """Search the paths of a version; at most 200 files per page."""
    terms, start = arguments["q"], arguments.cursor(str, "")

    def look(index: Index) -> responses.PathsResponse:
        row = index.resolve(arguments["name"], arguments["version"])
        found = index.matching_files(row, terms, start)
        more = None
        if found.next:
            more = next_page_url(request, _version_path(row, "/paths"), found.next, q=terms)
        return responses.PathsResponse.of(
            version=row.name, files=found.files, next=more, complete=found.is_complete
        )

    return await request.query_index(look)


async def file(request: CatalogueRequest, arguments: Arguments) -> responses.FileResponse:
    """Return a file with its locations, its history and other occurrences of its content."""

    def look(index: Index) -> responses.FileResponse:
        row = index.resolve(arguments["name"], arguments["version"])
        found = index.file(row, arguments["path"])
        others, more = other_occurrences(index, row, found, _MAX_OTHER_LOCATIONS)
        all_occurrences = f"{request.base_url}{ROOT}/find?checksum={quote(found.key, safe='')}"
        return responses.FileResponse.of(
            found,
            version=row.name,
            locations=index.locations(found.content, limit=_MAX_OTHER_LOCATIONS),
            history=index.content_spans(row, found.path),
            other_occurrences=others,
            other_occurrences_url=all_occurrences if more else None,
            at=_gateway_url(request, row, found.path),
            page=request.base_url + file_address(row.dataset_name, row.label, found.path),
        )

    return await request.query_index(look)


async def volume(request: CatalogueRequest, arguments: Arguments) -> Volume:
    """Describe a version as a volume, from its own metadata files."""
    row = await request.query_index(
        lambda index: index.resolve(arguments["name"], arguments["version"])
    )
    try:
        found = await request.site.reader.run_in_thread(lambda: request.site.cutouts.describe(row))
    except NotAVolumeError as error:
        raise PageNotFoundError(str(error)) from error
    return Volume.describe(found)


async def citation(request: CatalogueRequest, arguments: Arguments) -> responses.CitationResponse:
    """Return a citation of a version in one format."""
    row = await request.query_index(
        lambda index: index.resolve(arguments["name"], arguments["version"])
    )
    store, form = request.site.store, arguments["format"]
    text = await request.site.reader.run_in_thread(lambda: format_citation(store, row, form))
    return responses.CitationResponse.of(version=row.name, format=form, citation=text)


async def ancestry(request: CatalogueRequest, arguments: Arguments) -> responses.AncestryResponse:
    """Return the ancestors of a version and the descendants of its dataset."""
    depth = arguments.integer("depth")

    def look(index: Index) -> responses.AncestryResponse:
        row = index.resolve(arguments["name"], arguments["version"])
        return responses.AncestryResponse.of(
            version=row.name,
            ancestors=index.ancestors(row, depth),
            descendants=index.descendants(row, depth),
        )

    return await request.query_index(look)


async def diff(request: CatalogueRequest, arguments: Arguments) -> responses.DiffResponse:
    """Compare two versions by path."""
    limit, first = arguments.integer("limit"), arguments.cursor(_Count, 0)
    names = [_parse_version_name(arguments[one]) for one in ("a", "b")]

    def look(index: Index) -> responses.DiffResponse:
        old, new = (index.resolve(*one) for one in names)
        found = compare_versions(request.site.store, index, old, new, first, limit)
        more = None
        if found.total > first + limit:
            a, b = (f"{row.dataset_name}@{row.commit}" for row in (old, new))
            more = next_page_url(request, "/diff", first + limit, a=a, b=b, limit=limit)
        return responses.DiffResponse.of(
            found.counts, old=old.name, new=new.name, changes=found.changes, next=more
        )

    return await request.site.reader.long_query(look)


def _parse_version_name(text: str) -> tuple[str, str]:
    name, label = split_version_name(text)
    if not name or not label:
        raise BadRequestError(f"a version must be given as <dataset>@<label>, not {text[:80]!r}")
    return name, label


_VERSION_PATH = "/datasets/{name}@{version}"
_LIST = (LIMIT, AFTER)

OPERATIONS: Sequence[Operation] = (
    Operation(f"{_VERSION_PATH}/files", responses.FilesResponse, files, (_UNDER, *_LIST)),
    Operation(f"{_VERSION_PATH}/folder", responses.FolderResponse, folder, (_UNDER, *_LIST)),
    Operation(f"{_VERSION_PATH}/paths", responses.PathsResponse, paths, (_PATH_TERMS, AFTER)),
    Operation(f"{_VERSION_PATH}/file", responses.FileResponse, file, (_PATH,)),
    Operation(f"{_VERSION_PATH}/volume", Volume, volume),
    Operation(f"{_VERSION_PATH}/citation", responses.CitationResponse, citation, (_FORMAT,)),
    Operation(f"{_VERSION_PATH}/ancestry", responses.AncestryResponse, ancestry, (_DEPTH,)),
    Operation(_VERSION_PATH, responses.VersionResponse, version),
    Operation("/diff", responses.DiffResponse, diff, (_OLD, _NEW, *_LIST)),
)
