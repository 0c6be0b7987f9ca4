"""The page of a file, and its previews."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from neuromirror.index import FileRow, Index, VersionRow, shapes
from neuromirror.model import alias_of
from neuromirror.model.records import is_volume
from neuromirror.previews import Preview
from neuromirror.web.addresses import gateway_address
from neuromirror.web.lookups import other_occurrences
from neuromirror.web.pages.downloads import (
    MAX_LOCATIONS,
    DownloadPlan,
    plan_download,
    plan_with_copy,
)
from neuromirror.web.pages.folders import GatewayLinks, file_viewers
from neuromirror.web.previews import PreviewSource, PreviewUnavailableError, ZarrFolder, find_zarr
from neuromirror.web.request import CatalogueRequest, view

_CACHE_CONTROL = "public, max-age=3600"


@view
async def preview(request: CatalogueRequest) -> Response:
    """Show the preview of a file, or why there is none."""
    shown, row, file = await _file(request)
    found, message, status = await _outcome(request, row, file)
    if request.query_parameter("embedded"):
        status = 200  # for the script of the file's page, which shows the message
    reply = await request.render_page(
        "preview",
        status,
        version=shapes.Version.of(shown).plain(),
        file={"path": file.path},
        is_zarr=isinstance(file, ZarrFolder),
        preview=found,
        preview_message=message,
    )
    if status == 503:
        reply.headers["retry-after"] = "30"
    return reply


@view
async def thumbnail(request: CatalogueRequest) -> Response:
    """Return the image of a file's preview; without a preview, an image that is neutral."""
    _, row, file = await _file(request)
    found, _, _ = await _outcome(request, row, file)
    if found is None or found.picture is None:
        text = await request.render_template("no_picture.svg")
        return Response(text, 200, {"cache-control": "no-store"}, "image/svg+xml")
    headers = {"cache-control": _CACHE_CONTROL, "content-length": str(len(found.picture.data))}
    return Response(found.picture.data, 200, headers, found.picture.media_type)


async def _file(request: CatalogueRequest) -> tuple[VersionRow, VersionRow, PreviewSource]:
    """Return the version of the page, the one with the file, and the file or Zarr."""
    (name, label), path = request.version_name, request.query_parameter("path")

    def look(index: Index) -> tuple[VersionRow, VersionRow, PreviewSource]:
        row = index.versions.resolve(name, label)
        zarr = find_zarr(index, row, path)
        return (row, *zarr) if zarr is not None else (row, row, index.files.get(row, path))

    return await request.query_index(look)


async def _outcome(
    request: CatalogueRequest, row: VersionRow, file: PreviewSource
) -> tuple[Preview | None, str, int]:
    """Return a preview, or a message and the HTTP status."""
    try:
        return await request.site.previews.preview(row, file), "", 200
    except PreviewUnavailableError as error:
        return None, str(error), error.status


_MAX_OTHER_LOCATIONS = 100


@view
async def file(request: CatalogueRequest) -> Response:
    """Show a file with its checksums, locations, history and other occurrences."""
    (name, label), path = request.version_name, request.query_parameter("path")

    previews, gateway = request.site.previews, request.site.gateway
    links = GatewayLinks(request.site_url, gateway.modes)

    def look(index: Index) -> tuple[VersionRow, FileRow, bool, DownloadPlan, dict[str, Any]]:
        row = index.versions.resolve(name, label)
        found = index.files.get(row, path)
        others, more = other_occurrences(index, row, found, _MAX_OTHER_LOCATIONS)
        locations = index.locations.of(found.content, limit=MAX_LOCATIONS + 1)
        spans = index.files.content_spans(row, path)
        plan = plan_download(gateway, row, found, locations, spans)
        is_delivered = gateway.can_deliver(row, found, locations)
        is_proxied = is_delivered and gateway.modes.of(row.mirror) == "proxy"
        own = request.site_url + gateway_address(row.dataset_name, row.label, path)
        return (
            row,
            found,
            is_delivered,
            plan,
            {
                "version": shapes.Version.of(row).plain(),
                "file": shapes.File.of(found).plain(),
                "part_size": found.part_size,
                "locations": locations[:MAX_LOCATIONS],
                "has_more_locations": len(locations) > MAX_LOCATIONS,
                "has_preview": previews.is_possible(found),
                "has_picture": previews.has_picture(found),
                "is_volume": is_volume(row.source_uri, index.datasets.links(row.dataset_name)),
                "download": own
                if is_proxied
                else next(iter(gateway.visitor_urls(row, locations)), ""),
                "spans": list(reversed(spans)),
                "other_occurrences": [shapes.Occurrence.of(one).plain() for one in others],
                "has_more_occurrences": more,
            },
        )

    row, found, is_delivered, plan, context = await request.query_index(look)
    plan = await plan_with_copy(gateway, row, found, plan)
    if plan.is_copy:
        context["download"] = plan.urls[0]
        is_delivered = is_delivered or gateway.modes.of(row.mirror) == "redirect"
    pinned_url = links.url(row, path) if is_delivered else ""
    context |= {
        "viewers": file_viewers(row, path, context["locations"], pinned_url),
        "is_verified": plan.is_relayed,
        "is_copy": plan.is_copy,
        "saved_name": plan.saved_name(path),
        "may_open": plan.may_open(path),
    }
    return await request.render_page("file", alias=alias_of(name), **context)
