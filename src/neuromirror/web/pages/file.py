"""The page of a file: checksums, locations, history and other occurrences."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from neuromirror.index import FileRow, Index, VersionRow, shapes
from neuromirror.model import alias_of
from neuromirror.model.records import is_volume
from neuromirror.web.addresses import gateway_address
from neuromirror.web.occurrences import other_occurrences
from neuromirror.web.pages.file_download import (
    MAX_LOCATIONS,
    DownloadPlan,
    plan_download,
    plan_with_copy,
)
from neuromirror.web.pages.viewers import GatewayLinks, file_viewers
from neuromirror.web.request import CatalogueRequest, view

_MAX_OTHER_LOCATIONS = 100


@view
async def file(request: CatalogueRequest) -> Response:
    """Show a file with its checksums, locations, history and other occurrences."""
    (name, label), path = request.version_name, request.query_parameter("path")

    previews, gateway = request.site.previews, request.site.gateway
    links = GatewayLinks(request.site_url, gateway.modes)

    def look(index: Index) -> tuple[VersionRow, FileRow, bool, DownloadPlan, dict[str, Any]]:
        row = index.resolve(name, label)
        found = index.file(row, path)
        others, more = other_occurrences(index, row, found, _MAX_OTHER_LOCATIONS)
        locations = index.locations(found.content, limit=MAX_LOCATIONS + 1)
        spans = index.content_spans(row, path)
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
                "is_volume": is_volume(row.source_uri, index.links(row.dataset_name)),
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
