"""oEmbed descriptions, with which other sites show a preview of a volume, a file or a dataset."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

from datasette.utils.asgi import Response
from msgspec import Struct

from neuromirror.index import FileRow, Index, VersionRow
from neuromirror.model.volumes import is_volume
from neuromirror.volume import (
    CutoutTooLargeError,
    UnreadableVolumeError,
    middle_plane,
)
from neuromirror.web.addresses import slice_address, thumbnail_address
from neuromirror.web.previews import PreviewSource, PreviewUnavailableError, find_zarr
from neuromirror.web.request import BadRequestError, CatalogueRequest, view
from neuromirror.web.version_comparison import split_version_name
from neuromirror.web.volume_shapes import describe_volume

_PAGES: Final = ("/volume/", "/dataset/", "/file/", "/preview/")
_MAX_PIXELS: Final = 1_000_000


class _Shown(Struct, frozen=True):
    """The resource of a URL: a volume, or the preview of a file or Zarr, or neither."""

    row: VersionRow
    volume: bool = False
    path: str = ""
    source: tuple[VersionRow, PreviewSource] | None = None


@view
async def oembed(request: CatalogueRequest) -> Response:
    """Return the oEmbed description of a page: a photo if it has a preview, or a link."""
    if request.query_parameter("format", "json") != "json":
        raise BadRequestError("this catalogue has oEmbed in format=json only")
    page, dataset, label, path = _parse(request.query_parameter("url"))
    width = request.integer_parameter("maxwidth", _MAX_PIXELS, _MAX_PIXELS)
    height = request.integer_parameter("maxheight", _MAX_PIXELS, _MAX_PIXELS)
    shown = await request.query_index(
        lambda index: _find(request, index, page, dataset, label, path)
    )
    photo = await (_slice(request, shown.row) if shown.volume else _picture(request, shown))
    if photo is not None and (photo["width"] > width or photo["height"] > height):
        photo = None  # there is no smaller one
    return request.json_response(
        {
            "version": "1.0",
            **({"type": "link"} if photo is None else {"type": "photo", **photo}),
            "title": " ".join(filter(None, (shown.row.title or shown.row.name, shown.path))),
            "provider_name": request.site.title,
            "provider_url": f"{request.base_url}/",
        }
    )


def _parse(url: str) -> tuple[str, str, str, str]:
    """Return the kind of the page at a URL, and dataset, label and path."""
    parts = urlsplit("")
    with suppress(ValueError):
        parts = urlsplit(url if url.isprintable() else "")
    for start in _PAGES:
        if parts.path.startswith(start):
            dataset, label = split_version_name(unquote(parts.path.removeprefix(start)))
            path = parse_qs(parts.query).get("path", [""])[0]
            return start, dataset, label or "latest", path
    raise BadRequestError(
        "url must be that of a page of this catalogue, such as /volume/<dataset>@<version> or "
        "/file/<dataset>@<version>?path=<path>"
    )


def _find(
    request: CatalogueRequest, index: Index, page: str, dataset: str, label: str, path: str
) -> _Shown:
    row = index.resolve(dataset, label)
    if page == "/volume/":
        return _Shown(row, volume=True)
    if page == "/dataset/":
        if is_volume(row.source_uri, index.links(dataset)):
            return _Shown(row, volume=True)
        found = request.site.previews.find_pictured(index, row)
        if found is None:
            return _Shown(row)
        path = found
    zarr = find_zarr(index, row, path)
    file: FileRow | None = None if zarr else index.file(row, path)
    source = zarr or (None if file is None else (row, file))
    return _Shown(row, path=path, source=source)


async def _slice(request: CatalogueRequest, row: VersionRow) -> dict[str, Any] | None:
    """Return the picture of a volume's middle plane; None if this catalogue cannot make it."""
    found = await describe_volume(request, row)
    try:
        plane = middle_plane(found)
    except (UnreadableVolumeError, CutoutTooLargeError):
        return None
    if not request.site.cutouts.is_possible:
        return None
    (x0, x1), (y0, y1), _ = plane.cutout.region.box
    return {
        "url": request.base_url + slice_address(row.dataset_name, row.label),
        "width": -(-(x1 - x0) // plane.step),
        "height": -(-(y1 - y0) // plane.step),
    }


async def _picture(request: CatalogueRequest, shown: _Shown) -> dict[str, Any] | None:
    """Return the picture of a preview; None if it has none, or cannot be made now."""
    if shown.source is None:
        return None
    try:
        found = await request.site.previews.preview(*shown.source)
    except PreviewUnavailableError:
        return None
    if found.picture is None:
        return None
    row = shown.row
    return {
        "url": request.base_url + thumbnail_address(row.dataset_name, row.label, shown.path),
        "width": found.picture.width,
        "height": found.picture.height,
    }
