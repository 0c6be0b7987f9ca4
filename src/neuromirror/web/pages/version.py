"""The page of a version: metadata, and its files by folder or by search terms."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from neuromirror.index import Index, UnknownFileError, VersionRow, shapes
from neuromirror.model import Retention, alias_of
from neuromirror.model.records import has_downloads, is_volume
from neuromirror.store.records import manifest_file
from neuromirror.web.addresses import breadcrumbs
from neuromirror.web.lookups import allow_command_for, read_citation, read_documents
from neuromirror.web.pages.folders import GatewayLinks, folder_entries, matching_files, zarr_viewers
from neuromirror.web.pages.machine_readable import typed_links
from neuromirror.web.request import CatalogueRequest, view

_MAX_RETENTION_FILES = 50_000
"""Number of files above which retention is not counted."""
_MAX_PROBED_FILES = 20_000
"""Number of files above which probe results are not counted."""
_MAX_EXCEPTIONS = 200


@view
async def version(request: CatalogueRequest) -> Response:
    """Show a version and the files of one folder."""
    name, label = request.version_name
    under, start = request.query_parameter("under").strip("/"), request.query_parameter("start")
    terms = request.query_parameter("match").strip()

    gateway = GatewayLinks(request.site_url, request.site.gateway.modes)
    context = await request.query_index(
        lambda index: _read(
            index, index.versions.resolve(name, label), under, start, terms, gateway
        )
    )
    row, store = context.pop("row"), request.site.store
    citation, documents = None, None
    if not under and not terms:
        citation, documents = await request.site.reader.run_in_thread(
            lambda: (read_citation(store, row), read_documents(store, row))
        )
    has_manifest = manifest_file(store.root, row.state).is_file()
    reply = await request.render_page(
        "version",
        under=under,
        zarr_preview=request.site.previews.is_allowed and under.lower().endswith(".zarr"),
        terms=terms,
        folders=breadcrumbs(under),
        start=start,
        citation=citation,
        documents=documents,
        has_manifest=has_manifest,
        alias=alias_of(name),
        **context,
    )
    if citation is not None:
        reply.headers.update(
            typed_links(
                citation.work,
                request.site_url,
                has_checksums=row.indexed,
                has_manifest=has_manifest,
            )
        )
    return reply


def _read(
    index: Index, row: VersionRow, under: str, start: str, terms: str, gateway: GatewayLinks
) -> dict[str, Any]:
    """Return the page's data from the index."""
    name = row.dataset_name
    files = (
        matching_files(index, row, terms, start)
        if terms
        else folder_entries(index, row, under, start, gateway=gateway)
    )
    if under and not terms and not start and files["indexed"] and not files["rows"]:
        raise UnknownFileError(f"{row.name} has no folder '{under}'")
    context: dict[str, Any] = {
        "version": shapes.Version.of(row).plain(),
        "row": row,
        "manifest_only": row.manifest_only_files,
        "files": files,
        "dataset": shapes.Dataset.of(index.datasets.get(name)).plain(),
        "downloads": has_downloads(row.source_uri),
        "allow_command": allow_command_for(index, [row]),
        "viewers": zarr_viewers(index, row, under, gateway=gateway)
        or (gateway.volume_viewers(index, row) if not under else []),
        "is_gateway_on": gateway.modes.of(row.mirror) != "off",
        "shows_pinned": bool(gateway.url(row)),
    }
    if under or terms:
        return context
    earlier = [one for one in index.versions.of(name) if one.seq < row.seq]
    return {
        **context,
        **_counts(index, row),
        "latest": index.versions.resolve(name).seq == row.seq,
        "is_volume": is_volume(row.source_uri, index.datasets.links(name)),
        "exceptions": index.versions.exceptions(row)[:_MAX_EXCEPTIONS],
        "before": earlier[-1].name if earlier else None,
    }


def _counts(index: Index, row: VersionRow) -> dict[str, Any]:
    """Return what is counted over all files of a version, unless there are too many."""
    counts = index.files.evidence_counts(row) if row.files <= _MAX_RETENTION_FILES else None
    # copies elsewhere are of interest if the archive may delete its own
    is_permanent = counts is None or set(counts.retention) <= {Retention.PUBLISHED.value}
    return {
        "evidence_counts": counts,
        "copies": [] if is_permanent else index.files.copies(row),
        "probe_summary": index.locations.probe_summary(row)
        if row.indexed and row.files <= _MAX_PROBED_FILES
        else None,
    }
