"""The previews of files: a page, which the page of the file includes, and thumbnails."""

from __future__ import annotations

from starlette.responses import Response

from neuromirror.index import Index, VersionRow, shapes
from neuromirror.previews import Preview
from neuromirror.web.previews import (
    PreviewSource,
    PreviewUnavailableError,
    ZarrFolder,
    find_zarr,
)
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
        row = index.resolve(name, label)
        zarr = find_zarr(index, row, path)
        return (row, *zarr) if zarr is not None else (row, row, index.file(row, path))

    return await request.query_index(look)


async def _outcome(
    request: CatalogueRequest, row: VersionRow, file: PreviewSource
) -> tuple[Preview | None, str, int]:
    """Return a preview, or a message and the HTTP status."""
    try:
        return await request.site.previews.preview(row, file), "", 200
    except PreviewUnavailableError as error:
        return None, str(error), error.status
