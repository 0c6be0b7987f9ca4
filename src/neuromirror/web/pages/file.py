"""The page of a file: checksums, locations, history and other occurrences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, unquote

from datasette.utils.asgi import Response

from neuromirror.index import Index, LocationRow, shapes
from neuromirror.model import alias_of
from neuromirror.model.volumes import is_volume
from neuromirror.web.addresses import gateway_address
from neuromirror.web.occurrences import other_occurrences
from neuromirror.web.pages.viewers import GatewayLinks, file_viewers, is_web
from neuromirror.web.request import CatalogueRequest, PageNotFoundError, view

_MAX_LOCATIONS = 100
_URL_SAFE = "%/:=&?~#+!$,;'@()*[]"
"""Characters of a URL that are not quoted in the header of a redirect."""
_MAX_OTHER_LOCATIONS = 100


@view
async def file(request: CatalogueRequest) -> Response:
    """Show a file with its checksums, locations, history and other occurrences."""
    name, label, path = (
        request.path_parameter("name"),
        request.path_parameter("label"),
        request.query_parameter("path"),
    )

    previews, gateway = request.site.previews, request.site.gateway
    links = GatewayLinks(request.base_url, gateway.modes)

    def look(index: Index) -> dict[str, Any]:
        row = index.resolve(name, label)
        found = index.file(row, path)
        others, more = other_occurrences(index, row, found, _MAX_OTHER_LOCATIONS)
        locations = index.locations(found.content, limit=_MAX_LOCATIONS + 1)
        is_delivered = gateway.can_deliver(row, found, locations)
        is_verified = is_delivered and gateway.modes.of(row.mirror) == "proxy"
        own = request.base_url + gateway_address(row.dataset_name, row.label, path)
        return {
            "version": shapes.Version.of(row).plain(),
            "file": shapes.File.of(found).plain(),
            "locations": locations[:_MAX_LOCATIONS],
            "has_more_locations": len(locations) > _MAX_LOCATIONS,
            "has_preview": previews.is_possible(found),
            "viewers": file_viewers(
                row, path, locations, links.url(row, path) if is_delivered else ""
            ),
            "is_verified": is_verified,
            "is_volume": is_volume(row.source_uri, index.links(row.dataset_name)),
            "download": (address := own if is_verified else _download_url(locations)),
            "stored_name": unquote(address.partition("?")[0].rpartition("/")[2]),
            "spans": list(reversed(index.content_spans(row, path))),
            "other_occurrences": [shapes.Occurrence.of(one).plain() for one in others],
            "has_more_occurrences": more,
        }

    return await request.render_page(
        "file", alias=alias_of(name), **await request.query_index(look)
    )


@view
async def download(request: CatalogueRequest) -> Response:
    """Redirect to the content of a file: in the gateway if that verifies it, else at the archive.

    At the archive, its object version is preferred.
    """
    name, label, path = (
        request.path_parameter("name"),
        request.path_parameter("label"),
        request.query_parameter("path"),
    )

    gateway = request.site.gateway

    def look(index: Index) -> str:
        row = index.resolve(name, label)
        found = index.file(row, path)
        locations = index.locations(found.content, limit=_MAX_LOCATIONS)
        is_proxy = gateway.modes.of(row.mirror) == "proxy"
        if is_proxy and gateway.can_deliver(row, found, locations):
            return gateway_address(row.dataset_name, row.label, path)
        return _download_url(locations)

    url = await request.query_index(look)
    if not url:
        raise PageNotFoundError(
            "this file has no known location from which a browser can download; a clone may "
            "still be able to get it"
        )
    return Response.redirect(quote(url, safe=_URL_SAFE))


def _download_url(locations: Sequence[LocationRow]) -> str:
    """Return the best web location that did not fail the last check; empty without one."""
    return next(
        (one.url for one in locations if is_web(one.url) and one.result in (None, "ok")), ""
    )
