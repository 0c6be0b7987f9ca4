"""The page of a file: checksums, locations, history and other occurrences."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote, unquote

from datasette.utils.asgi import Response

from neuromirror.index import Index, LocationRow, VersionRow, shapes
from neuromirror.model import alias_of
from neuromirror.model.volumes import is_volume
from neuromirror.web.addresses import gateway_address
from neuromirror.web.gateway.errors import ContentUnavailableError
from neuromirror.web.gateway.service import GatewayService, StoredFile, public_urls
from neuromirror.web.occurrences import other_occurrences
from neuromirror.web.pages.viewers import GatewayLinks, file_viewers
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

    def look(index: Index) -> tuple[VersionRow, bool, dict[str, Any]]:
        row = index.resolve(name, label)
        found = index.file(row, path)
        others, more = other_occurrences(index, row, found, _MAX_OTHER_LOCATIONS)
        locations = index.locations(found.content, limit=_MAX_LOCATIONS + 1)
        is_delivered = gateway.can_deliver(row, found, locations)
        is_verified = is_delivered and gateway.modes.of(row.mirror) == "proxy"
        own = request.base_url + gateway_address(row.dataset_name, row.label, path)
        return (
            row,
            is_delivered,
            {
                "version": shapes.Version.of(row).plain(),
                "file": shapes.File.of(found).plain(),
                "locations": locations[:_MAX_LOCATIONS],
                "has_more_locations": len(locations) > _MAX_LOCATIONS,
                "has_preview": previews.is_possible(found),
                "is_verified": is_verified,
                "is_volume": is_volume(row.source_uri, index.links(row.dataset_name)),
                "download": own if is_verified else _download_url(locations),
                "spans": list(reversed(index.content_spans(row, path))),
                "other_occurrences": [shapes.Occurrence.of(one).plain() for one in others],
                "has_more_occurrences": more,
            },
        )

    row, is_delivered, context = await request.query_index(look)
    download = context["download"]
    is_copy = not download and bool(download := await _copy_url(gateway, row, path))
    is_delivered = is_delivered or (is_copy and gateway.modes.of(row.mirror) == "redirect")
    pinned_url = links.url(row, path) if is_delivered else ""
    context |= {
        "viewers": file_viewers(row, path, context["locations"], pinned_url),
        "download": download,
        "is_copy": is_copy,
        "stored_name": unquote(download.partition("?")[0].rpartition("/")[2]),
    }
    return await request.render_page("file", alias=alias_of(name), **context)


@view
async def download(request: CatalogueRequest) -> Response:
    """Redirect to the content of a file: in the gateway if that verifies it, else at the archive.

    At the archive, its object version is preferred; without a location there, a copy in a vault.
    """
    name, label, path = (
        request.path_parameter("name"),
        request.path_parameter("label"),
        request.query_parameter("path"),
    )

    gateway = request.site.gateway

    def look(index: Index) -> tuple[VersionRow, str]:
        row = index.resolve(name, label)
        found = index.file(row, path)
        locations = index.locations(found.content, limit=_MAX_LOCATIONS)
        is_proxy = gateway.modes.of(row.mirror) == "proxy"
        if is_proxy and gateway.can_deliver(row, found, locations):
            return row, gateway_address(row.dataset_name, row.label, path)
        return row, _download_url(locations)

    row, url = await request.query_index(look)
    url = url or await _copy_url(gateway, row, path)
    if not url:
        raise PageNotFoundError(
            "this file has no known location from which a browser can download; a clone may "
            "still be able to get it"
        )
    return Response.redirect(quote(url, safe=_URL_SAFE))


async def _copy_url(gateway: GatewayService, row: VersionRow, path: str) -> str:
    """Return the URL of a copy in a vault, for a file without a usable one in the index."""
    with suppress(ContentUnavailableError):  # the store is damaged
        found = await gateway.find_file(row, path)
        if isinstance(found, StoredFile):
            return next(iter(await gateway.public_urls(row, found.file)), "")
    return ""


def _download_url(locations: Sequence[LocationRow]) -> str:
    """Return the best web location that did not fail the last check; empty without one."""
    return next(iter(public_urls(locations)), "")
